"""wandb for real, offline: what is logged lands in a run folder, and a resumed run keeps its id."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import series

WANDB = ["wandb={project: test}", "stages=[ict]"]


HEADER, BLOCK = 7, 32768  # bytes: of the file and of each chunk (checksum, length, type), and of a block of chunks


def records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, which are in LevelDB's log format."""
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def written(path: Path) -> list:
    """The records of a finished .wandb file; wandb's own process may still be writing its last ones."""
    from wandb.proto.wandb_internal_pb2 import Record

    until = time.monotonic() + 20
    while True:
        found = [Record.FromString(data) for data in records(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < until, f"{path} has no end"
        time.sleep(0.05)


def logged(run: Path, metric: str) -> list[float]:
    """What the offline run folders hold of a metric, in the order of writing."""
    values = []
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in written(path):
            items = record.history.item if record.WhichOneof("record_type") == "history" else ()
            values += [json.loads(item.value_json) for item in items if metric in (item.key, *item.nested_key)]
    return values


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.filterwarnings("ignore:cold start")
def test_stages_share_a_wandb_run_and_runs_do_not(train, offline):
    run, other = train("wandb={project: test}"), train(*WANDB, "ict.steps=1", run="other")
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.stem == f"run-{(run / 'wandb.id').read_text()}"
    wanted = [value for stage in ("ict", "pretrain") for _, value in series(run, stage, "loss")]
    assert len(wanted) == 5 and logged(run, "loss") == wanted
    assert (run / "wandb.id").read_text() != (other / "wandb.id").read_text()
    assert logged(other, "loss") == [value for _, value in series(other, "ict", "loss")]


def test_an_offline_run_holds_the_steps_and_goes_on_under_its_id(train, offline):
    run = train(*WANDB)
    name = (run / "wandb.id").read_text()
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.stem == f"run-{name}"
    assert logged(run, "loss") == [value for _, value in series(run, "ict", "loss")]
    assert logged(run, "trainer/global_step")[:2] == [0, 1]
    (run / "checkpoints" / "ict" / "DONE").unlink()
    train(*WANDB, "ict.steps=4", "ckpt_path=last")
    assert (run / "wandb.id").read_text() == name
    assert {path.stem for path in (run / "wandb").glob("offline-run-*/run-*.wandb")} == {f"run-{name}"}
    assert logged(run, "loss") == [value for _, value in series(run, "ict", "loss")]
    assert len(logged(run, "loss")) == 4
