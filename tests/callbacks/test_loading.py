"""What a thread opens while training goes on."""

import threading
import time

import pytest

from realm_train.callbacks.loading import READY, REFUSED, UNDER_WAY, Background, Loading


def until_done(work):
    deadline = time.monotonic() + 10
    while work.state() == UNDER_WAY:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return work


def test_work_is_under_way_until_it_is_done_and_nobody_waits_for_it():
    go = threading.Event()
    work = Background(lambda: go.wait(10) and "done")
    assert work.state() == UNDER_WAY
    go.set()
    assert until_done(work).state() == READY and work.result() == "done" and work.error() is None


def test_what_work_raises_is_kept_for_whoever_asks():
    def fail():
        raise ValueError("no")

    work = until_done(Background(fail))
    assert work.state() == REFUSED and str(work.error()) == "no"
    with pytest.raises(ValueError, match="no"):
        work.result()


def test_it_runs_in_a_thread_that_ends_with_it():
    before = threading.active_count()
    work = Background(threading.get_ident)
    assert work.result() != threading.get_ident()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == before


def test_a_version_that_is_not_there_yet_is_waited_for_and_then_opened_once():
    looks, opened = [], []

    def there():
        assert not opened
        looks.append(None)
        return len(looks) == 3

    loading = Loading(7, there=there, open=lambda version: opened.append(version) or "index")
    assert loading.result() == "index" and opened == [7] and len(looks) == 3 and loading.version == 7


def test_a_version_that_never_comes_is_opened_in_the_end_so_that_the_error_says_so():
    def missing(version):
        raise FileNotFoundError(version)

    loading = until_done(Loading(7, there=lambda: False, open=missing, visible_seconds=0.2))
    assert loading.state() == REFUSED and isinstance(loading.error(), FileNotFoundError)


def test_a_process_that_ends_does_not_wait_for_a_version_that_never_comes():
    def missing(version):
        raise FileNotFoundError(version)

    started = time.monotonic()
    loading = Loading(7, there=lambda: False, open=missing, visible_seconds=600.0)
    loading.give_up()
    assert until_done(loading).state() == REFUSED and time.monotonic() - started < 5
