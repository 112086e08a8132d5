"""What the kernel says of this process, against memory that is known to be taken."""

from __future__ import annotations

import mmap
import time

import pytest

from realm_train.evaluation.footprint import Watch, footprint, forget_peak

TAKEN, SLACK = 64 * 2**20, 8 * 2**20

pytestmark = pytest.mark.skipif(not footprint(), reason="no /proc/self/status here")


def touched(size: int) -> mmap.mmap:
    """Anonymous memory, every page of it there."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, size, mmap.PAGESIZE):
        pages[place] = 1
    return pages


def test_taken_memory_is_private_and_a_mapped_file_is_not(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * TAKEN)
    before = footprint()
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        pages = touched(TAKEN)
        after = footprint()
        pages.close()
    assert after["private"] - before["private"] == pytest.approx(TAKEN, abs=SLACK)
    assert after["mapped"] - before["mapped"] == pytest.approx(TAKEN, abs=SLACK)


def test_the_peak_outlives_the_memory_until_it_is_forgotten():
    touched(TAKEN).close()
    assert footprint()["peak"] - footprint()["resident"] > TAKEN - SLACK
    forget_peak()
    assert footprint()["peak"] - footprint()["resident"] < SLACK


def test_a_watch_knows_the_peak_at_a_time():
    forget_peak()
    with Watch(every=0.01) as watch:
        time.sleep(0.05)
        between = time.time()
        pages = touched(TAKEN)
        time.sleep(0.05)
        pages.close()
    assert watch.at(time.time()) - watch.at(between) == pytest.approx(TAKEN, abs=SLACK)


def test_a_process_that_is_gone_has_none():
    assert footprint(2**22 + 1) == {}
