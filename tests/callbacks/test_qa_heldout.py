"""The look at held-out questions against asking them one by one; where a learned null score begins."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from qa_steps import LENGTH, QUERY, READ, batch_of, places, questions_over, ranking, row_of, spans_of, task_over

from realm_train.callbacks.qa_heldout import QaHeldOut
from realm_train.data.questions import Question
from realm_train.evaluation.exact_match import exact_match
from realm_train.tasks.encode import evaluating


class Recorder(Trainer):
    """A trainer at step 0 that does nothing but keep what is logged."""

    global_step, loggers, callback_metrics = 0, (), None

    def __init__(self) -> None:
        self.loggers, self.callback_metrics, self.logged = [self], {}, []

    def log_metrics(self, metrics: dict, step: int) -> None:
        self.logged.append(metrics)


@pytest.fixture
def task(corpus):
    task = task_over(corpus)
    task.trainer.precision_plugin = SimpleNamespace(forward_context=torch.no_grad)
    return task


def looking(corpus, questions, **settings) -> QaHeldOut:
    lengths = {"query_length": QUERY, "passage_length": LENGTH, "precision": "32-true", "size": 2}
    return QaHeldOut(questions, corpus, **lengths | settings)


@torch.no_grad()
def said(task, batch, row: int) -> str:
    """The best span of the passages read."""
    corpus, scores = task.retrieval.corpus, {}
    query = task.towers.query(row_of(batch, row))[0]
    for passage in ranking(task, batch, row)[:READ]:
        f = float(task.retrieval.index.vectors[passage] @ query) * task.towers.scale
        spans = spans_of(task, row_of(batch, row), passage)
        scores |= {(passage, *span): float(score) + f for span, score in spans.items()}
    passage, first, last = max(scores, key=scores.__getitem__)
    text = corpus.passage(passage)["text"]
    offsets = corpus.tokenizer.encode(text, add_special_tokens=False).offsets
    return text[offsets[first][0] : offsets[last][1]]


def test_exact_match_recall_and_p_null_are_those_of_each_question_alone(corpus, task):
    questions = questions_over(task)
    with evaluating(task):
        answered = said(task, batch_of(corpus, questions), 1)
        questions.append(Question(text=questions[1].text, answers=("something else", answered.upper())))
        questions.append(Question(text=questions[1].text, answers=(r"[^x]+",), regex=True))
        batch, trainer = batch_of(corpus, questions), Recorder()
        right = [
            exact_match(said(task, batch, row), question.answers, regex=question.regex)
            for row, question in enumerate(questions)
        ]
        assert right[5] and right[6] and not right[3]
        first, p_null = [], []
        for row, question in enumerate(questions):
            query = task.towers.query(row_of(batch, row))[0]
            f = (task.retrieval.index.vectors @ query * 0.3).sort(descending=True)
            answers = (said(task, batch, row),) if question.regex else question.answers
            holding = [bool(places(corpus, passage, answers)) for passage in f.indices[:20].tolist()]
            first.append(holding.index(True) if any(holding) else 99)
            p_null.append(float(torch.cat([task.qa.null_bias.detach()[None], f.values[:20]]).softmax(0)[0]))
    looking(corpus, questions).evaluate(trainer, task)
    (metrics,) = trainer.logged
    assert metrics["heldout/qa_exact_match"] == pytest.approx(np.mean(right))
    assert metrics["heldout/p_null"] == pytest.approx(np.mean(p_null), abs=1e-5) and metrics["index/recall"] == 1.0
    for k in (1, 5, 20):
        held = np.mean([place < k for place, question in zip(first, questions, strict=True) if not question.regex])
        patterns = sum(question.regex for question in questions)
        assert patterns == 1  # which every passage matches
        assert metrics[f"heldout/qa_recall@{k}"] == pytest.approx((held * 6 + 1) / 7)
    assert task.training


def test_a_new_index_is_examined_with_the_query_tower_as_it_was(corpus, task):
    questions = questions_over(task)
    callback, trainer = looking(corpus, questions), Recorder()
    callback.evaluate(trainer, task)
    search = callback.examine(task, None, task.retrieval.index)
    for parameter in task.towers.query.parameters():
        parameter.data.mul_(-1.0)
    found = search()
    assert {name.removeprefix("retrieval/") for name in found} == {"recall@1", "recall@5", "recall@20"}
    for k in (1, 5, 20):
        assert found[f"retrieval/recall@{k}"] == trainer.logged[0][f"heldout/qa_recall@{k}"]
    same = callback.examine(task, task.retrieval.index, task.retrieval.index)()
    assert same["index/overlap@20"] == 1.0


def test_a_learned_null_score_begins_at_the_mean_score_of_what_would_be_read(corpus, task):
    questions = questions_over(task)
    batch = batch_of(corpus, questions)
    with evaluating(task):
        scores = [
            float(task.retrieval.index.vectors[passage] @ task.towers.query(row_of(batch, row))[0]) * 0.3
            for row in range(5)
            for passage in ranking(task, batch, row)[:READ]
        ]
    trainer = Recorder()
    looking(corpus, questions[:1]).on_train_start(trainer, task)
    assert task.qa.null_bias.detach().item() == pytest.approx(0.7)
    looking(corpus, [], null_begins=questions).on_train_start(trainer, task)
    assert task.qa.null_bias.detach().item() == pytest.approx(np.mean(scores), abs=1e-4)
    task.qa.null_bias.data.fill_(0.7)
    trainer.global_step = 4
    looking(corpus, [], null_begins=questions).on_train_start(trainer, task)  # a resumed run keeps what it learnt
    assert task.qa.null_bias.detach().item() == pytest.approx(0.7)


def test_without_questions_nothing_is_logged(corpus, task):
    trainer, callback = Recorder(), looking(corpus, [])
    callback.on_train_start(trainer, task)
    callback.on_train_end(trainer, task)
    assert trainer.logged == [] and callback.batches == []
