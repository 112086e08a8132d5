"""A run's provenance survives being resumed, and tells the truth about code and clock."""

import json
import subprocess
import time
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch

from realm_train.callbacks import provenance
from realm_train.callbacks.provenance import stage_done, start
from realm_train.callbacks.stage_clock import StageClock
from realm_train.errors import BadInput


def on_disk(folder):
    return json.loads((folder / "provenance.json").read_text())


def test_a_start_says_code_versions_machine_command_and_data(tmp_path):
    start(tmp_path / "run", command="train x=1", data={"corpus": "abc"}, prepare={"passages": 3.5})
    record = on_disk(tmp_path / "run")
    assert record["command"] == "train x=1" and record["data"] == {"corpus": "abc"}
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["hardware"]["threads"] == torch.get_num_threads() and record["hardware"]["memory_gib"] > 0
    assert record["stages"] == {"prepare": {"passages": 3.5}}


def test_a_resumed_run_keeps_its_first_start_and_its_stages(tmp_path):
    first = start(tmp_path, command="first", data={"corpus": "abc"})
    stage_done(tmp_path, "ict", seconds=12.0, steps=100)
    start(tmp_path, command="second", data={"corpus": "abc"})
    record = on_disk(tmp_path)
    assert (record["command"], record["started"]) == ("first", first["started"])
    assert record["stages"]["ict"] == {"seconds": 12.0, "steps": 100}
    assert [again["command"] for again in record["resumed"]] == ["second"]


def test_the_commit_is_the_code_s_and_dirty_says_whether_it_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )

    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance._code() == {"commit": None, "dirty": None}
    git("init", "-q")
    (tmp_path / "provenance.py").write_text("one")
    git("add", ".")
    git("commit", "-qm", "one")
    assert provenance._code() == {"commit": git("rev-parse", "HEAD").stdout.strip(), "dirty": False}
    (tmp_path / "provenance.py").write_text("two")
    assert provenance._code()["dirty"] is True


def test_a_broken_record_is_refused_and_kept(tmp_path):
    (tmp_path / "provenance.json").write_text("{half")
    with pytest.raises(BadInput, match="provenance.json"):
        start(tmp_path, command="x", data={})
    assert (tmp_path / "provenance.json").read_text() == "{half"


def test_the_clock_counts_both_parts_of_a_resumed_stage(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    trainer, module = Mock(spec=pl.Trainer, is_global_zero=True, global_step=50), pl.LightningModule()
    first = StageClock(tmp_path, stage="ict")
    first.on_train_start(trainer, module)
    now[0] += 30
    saved = first.state_dict()
    second = StageClock(tmp_path, stage="ict")
    second.load_state_dict(saved)
    now[0] += 1000
    second.on_train_start(trainer, module)
    now[0] += 12
    second.on_train_end(trainer, module)
    assert on_disk(tmp_path)["stages"]["ict"] == {"seconds": 42.0, "steps": 50}
