"""Evaluation of a run of which everything is known: the record is true, and the same twice."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from qa_world import DrawnRun, questions_of
from spanned import spanned  # noqa: F401

from realm_train import evaluate
from realm_train.command import compose
from realm_train.data.drawn import sentence_key
from realm_train.data.questions import Question
from realm_train.errors import BadInput
from realm_train.evaluation.exact_match import exact_match
from realm_train.leakage import drawing_stages, seen_sentences
from realm_train.stage_examples import STREAMS
from realm_train.tasks.judging import Judge
from realm_train.tasks.systems import RetrieveAndRead


@pytest.fixture
def questions(corpus, tmp_path) -> Path:
    folder = tmp_path / "asked"
    folder.mkdir()
    rows = [json.dumps(question.row()) + "\n" for question in questions_of(corpus, 20)]
    (folder / "dev.jsonl").write_text("".join(rows))
    (folder / "train.jsonl").write_text("".join(rows[:2]).replace("?", " indeed?"))
    (folder / "manifest.json").write_text(json.dumps({"kind": "questions"}))
    return folder


@pytest.fixture
def run_it(corpus, questions, tmp_path, monkeypatch):
    """`run_it("k=5", …)`: evaluates, and returns the record and the folder."""

    def run_it(*words: str, out: str = "out", **settings):
        trained = DrawnRun(tmp_path / "runs" / "qa", corpus, **settings)
        monkeypatch.setattr(evaluate, "open_trained", lambda *_, **__: trained)
        folder = tmp_path / out
        words = (
            f"run={trained.run}",
            f"questions={questions}",
            f"out={folder}",
            "resamples=200",
            "similar=0.5",
            *words,
        )
        evaluate.main(compose("evaluate", *words))
        return json.loads((folder / "evaluation.json").read_text()), folder

    return run_it


NAMES = {"exact_match": "em", "f1": "f1"}


def predictions(folder: Path, key: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"predictions-{key}.jsonl").read_text().splitlines()]


def test_metrics_are_the_means_of_the_predictions(run_it, corpus):
    record, folder = run_it("shown=100")
    assert list(record["systems"]) == ["run", "bm25", "closed_book", "oracle"]
    for key, system in record["systems"].items():
        lines = predictions(folder, key)
        assert [line["question"] for line in lines] == [question.text for question in questions_of(corpus, 20)]
        for line in lines:
            assert line["em"] == exact_match(line["prediction"], line["answers"])
            assert line["has_answer"] == any(passage["has_answer"] for passage in line["passages"])
        mean = {f"qa/{long}": np.mean([line[name] for line in lines]) for long, name in NAMES.items()}
        if key != "closed_book":
            for k in (1, 5, 20, 100):
                found = [any(passage["has_answer"] for passage in line["passages"][:k]) for line in lines]
                mean[f"qa/recall@{k}"] = np.mean(found)
        assert {name: metric["mean"] for name, metric in system["metrics"].items()} == pytest.approx(mean, abs=1e-5)
        assert all(metric["low"] <= metric["mean"] <= metric["high"] for metric in system["metrics"].values())
    assert set(record["missing"]) == {"ict", "pretrain"} and all(record["missing"].values())


def test_every_passage_has_an_answer_as_often_as_looking_says(run_it, corpus):
    record, folder = run_it()
    held = [
        any(Judge(corpus, "tokens").holds(corpus.passage(number)["text"], question) for number in range(len(corpus)))
        for question in questions_of(corpus, 20)
    ]
    assert 0 < sum(held) < 20
    for key in ("run", "oracle"):
        assert record["systems"][key]["metrics"]["qa/recall@100"]["mean"] == np.mean(held)
    oracle = predictions(folder, "oracle")
    assert [bool(line["passages"]) for line in oracle] == held
    assert not any(line["em"] for line, there in zip(oracle, held, strict=True) if not there)


def test_twice_is_the_same_bytes_in_batches_of_one_or_sixteen(run_it):
    folders = [run_it(out="a")[1], run_it(out="b")[1], run_it("batch_size=1", out="c")[1]]
    one, *others = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one and all(other == one for other in others)
    assert not any(str(folders[0].parent).encode() in content for content in one.values()), "no path"


def test_an_approximate_index_is_never_reported_as_exact(run_it):
    record, folder = run_it(recall=0.97)
    assert record["systems"]["run"]["index/recall"] == 0.97
    row = next(line for line in (folder / "table.md").read_text().splitlines() if line.startswith("| qa, open_qa (1)"))
    assert row.endswith("| 97.00% |") and "exact" not in row


def test_a_run_that_was_not_fine_tuned_only_retrieves(run_it, capsys):
    record, folder = run_it(stage="ict")
    for key in ("run", "bm25", "oracle"):
        assert set(record["systems"][key]["metrics"]) == {f"qa/recall@{k}" for k in (1, 5, 20, 100)}
        assert all(line["prediction"] is None and line["em"] is None for line in predictions(folder, key))
    assert set(record["missing"]) == {"ict", "pretrain", "closed_book"}
    assert record["missing"]["ict"] == "it is the run itself"


def test_calibration_is_of_the_best_passage_and_of_the_null_passage(run_it):
    record, folder = run_it("k=20", "shown=20")
    lines = predictions(folder, "run")
    found = record["systems"]["run"]["calibration"]
    assert found["best"]["mean_p"] == pytest.approx(np.mean([line["passages"][0]["p"] for line in lines]), abs=1e-5)
    assert found["best"]["observed"] == np.mean([line["passages"][0]["has_answer"] for line in lines])
    assert found["null"]["observed"] == np.mean([not line["has_answer"] for line in lines])
    assert found["null"]["mean_p"] == pytest.approx(np.mean([line["p_null"] for line in lines]), abs=1e-5)
    assert "calibration" not in record["systems"]["bm25"], "its scores are no p(z|x)"


def test_questions_that_training_has_seen_are_told(run_it):
    record, _ = run_it()
    found = record["leakage"]["questions"]
    assert found["train"] == 2 and found["parts"]["question overlap"]["count"] == 2
    assert sum(part["count"] for part in found["parts"].values()) == 20
    assert [one["similarity"] for one in found["near_duplicates"]] == pytest.approx([5 / 6] * 2, abs=0.1)
    em = record["systems"]["run"]["metrics"]["qa/exact_match"]["mean"]
    parts = found["parts"].values()
    assert sum(part["count"] * (part["systems"]["run"] or 0) for part in parts) / 20 == pytest.approx(em, abs=1e-5)


def test_another_run_is_a_row_of_its_own(run_it, corpus, tmp_path, monkeypatch):
    from realm_train import baselines

    other = DrawnRun(tmp_path / "other" / "qa", corpus)
    monkeypatch.setattr(baselines, "opened", lambda run, like, stage=None: other)
    record, folder = run_it("versus=[other/qa,other/qa]", "baselines=[]")
    assert list(record["systems"]) == ["run", "versus-qa", "versus-qa-2"]
    assert record["systems"]["versus-qa"]["metrics"]["qa/f1"]["difference"]["p"] == 1.0, "it is the same"
    assert predictions(folder, "versus-qa") == predictions(folder, "run")


def test_where_it_goes_says_which_questions(run_it, tmp_path):
    def folder(*words):
        return evaluate.folder_name(compose("evaluate", "run=x", *words))

    (tmp_path / "mine.jsonl.gz").touch()
    assert folder(f"questions={tmp_path}/mine.jsonl.gz") == "mine"
    assert folder(f"questions={tmp_path}") == f"{tmp_path.name}-dev"
    assert (
        folder(f"questions={tmp_path}/", "split=test", "limit=50", "stage=ict") == f"{tmp_path.name}-test-ict-first50"
    )
    assert folder("questions=google/nq_open", "split=validation") == "nq_open-validation"


@pytest.mark.parametrize(
    "word, message", [("k=0", "k: got 0"), ("batch_size=0", "batch_size"), ("baselines=[bm52]", "got .'bm52'.")]
)
def test_what_cannot_be_is_refused(run_it, word, message):
    with pytest.raises(BadInput, match=message):
        run_it(word)


def test_a_baseline_that_was_asked_for_by_name_must_be_there(run_it, tmp_path):
    with pytest.raises(BadInput, match="no checkpoint of ict"):
        run_it(f"ict={tmp_path}")


@pytest.fixture
def trained_on_spanned(spanned, tmp_path):  # noqa: F811
    """A run whose folder says that it was trained for some steps, and was fine-tuned from another one."""
    words = [f"corpus={spanned.folder}", "masking=salient", "query_length=40", "heldout_percent=10.0"]
    for name, stages, more in (
        ("old", {"ict": 3, "mlm": 2, "pretrain": 4}, ["seed=2"]),
        ("new", {}, [f"ckpt={tmp_path / 'old'}", "ckpt_stage=mlm"]),
    ):
        run = tmp_path / name
        for stage, steps in stages.items():
            (run / "checkpoints" / stage).mkdir(parents=True)
            (run / "checkpoints" / stage / f"step-{steps:06d}.ckpt").touch()
        run.mkdir(exist_ok=True)
        more = [*more, "ict.batch_size=4", "mlm.batch_size=4", "pretrain.batch_size=2"]
        OmegaConf.save(OmegaConf.to_container(compose("train", *words, *more)), run / "config.yaml")
        (run / "provenance.json").write_text(json.dumps({"data": {"corpus": spanned.hash}}))
    return DrawnRun(tmp_path / "new", spanned)


def test_the_stages_that_drew_sentences_are_those_whose_weights_the_run_has(trained_on_spanned):
    run = trained_on_spanned.run
    found = [(name, part, count) for name, _, part, count in drawing_stages(run, "open_qa")]
    assert found == [("ict of old", "ict", 12), ("mlm of old", "mlm", 8)], "ckpt_stage=mlm: nothing of pretrain"


def test_a_question_whose_answer_sentence_was_an_example_is_counted(trained_on_spanned, spanned):  # noqa: F811
    trained, judge = trained_on_spanned, Judge(spanned, "substring")
    old = trained.run.parent / "old"
    stream = STREAMS["mlm"](OmegaConf.load(old / "config.yaml"), spanned)
    drawn = {(one.passage, sentence_key(one.masked.original)) for one in (stream[p] for p in range(8))}
    asked, expected = [], []
    for passage in range(len(spanned)):
        text, body = spanned.passage(passage)["text"], spanned.body(passage)
        for start, end, first, last in spanned.sentences(passage).tolist():
            if text.count(text[start:end]) == 1 and last - first <= 38 and not len(spanned.near_duplicates(passage)):
                asked.append(Question(text=f"{passage} {start}", answers=(text[start:end],)))
                expected.append((passage, sentence_key(body[first:last])) in drawn)
    replies = RetrieveAndRead(trained.retriever(), trained.answerer())(asked, len(spanned))
    judged = [judge(question, reply) for question, reply in zip(asked, replies, strict=True)]
    found = seen_sentences(trained, judge, judged, evaluate.measured(judged, k=100))
    assert found["with_sentence"] == len(asked) and 0 < sum(expected) < len(asked)
    assert found["stages"]["mlm of old"] == {"questions": sum(expected), "draws": 8}
    assert found["drawn"]["count"] + found["not_drawn"]["count"] == len(asked)


def test_sentences_of_another_corpus_are_not_guessed_at(trained_on_spanned, spanned):  # noqa: F811
    trained, judge = trained_on_spanned, Judge(spanned, "tokens")
    (trained.run.parent / "old" / "provenance.json").write_text(json.dumps({"data": {"corpus": "another"}}))
    questions = questions_of(spanned, 4)
    replies = RetrieveAndRead(trained.retriever(), None)(questions, 10)
    judged = [judge(question, reply) for question, reply in zip(questions, replies, strict=True)]
    found = seen_sentences(trained, judge, judged, evaluate.measured(judged, k=10))
    assert found["stages"] == {} and set(found["unknown_stages"]) == {"ict of old", "mlm of old"}


def test_the_hash_is_of_the_questions_and_their_answers(corpus):
    questions = questions_of(corpus, 3)
    assert evaluate.questions_hash(questions) == evaluate.questions_hash(list(questions))
    assert evaluate.questions_hash(questions) != evaluate.questions_hash(questions[:2])
    assert len(bytes.fromhex(evaluate.questions_hash(questions))) == hashlib.sha256().digest_size
