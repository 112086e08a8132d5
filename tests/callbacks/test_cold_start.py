"""Whether a retriever that finds no more than chance is noticed, and one that works left in peace."""

import warnings
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny_run import CapitalisedWords, overrides, spans_folder, threads, train  # noqa: F401
from torch import nn

from realm_train.callbacks.cold_start import ColdStart
from realm_train.callbacks.heldout import HeldOut
from realm_train.data.masked import MaskedSentences
from realm_train.data.masking import SalientMasking
from realm_train.index.exact import ExactIndex
from realm_train.tasks.retrieval import Retrieval

TOWNS = [
    first + second for first in ("Ar", "Bel", "Cor", "Dun", "El", "Far") for second in ("bury", "ham", "ton", "wick")
]
TRADES = ["glass", "wool", "salt", "bells", "clocks", "ships", "lace", "honey"]


class BagOfWords(nn.Module):
    """A retriever that needs no training: a random direction for each word, rare words longer."""

    dim = 256

    def __init__(self, corpus):
        super().__init__()
        pieces = torch.from_numpy(corpus.tokens.astype("int64"))
        counts = torch.bincount(pieces, minlength=30522).float()
        directions = torch.randn(30522, self.dim, generator=torch.Generator().manual_seed(0))
        self.directions = torch.where(counts > 0, 1 / (1 + counts), 0)[:, None] * directions

    def forward(self, sequences):
        inside = torch.arange(sequences.ids.shape[1]) < sequences.lengths[:, None]
        return (self.directions[sequences.ids] * inside[:, :, None]).sum(dim=1)


@pytest.fixture(scope="module")
def towns(make_corpus, tmp_path_factory):
    """Two documents a town; what is masked in one can be found in the other, by what the town makes."""
    from data_prep.spans import prepare_spans
    from realm_train.data.corpus import Corpus

    documents = []
    for number, town in enumerate(TOWNS):
        ware = f"{TRADES[number % 8]} of the {('north', 'south', 'east')[number // 8]}"
        documents += [
            {"id": f"{town} 1", "title": "History", "text": f"Long ago the merchants of {town} became rich by {ware}."},
            {"id": f"{town} 2", "title": "Trade", "text": f"The best {ware} can be bought at the market in {town}."},
        ]
    folder = make_corpus(documents, tmp_path_factory.mktemp("towns")).folder
    prepare_spans(corpus=folder, tagger=CapitalisedWords(), workers=1)
    return Corpus(folder)


class FakeTrainer(pl.Trainer):
    """What the callback asks of a trainer, and nothing that trains."""

    global_step, is_global_zero = 0, True
    callback_metrics: dict = {}
    precision_plugin = SimpleNamespace(forward_context=nullcontext)

    def __init__(self, **settings):
        self.__class__ = type("FakeTrainer", (FakeTrainer,), settings)  # over Lightning's properties


class Task(pl.LightningModule):
    """A retriever without a reader."""

    def __init__(self, tower, retrieval):
        super().__init__()
        self.towers = SimpleNamespace(query=tower)
        self.retrieval = retrieval


@pytest.fixture
def cold_start(towns, tmp_path):
    """The callback with a lexical retriever's index adopted, and a function of the trainer that it asks."""
    tower = BagOfWords(towns)
    sentences = MaskedSentences(towns, SalientMasking(), min_length=4, heldout_percent=50.0, heldout=True)
    heldout = HeldOut(tmp_path, towns, sentences.micro_batches(range(16), 8))
    task, index = Task(tower, Retrieval(towns)), ExactIndex(tower(towns.sequences(np.arange(towns.count), 96)))
    task.trainer = FakeTrainer()
    task.retrieval.adopt(index)
    metrics = heldout.examine(task, None, index)()
    callback = ColdStart(heldout, times_chance=2.0)

    def ask(recall=None, **settings):
        seen = metrics if recall is None else {"retrieval/recall@20": torch.tensor(recall)}
        callback.on_train_start(FakeTrainer(callback_metrics=seen, **settings), task)

    return SimpleNamespace(callback=callback, recall=metrics, ask=ask)


class Silent:
    """Every warning is an error."""

    def __enter__(self):
        self.context = warnings.catch_warnings()
        self.context.__enter__()
        warnings.simplefilter("error")

    def __exit__(self, *error):
        self.context.__exit__(*error)


def test_a_retriever_that_works_is_left_in_peace(cold_start):
    assert cold_start.recall["retrieval/recall@5"] > 0.8
    with Silent():
        cold_start.ask()


def test_one_that_finds_no_more_than_chance_is_warned_of_with_what_to_do(cold_start):
    with pytest.warns(UserWarning, match=r"cold start: .*Warm it with ICT first .*or give retriever="):
        cold_start.ask(recall=cold_start.callback.chance())


def test_chance_is_recall_of_random_passages_without_those_that_retrieval_leaves_out(cold_start, towns):
    callback = cold_start.callback
    # of 48 passages one other than the sentence's own holds the answer
    assert callback.chance(draws=20) == pytest.approx(1 - (1 - 1 / towns.count) ** 20, abs=0.25)
    assert callback.chance(draws=1000) == 1.0
    everything = torch.arange(towns.count)
    callback.heldout.batches = [
        replace(batch, exclude=everything.expand(len(batch), -1)) for batch in callback.heldout.batches
    ]
    assert callback.chance(draws=1000) == 0.0


def test_where_chance_is_high_a_good_retriever_need_not_find_twice_as_much(cold_start, monkeypatch):
    monkeypatch.setattr(cold_start.callback, "chance", lambda: 0.6)
    with Silent():
        cold_start.ask(recall=0.85)
    with pytest.warns(UserWarning, match="cold start"):
        cold_start.ask(recall=0.75)


def test_a_resumed_run_and_other_ranks_say_nothing(cold_start):
    with Silent():
        cold_start.ask(recall=0.0, global_step=5)
        cold_start.ask(recall=0.0, is_global_zero=False)


def test_training_from_random_towers_warns(train):  # noqa: F811
    with pytest.warns(UserWarning, match="cold start: the retriever finds .*stages="):
        train("stages=[pretrain]", "pretrain.steps=1")
