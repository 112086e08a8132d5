"""A small world to fine-tune in: real passages, tiny models, and the loss of a step written out passage by passage."""

from __future__ import annotations

import numpy as np
import torch
from small_world import REAL_WORDS
from tiny_models import tiny_towers

from realm_train.batch import MISSING, QuestionBatch, Sequences
from realm_train.data.corpus import Corpus
from realm_train.data.question_examples import QuestionExamples
from realm_train.data.questions import Question
from realm_train.index.exact import ExactIndex
from realm_train.models.open_qa import OpenQa
from realm_train.models.reader import Reader
from realm_train.models.span_reader import SpanReader
from realm_train.tasks.encode import evaluating, passage_encoder
from realm_train.tasks.open_qa import OpenQaTask
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.question_retrieval import QuestionRetrieval

BEAM, READ, MAX_SPAN, LENGTH, QUERY = 8, 3, 3, 96, 20


def open_qa(corpus: Corpus, *, config: dict = REAL_WORDS, null_score: str = "learned") -> OpenQa:
    """Tiny towers that share nothing, and a tiny span reader."""
    towers = tiny_towers(config=config, shared=False, scale=0.3)
    torch.manual_seed(9)
    for parameter in towers.query.parameters():  # or both towers would see a text alike
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    reader = SpanReader(Reader.load(config=config).masked_lm.base_model, width=8, max_span=MAX_SPAN)
    qa = OpenQa(towers, reader, sep_id=corpus.sep_id, max_joint_length=QUERY + LENGTH, null_score=null_score)
    if qa.null_bias is not None:
        qa.null_bias.data.fill_(0.7)
    return qa


def task_over(corpus: Corpus, *, accumulate: int = 1, qa: OpenQa | None = None, **settings) -> OpenQaTask:
    """A task in training mode, its index made by its passage tower, with what it asks of a Trainer."""
    names = [name for name in ("config", "null_score") if name in settings]
    qa = open_qa(corpus, **{name: settings.pop(name) for name in names}) if qa is None else qa
    retrieval = QuestionRetrieval(corpus, beam=BEAM, read=READ, body_length=LENGTH)
    encode = passage_encoder(qa.towers.passage, corpus, max_length=LENGTH)
    retrieval.adopt(ExactIndex(encode(np.arange(len(corpus)))))
    task = OpenQaTask(qa, retrieval, Optimization(steps=10), passage_length=LENGTH, **settings).train()
    task.trainer = type("Trainer", (), {"accumulate_grad_batches": accumulate, "precision": "32-true"})()
    return task


def batch_of(corpus: Corpus, questions: list[Question], *, step_questions: int | None = None) -> QuestionBatch:
    """These questions as one batch, of a whole step unless told otherwise."""
    examples = QuestionExamples(questions, corpus, query_length=QUERY, seed=0)
    return examples.batch(questions, len(questions) if step_questions is None else step_questions)


def row_of(batch: QuestionBatch, row: int) -> Sequences:
    """One question without padding."""
    length = batch.queries.lengths[row : row + 1]
    return Sequences(batch.queries.ids[row : row + 1, : int(length)], length, length)


def ranking(task: OpenQaTask, batch: QuestionBatch, row: int) -> list[int]:
    """The beam of one question by plain inner products."""
    with evaluating(task.towers):
        query = task.towers.query(row_of(batch, row))[0]
    return (task.retrieval.index.vectors @ query).argsort(descending=True, stable=True).tolist()[:BEAM]


def places(corpus: Corpus, passage: int, answers: tuple[str, ...]) -> set[tuple[int, int]]:
    """First and last piece of every answer in a passage, whole words only, by looking everywhere."""
    body, found = corpus.body(passage).tolist(), set()
    for answer in answers:
        run = corpus.tokenizer.encode(answer, add_special_tokens=False).ids
        for first in range(len(body) - len(run) + 1):
            end = first + len(run)
            whole = corpus.word_starts[body[first]] and (end == len(body) or corpus.word_starts[body[end]])
            if body[first:end] == run and whole:
                found.add((first, end - 1))
    return found


def short(spans: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those that the reader can say."""
    return {(first, last) for first, last in spans if last - first < MAX_SPAN}


def places_read(task: OpenQaTask, beam: list[int], answers: tuple[str, ...]) -> list[int]:
    """Places of the beam that are read."""
    said = [place for place, passage in enumerate(beam) if short(places(task.retrieval.corpus, passage, answers))]
    read = list(range(READ))
    if task.read_answer and said and said[0] >= READ:
        read[-1] = said[0]
    return read


def terms(task: OpenQaTask, batch: QuestionBatch, row: int) -> tuple[torch.Tensor, torch.Tensor | None, bool]:
    """log p of the right passages, log p of the right spans (None: nothing to learn), and whether the best is right."""
    corpus, qa = task.retrieval.corpus, task.qa
    beam, query = ranking(task, batch, row), qa.towers.query(row_of(batch, row))[0]
    f = [qa.null_bias if qa.null_bias is not None else query @ vector_of(task, MISSING) * qa.towers.scale]
    for place, passage in enumerate(beam):
        live = not task.freeze_passages and place < READ
        vector = vector_of(task, passage) if live else task.retrieval.index.vectors[passage]
        f.append(query @ vector * qa.towers.scale)
    holding = [place for place, passage in enumerate(beam) if places(corpus, passage, batch.answers[row])]
    right = [f[1 + place] for place in holding] or [f[0]]
    retriever = torch.stack(right).logsumexp(0) - torch.stack(f).logsumexp(0)
    spans, correct = [], []
    for place in places_read(task, beam, batch.answers[row]):
        said = places(corpus, beam[place], batch.answers[row])
        for (first, last), score in spans_of(task, row_of(batch, row), beam[place]).items():
            spans.append(score + f[1 + place])
            correct.append((first, last) in said)
    if not any(correct):
        return retriever, None, False
    spans, correct = torch.stack(spans), torch.tensor(correct)
    return retriever, spans[correct].logsumexp(0) - spans.logsumexp(0), bool(correct[spans.argmax()])


def vector_of(task: OpenQaTask, passage: int) -> torch.Tensor:
    """A passage by the live tower; that of a frozen one is a constant."""
    vector = task.towers.passage(task.retrieval.corpus.sequences(np.array([passage]), LENGTH))[0]
    return vector.detach() if task.freeze_passages else vector


def spans_of(task: OpenQaTask, question: Sequences, passage: int) -> dict[tuple[int, int], torch.Tensor]:
    """The reader's score of every span of a passage that is read alone: (first, last) piece -> score."""
    corpus, start = task.retrieval.corpus, int(question.lengths[0])
    body = corpus.body(passage).tolist()
    ids = torch.tensor([[*question.ids[0].tolist(), *body, corpus.sep_id]])
    scores = task.qa.span_reader(Sequences(ids, torch.tensor([ids.shape[1]]), torch.tensor([start])))[0]
    return {
        (first, last): scores[start + first, last - first]
        for first in range(len(body))
        for last in range(first, min(first + MAX_SPAN, len(body)))
    }


def loss_written_out(task: OpenQaTask, batch: QuestionBatch) -> torch.Tensor:
    """Minus the mean over questions of both terms."""
    total = torch.zeros(())
    for row in range(len(batch)):
        retriever, reader, _ = terms(task, batch, row)
        total = total + retriever + (0 if reader is None else reader)
    return -total / len(batch)


def questions_over(task: OpenQaTask) -> list[Question]:
    """Questions whose answers stand: in the best passage; in two of those read, under two names of which one is given
    twice; only beyond those read; nowhere; in the best, but too long for a span."""
    corpus = task.retrieval.corpus
    texts = [f"{corpus.passage(passage)['title']} and what?" for passage in (1, 7, 13, 22, 31)]
    bare = batch_of(corpus, [Question(text=text, answers=()) for text in texts])
    beams = [ranking(task, bare, row) for row in range(len(texts))]
    best, second = word_of(corpus, beams[1][0], []), word_of(corpus, beams[1][1], beams[1][:1])
    answers = [
        (word_of(corpus, beams[0][0], []),),
        (best, second, best.upper(), best),
        (word_of(corpus, beams[2][READ + 2], beams[2][: READ + 2]),),
        ("zzzz nowhere at all",),
        (" ".join(corpus.passage(beams[4][0])["text"].split()[:6]),),
    ]
    return [Question(text=text, answers=held) for text, held in zip(texts, answers, strict=True)]


def word_of(corpus: Corpus, passage: int, others: list[int]) -> str:
    """The first word of a passage, of some letters and few pieces, that none of the others holds."""
    for word in corpus.passage(passage)["text"].split():
        pieces = corpus.tokenizer.encode(word, add_special_tokens=False).ids
        alone = not any(places(corpus, other, (word,)) for other in others)
        if word.isalpha() and len(word) > 3 and len(pieces) <= MAX_SPAN and alone:
            return word
    raise AssertionError("no such word")
