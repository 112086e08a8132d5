"""The streams that the leakage report draws from are those that training is given."""

import pytest
from spanned import same_batches
from tiny_run import SIZES, STEPS, spans_folder, threads  # noqa: F401

from realm_train.command import compose
from realm_train.data.corpus import Corpus
from realm_train.data.masked import ReadingSentences
from realm_train.stage_examples import STREAMS


@pytest.mark.parametrize("across", [0.0, 0.5])
@pytest.mark.parametrize("stage", list(STREAMS))
def test_a_stage_trains_on_its_stream(stage, across, spans_folder, tmp_path, monkeypatch):  # noqa: F811
    from realm_train import stages

    words = [f"corpus={spans_folder}", f"run={tmp_path}", "refresh=inline", *SIZES, *STEPS]
    cfg = compose("train", *words, "ict.heldout=0", "seed=5", f"ict.across_rate={across}", "mlm.oracle=false")
    given = {}
    monkeypatch.setattr(stages, "fit", lambda trainer, task, examples, *rest: given.update(examples=examples))
    corpus = Corpus(spans_folder)
    stages.STAGES[stage](cfg, tmp_path, corpus, {})
    drawn = STREAMS[stage](cfg, corpus)
    trained = given["examples"].sentences if isinstance(given["examples"], ReadingSentences) else given["examples"]
    assert same_batches(trained.micro_batches(range(30), 5), drawn.micro_batches(range(30), 5))
