"""A seed decides a run, bit for bit."""

import pytest
from tiny_run import equal, facts, series, weights

pytestmark = pytest.mark.filterwarnings("ignore:cold start")


def test_a_seed_gives_the_same_run_twice_to_the_last_bit_and_another_seed_another(train):
    """Both stages, with dropout, accumulated gradients and a new index under way."""
    first, second, other = train("seed=3", run="first"), train("seed=3", run="second"), train("seed=4", run="other")
    for stage, steps in (("ict", 2), ("pretrain", 3)):
        assert len(series(first, stage, "loss")) == steps
        assert facts(first, stage) == facts(second, stage)
        assert equal(weights(first, stage), weights(second, stage))
        ours, theirs = (dict(series(run, stage, "loss")) for run in (first, other))
        assert ours.keys() == theirs.keys() and not set(ours.values()) & set(theirs.values())


def test_micro_batches_change_no_loss_beyond_rounding(train):
    words = ["stages=[pretrain]", "model.dropout=0.0", "pretrain.steps=3"]
    whole = train(*words, "pretrain.micro_batch_size=4", run="whole")
    parts = train(*words, "pretrain.micro_batch_size=1", run="parts")
    losses = [[value for _, value in series(run, "pretrain", "loss")] for run in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    ours, theirs = weights(whole, "pretrain"), weights(parts, "pretrain")
    # an entry whose gradient is rounding noise may step either way in Adam, by at most the learning rate a step
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 3 * 3e-5
