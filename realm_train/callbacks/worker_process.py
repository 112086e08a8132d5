"""The refresh process of a run, started, watched and started again by its trainer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from realm_train.callbacks.refresh_plan import RefreshPlan

LONGEST_BACKOFF = 300.0  # seconds


class WorkerProcess:
    """`python -m realm_train.refresh run=…`, which ends with this process.

    One that dies is reported with its log's last lines, and started again after a while that doubles each time, until
    it has died `plan.restarts` times without publishing a version; training goes on with the old index.
    """

    def __init__(self, run: Path, plan: RefreshPlan) -> None:
        self.run, self.plan = run, plan
        self.log_path = run / "refresh.log"
        self.deaths = 0  # since the last version
        self._published: int | None = None
        self._start_at: float | None = None  # monotonic seconds, while none runs
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        threads = {"OMP_NUM_THREADS": str(self.plan.threads), "MKL_NUM_THREADS": str(self.plan.threads)}
        ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")  # the trainer's, not the worker's
        inherited = {name: value for name, value in os.environ.items() if name not in ranks}
        with self.log_path.open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "realm_train.refresh", f"run={self.run}", f"parent={os.getpid()}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, **threads},
            )

    def tend(self, published: int | None) -> bool:
        """Whether it runs; reports a death, and starts it again when its time has come. `published` is the newest
        version, which shows that the work goes on."""
        if published != self._published:
            self._published, self.deaths = published, 0
        if self._start_at is None and self.process.poll() is not None:
            self._died()
        if self._start_at is not None and time.monotonic() >= self._start_at:
            self._start_at, self.process = None, self._start()
        return self._start_at is None

    @property
    def given_up(self) -> bool:
        """Whether it has died too often to be started again."""
        return self._start_at == float("inf")

    def _died(self) -> None:
        self.deaths += 1
        if self.deaths > self.plan.restarts:
            self._start_at, then = float("inf"), "it died too often to be started again"
        else:
            wait = min(self.plan.backoff_seconds * 2 ** (self.deaths - 1), LONGEST_BACKOFF)
            self._start_at = time.monotonic() + wait
            then = f"it is started again in {wait:g} s ({self.deaths} of {self.plan.restarts})"
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        print(
            f"index: the refresh process ended with code {self.process.returncode}; training goes on with the old"
            f" index, and {then}. Its last lines ({self.log_path}):\n  " + "\n  ".join(lines),
            flush=True,
        )

    def stop(self) -> None:
        """Ends the worker, which has been told to end, if it does not do so by itself."""
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
