"""Training and another process: what is adopted at which step, what is refused, and what happens when nothing comes."""

import dataclasses
import threading
import time
import warnings

import pytest
import torch
from light_run import COUNT, DIM, LightRun, Passages, make_encode, tensors_at, use_light_encoder, vectors_at

from realm_train.callbacks import refresh
from realm_train.callbacks.adoption import refresher
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.errors import BadInput
from realm_train.index.exact import Exact
from realm_train.index.snapshot import latest_snapshot, read_snapshot, tower_hash
from realm_train.index.store import IndexStore

JOB = RefreshPlan(mode="job", every=4, keep=9, patience_seconds=10.0)


@pytest.fixture(autouse=True)
def light(monkeypatch):
    use_light_encoder(monkeypatch.setattr)


@pytest.fixture
def begin(tmp_path):
    """`begin(adopt_lag=2, …)`: a run with a job that is not there unless `encode` says so."""

    def begin(**settings) -> LightRun:
        run = LightRun(tmp_path, dataclasses.replace(JOB, **settings))
        run.start()
        return run

    return begin


def wait(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def encode(run, step):
    """What the other process does with the snapshot of this step; returns the version."""
    wait(lambda: latest_snapshot(run.callback.snapshots, newer_than=step - 1) is not None)
    snapshot = read_snapshot(run.callback.snapshots / f"s{step:06d}")
    work = refresher(IndexStore(run.folder / "index"), Passages(), DIM, run.plan, Exact())
    return work.refresh(make_encode(snapshot.tensors), step=snapshot.step, tower=snapshot.tower)["version"]


def plant(run, *, step, tower, corpus=None):
    """A version from elsewhere."""
    store = IndexStore(run.folder / "index")
    vectors = vectors_at(step, seed=1).numpy()
    kept = {"count": COUNT, "dim": DIM, "dtype": "float32", "corpus": corpus or Passages().hash}
    return store.publish([vectors], trained_step=step, tower=tower, seconds=0.0, keep=99, **kept)


def steps(run, count):
    return [run.step() for _ in range(count)]


def settle(run):
    """Whatever is being opened is open."""
    if run.callback._loading is not None:
        wait(lambda: run.callback._loading.state() != 0)


def adopted_soon(run):
    """Steps until an index is adopted; how many it took."""
    version = run.callback.version
    for taken in range(1, 50):
        if run.step()["version"] != version:
            return taken
        settle(run)
    raise AssertionError(run.line())


def test_steps_go_on_while_a_version_is_opened_and_the_first_one_after_that_adopts_it(begin, monkeypatch):
    run = begin()
    steps(run, 5)
    assert encode(run, 4) == 1
    go, open_it = threading.Event(), run.callback._open
    monkeypatch.setattr(run.callback, "_open", lambda *args, **settings: go.wait(10) and open_it(*args, **settings))
    assert {line["trained_step"] for line in steps(run, 4)} == {0}
    go.set()
    settle(run)
    assert run.step() == {"step": 10, "version": 1, "trained_step": 4, "age": 6.0}


def test_nothing_older_than_the_index_in_use_is_ever_adopted(begin):
    run = begin()
    steps(run, 5)
    encode(run, 4)
    adopted_soon(run)
    plant(run, step=2, tower=tower_hash(tensors_at(2)))
    (run.callback.store.folder(1) / "manifest.json").rename(run.folder / "taken")
    assert {line["version"] for line in steps(run, 6)} == {1}


REFUSED = {
    "damaged": lambda run: (run.callback.store.folder(encode(run, 4)) / "embeddings.npy").write_bytes(b"rubbish"),
    "of another corpus": lambda run: plant(run, step=4, tower=tower_hash(tensors_at(4)), corpus="decaf"),
    "of another tower": lambda run: plant(run, step=4, tower="f" * 64),
    "of a step to come": lambda run: plant(run, step=400, tower="f" * 64),
}


@pytest.mark.parametrize("lag", [None, 3])
@pytest.mark.parametrize("what", REFUSED)
def test_a_version_that_is_not_ours_is_put_aside_and_made_again(begin, capsys, what, lag):
    run = begin(adopt_lag=lag)
    steps(run, 4)
    REFUSED[what](run)
    folder = run.callback.store.folder(1)
    assert folder.exists()
    run.step()
    settle(run)
    helper = threading.Thread(target=lambda: (wait(lambda: not folder.exists()), encode(run, 4)))
    helper.start()
    taken = adopted_soon(run)
    helper.join()
    (aside,) = (run.folder / "index").glob("refused-v000001-*")
    assert any(aside.iterdir()) and run.callback.trained_step == 4 and run.callback.version == 2
    assert lag is None or taken == 2  # at step 7, as if nothing had been
    said = capsys.readouterr().out
    assert said.count(f"version 1 is not adopted but put aside as {aside.name}") == 1


def test_what_is_refused_again_and_again_is_made_again_three_times_and_then_left(begin, capsys):
    run = begin()
    for _ in range(5):
        plant(run, step=400, tower="f" * 64)
        for _ in range(3):
            run.step()
            settle(run)
    assert len(list((run.folder / "index").glob("refused-*"))) == 3
    assert len(run.callback.store.versions()) == 3 and run.callback.version == 0  # the first one, and two that are left
    assert capsys.readouterr().out.count("is not adopted") == 5


def test_a_resumed_run_knows_the_snapshots_that_its_checkpoint_knew(begin):
    run = begin()
    steps(run, 5)  # a checkpoint of step 5; the snapshot of step 4 is still out
    run.step()
    again = begin()
    assert again.trainer.global_step == 5
    encode(again, 4)
    adopted_soon(again)
    assert again.callback.trained_step == 4


@pytest.mark.parametrize("lag", [1, 3, 4])
def test_with_a_lag_every_swap_comes_at_its_step_however_early_or_late_the_version_is(begin, lag):
    run = begin(adopt_lag=lag)
    seen = []
    for snapshot in (4, 8, 12, 16):
        steps(run, snapshot - run.trainer.global_step)
        late = threading.Timer(0.2 if snapshot % 8 else 0.0, encode, [run, snapshot])
        late.start()
        if snapshot % 8 == 0:
            late.join()
        seen += steps(run, lag)
        late.join()
    assert [line["trained_step"] for line in seen if (line["step"] - lag) % 4 == 0] == [4, 8, 12, 16]
    assert all(line["trained_step"] == (line["step"] - lag) // 4 * 4 for line in seen)


def test_with_a_lag_the_version_is_open_before_the_step_that_swaps(begin, monkeypatch):
    run = begin(adopt_lag=3)
    steps(run, 4)
    encode(run, 4)
    run.step()
    settle(run)
    monkeypatch.setattr(run.callback, "_open", lambda *args, **settings: pytest.fail("opened while training waits"))
    steps(run, 1)
    assert run.step()["trained_step"] == 4


def test_training_that_waits_for_a_version_loses_patience_in_one_line_and_keeps_its_checkpoint(begin):
    run = begin(adopt_lag=3, patience_seconds=0.3)
    steps(run, 6)
    with pytest.raises(BadInput, match=r"waited .* at step 7 .* does not come.*refresh.log.*ckpt_path=last"):
        run.step()
    assert [path.name for path in run.checkpoints.glob("*.ckpt")] == ["step-000005.ckpt"]


def test_an_index_that_grows_too_old_is_warned_of_once_until_it_is_young_again(begin):
    run = begin(max_age_steps=6, on_max_age="warn")
    steps(run, 6)
    with pytest.warns(UserWarning, match="7 steps old, more than refresh.max_age_steps=6; training goes on"):
        run.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(run, 3)
        encode(run, 8)
        adopted_soon(run)
    with pytest.warns(UserWarning, match="steps old"):
        steps(run, 8)


def test_an_index_that_grows_too_old_ends_training_in_one_line(begin):
    run = begin(max_age_steps=6, on_max_age="fail")
    steps(run, 6)
    with pytest.raises(BadInput, match=r"7 steps old, more than refresh.max_age_steps=6; see .* ckpt_path=last"):
        run.step()
    assert [path.name for path in run.checkpoints.glob("*.ckpt")] == ["step-000005.ckpt"]


def test_an_index_that_grows_too_old_is_waited_for(begin):
    run = begin(max_age_steps=6, on_max_age="block")
    steps(run, 6)
    slow = threading.Timer(0.4, encode, [run, 4])
    slow.start()
    started = time.monotonic()
    assert run.step() == {"step": 7, "version": 1, "trained_step": 4, "age": 3.0}
    assert time.monotonic() - started > 0.3
    slow.join()


@pytest.mark.parametrize("mode", ["inline", "rolling"])
def test_where_training_encodes_itself_no_policy_is_ever_needed(begin, mode):
    run = begin(mode=mode, max_age_steps=4, on_max_age="fail")
    assert max(line["age"] for line in steps(run, 12)) <= 4


def test_a_version_pruned_before_it_was_opened_is_passed_over_at_once(begin):
    run = begin()
    plant(run, step=1, tower="f" * 64)
    plant(run, step=1, tower="f" * 64)
    run.callback.store.folder(1).rename(run.folder / "pruned")
    loading = run.callback._load(1)  # and not for ten minutes looked for, since there is a newer one
    wait(lambda: loading.state() != 0)
    assert isinstance(loading.error(), BadInput) and "no such index version" in str(loading.error())


def test_a_trainer_that_ends_does_not_wait_for_what_it_was_opening(begin):
    run = begin()
    run.callback._loading = run.callback._load(7)
    threads = threading.active_count()
    run.callback.on_exception(run.trainer, run.task, RuntimeError())
    wait(lambda: threading.active_count() < threads)


def test_the_worker_is_told_when_training_ends_well_and_a_job_only_then(begin):
    run = begin(final=False)
    steps(run, 2)
    run.callback.on_exception(run.trainer, run.task, RuntimeError())
    assert not (run.callback.snapshots / "DONE").exists()
    run.end()
    assert (run.callback.snapshots / "DONE").exists()
    begin()
    assert not (run.callback.snapshots / "DONE").exists()


def test_a_snapshot_that_cannot_be_written_is_reported_and_the_next_one_is(begin, monkeypatch, capsys):
    run = begin()
    write = refresh.write_snapshot

    def full(*args, step, **settings):
        if step == 4:
            raise BadInput("disk full")
        return write(*args, step=step, **settings)

    monkeypatch.setattr(refresh, "write_snapshot", full)
    steps(run, 9)
    encode(run, 8)
    adopted_soon(run)
    assert run.callback.trained_step == 8
    assert capsys.readouterr().out.count("no snapshot of step 4, training goes on with the old index: disk full") == 1


def test_with_a_lag_a_snapshot_that_cannot_be_written_ends_training(begin, monkeypatch):
    run = begin(adopt_lag=2)

    def full(*args, **settings):
        raise BadInput("disk full")

    monkeypatch.setattr(refresh, "write_snapshot", full)
    with pytest.raises(BadInput, match="disk full"):
        steps(run, 6)


def test_weights_that_change_while_their_snapshot_is_written_do_not_change_it(begin, monkeypatch):
    run = begin()
    go, write = threading.Event(), refresh.write_snapshot

    def slowly(*args, **settings):
        assert go.wait(10)
        return write(*args, **settings)

    monkeypatch.setattr(refresh, "write_snapshot", slowly)
    steps(run, 4)
    with torch.no_grad():
        run.task.tower.weight.fill_(9.0)
    go.set()
    encode(run, 4)
    assert torch.equal(run.callback._open(1)[1].vectors, vectors_at(4))
