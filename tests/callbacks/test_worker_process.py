"""The refresh process as its trainer sees it: started, missed, reported, started again, given up, ended."""

import os
import signal
import time

import pytest

from realm_train.callbacks import worker_process
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.callbacks.worker_process import WorkerProcess


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(worker_process.time, "monotonic", clock)
    return clock


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """`worker("exit 3", …)`: a WorkerProcess whose processes run these shell words in place of Python."""
    started = []

    def make(words, **settings):
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\nenv >> {tmp_path}/environment\n{words}\n')
        script.chmod(0o755)
        monkeypatch.setattr(worker_process.sys, "executable", str(script))
        settings = {"restarts": 3, "backoff_seconds": 5.0, "threads": 2} | settings
        started.append(WorkerProcess(tmp_path, RefreshPlan(**settings)))
        return started[-1]

    yield make
    for one in started:
        one.process.kill()
        one.process.wait()


def die(worker):
    """Waits for the process's own end."""
    worker.process.wait(timeout=10)


def test_it_is_started_on_the_run_with_its_threads_and_without_the_trainers_rank(worker, tmp_path, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "3")
    die(worker("exit 0"))
    assert (tmp_path / "arguments").read_text().split() == [
        "-m",
        "realm_train.refresh",
        f"run={tmp_path}",
        f"parent={os.getpid()}",
    ]
    environment = (tmp_path / "environment").read_text().splitlines()
    assert {"OMP_NUM_THREADS=2", "MKL_NUM_THREADS=2"} <= set(environment)
    assert not [line for line in environment if line.startswith(("RANK=", "LOCAL_RANK=", "WORLD_SIZE=", "SLURM_"))]


def test_one_that_lives_is_left_alone(worker, clock):
    alive = worker("exec sleep 60")
    process = alive.process
    for _ in range(3):
        clock.now += 1000
        assert alive.tend(None)
    assert alive.process is process and alive.deaths == 0


def test_a_death_is_reported_with_the_last_lines_and_mended_after_a_while_that_doubles(worker, clock, capsys):
    dying = worker("seq 1 20; echo 'CUDA out of memory'; exit 3")
    waits = []
    for _ in range(3):
        die(dying)
        dead = dying.process
        assert not dying.tend(None) and not dying.tend(None)
        began = clock.now
        while dying.process is dead:
            clock.now += 0.5
            dying.tend(None)
        waits.append(clock.now - began)
    assert waits == [5.0, 10.0, 20.0]
    said = capsys.readouterr().out
    assert said.count("ended with code 3; training goes on with the old index") == 3
    assert "\n  17\n  18\n  19\n  20\n  CUDA out of memory" in said and "\n  16\n" not in said
    assert "started again in 5 s (1 of 3)" in said and "started again in 20 s (3 of 3)" in said


def test_one_that_dies_too_often_is_given_up_and_said_so_once(worker, clock, capsys, tmp_path):
    dying = worker("exit 3", restarts=1)
    die(dying)
    dying.tend(None)
    clock.now += 5.0
    assert dying.tend(None) and not dying.given_up
    die(dying)
    for _ in range(5):
        assert not dying.tend(None)
        clock.now += 10_000
    assert dying.given_up and len((tmp_path / "arguments").read_text().splitlines()) == 2
    assert capsys.readouterr().out.count("died too often to be started again") == 1


def test_a_version_in_between_forgives_earlier_deaths(worker, clock):
    dying = worker("exit 3", restarts=1)
    for version in range(4):
        die(dying)
        dying.tend(version)
        assert dying.deaths == 1 and not dying.given_up
        clock.now += 5.0
        assert dying.tend(version)


def test_no_wait_is_longer_than_five_minutes(worker, clock):
    dying = worker("exit 3", restarts=20)
    for _ in range(10):
        die(dying)
        dying.tend(None)
        clock.now += 300.0
        assert dying.tend(None)


def test_one_that_is_killed_is_a_death_like_any_other(worker, clock, capsys):
    killed = worker("exec sleep 60")
    killed.process.send_signal(signal.SIGKILL)
    die(killed)
    assert not killed.tend(None)
    assert "ended with code -9" in capsys.readouterr().out


def test_stopping_waits_for_one_that_ends_by_itself_and_ends_one_that_does_not(worker):
    by_itself = worker("sleep 0.3; exit 0")
    by_itself.stop()
    assert by_itself.process.returncode == 0
    deaf = worker("exec sleep 60")
    started = time.monotonic()
    deaf.stop()
    assert deaf.process.returncode == -signal.SIGTERM and time.monotonic() - started < 10


def test_stopping_one_that_is_dead_already_is_no_trouble(worker):
    dead = worker("exit 3")
    die(dead)
    dead.stop()
    assert dead.process.returncode == 3
