"""What is exported gives, in other libraries, the vectors, logits and passages that it gave here."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_run import SIZES

from realm_train.build import build_open_qa, build_reader, build_towers
from realm_train.command import compose
from realm_train.convert import write_run
from realm_train.data.question_examples import question_sequences
from realm_train.errors import BadInput
from realm_train.export import export, main, tokenizer_of
from realm_train.models.reader import joint_inputs
from realm_train.tasks.encode import passage_encoder
from realm_train.trained import Trained, open_trained

QUESTIONS = ["Who wrote the theory of relativity?", "In which river does the city stand?", "What is a cell made of?"]
ROWS = np.arange(0, 56, 4)
ROBERTA = "{model_type: roberta, vocab_size: 30600, type_vocab_size: 1, pad_token_id: 0, hidden_size: 32,"
ROBERTA += " num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, max_position_embeddings: 160}"
HEADS = {
    "shared": ["refresh.dtype=float32"],
    "untied": ["model.towers.shared=false", "model.towers.scale=0.5", "refresh.dtype=float32"],
    "contriever": ["model.towers.dim=null", "model.towers.norm=none", "model.towers.pooling=mean"],
    "mean-l2": ["model.towers.dim=null", "model.towers.norm=l2", "model.towers.pooling=mean"],
    "pooler-eps": [
        *("model.towers.pooling=pooler", "model.towers.encoder.pooler=true", "model.towers.norm_eps=1e-3"),
        "model.towers.segments=false",
    ],
    "roberta": ["~model.encoder", f"+model.encoder={ROBERTA}"],
}
SEARCHED = ("shared", "untied", "mean-l2")  # the last with an index of half the precision


@pytest.fixture(scope="module")
def open_run(corpus, tmp_path_factory):
    """`open_run("shared", stage="pretrain")`: a run whose weights are random, and far from how training starts."""

    def opened(head: str, stage: str = "pretrain") -> Trained:
        run = tmp_path_factory.mktemp("run") / head
        words = [word for word in SIZES if head != "roberta" or "encoder." not in word]
        cfg = compose("train", f"corpus={corpus.folder}", f"run={run}", *words, *HEADS[head])
        torch.manual_seed(0)
        parts = {"towers": build_towers(cfg, corpus)}
        if stage == "pretrain":
            parts["reader"] = build_reader(cfg, corpus, {})
        else:
            parts["span_reader"] = build_open_qa(cfg, corpus, {}).span_reader
        for part in parts.values():
            for parameter in part.parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
        prefix = {"pretrain": "realm", "open_qa": "qa"}[stage]
        state = {f"{prefix}.{name}.{key}": v for name, part in parts.items() for key, v in part.state_dict().items()}
        run.mkdir()
        write_run(run, cfg, corpus, state, stage=stage)
        (run / "report.json").write_text(json.dumps({"realm": {"utility": {"after": 0.25}}, "seconds": {"total": 1}}))
        return open_trained(run, device="cpu")

    return opened


@pytest.fixture(scope="module")
def exported(open_run, tmp_path_factory):
    """`exported("shared")`: the run and the folder of its export, made once for each head."""
    made: dict[str, tuple[Trained, Path]] = {}

    def make(head: str) -> tuple[Trained, Path]:
        if head not in made:
            trained, out = open_run(head), tmp_path_factory.mktemp("exported") / head
            export(trained, out, vectors=head in SEARCHED)
            made[head] = trained, out
        return made[head]

    return make


def library(folder: Path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def pairs(corpus) -> list[tuple[str, str]]:
    return [(row["title"], row["text"]) for row in map(corpus.passage, ROWS.tolist())]


def of_questions(trained: Trained) -> torch.Tensor:
    with torch.no_grad():
        return trained.towers.query(question_sequences(trained.corpus, QUESTIONS, trained.cfg.query_length))


def of_passages(trained: Trained) -> torch.Tensor:
    return passage_encoder(trained.towers.passage, trained.corpus, max_length=96)(ROWS)


def folders_of(trained: Trained, out: Path) -> tuple[Path, Path]:
    return (out / "retriever",) * 2 if trained.towers.shared else (out / "query", out / "passage")


@pytest.mark.parametrize("head", HEADS)
def test_sentence_transformers_gives_the_same_vectors(exported, head):
    trained, out = exported(head)
    query, passage = map(library, folders_of(trained, out))
    expected = of_questions(trained), of_passages(trained)
    for model, texts, ours in ((query, QUESTIONS, expected[0]), (passage, pairs(trained.corpus), expected[1])):
        torch.testing.assert_close(torch.from_numpy(model.encode(texts)), ours, rtol=0, atol=1e-5)
    assert query.similarity_fn_name == "dot"
    assert query.max_seq_length == (96 if trained.towers.shared else 48) and passage.max_seq_length == 96


@pytest.mark.parametrize("head", ["shared", "untied"])
def test_sentence_transformers_finds_the_same_passages(exported, head):
    trained, out = exported(head)
    query, passage = map(library, folders_of(trained, out))
    every = [(row["title"], row["text"]) for row in map(trained.corpus.passage, range(trained.corpus.count))]
    scores = query.encode(QUESTIONS) @ passage.encode(every).T
    found = trained.retriever()(QUESTIONS, 10)
    assert np.argsort(-scores, axis=1)[:, :10].tolist() == found.ids.tolist()


@pytest.mark.parametrize("head", SEARCHED)
def test_datasets_and_faiss_find_the_same_passages(exported, head):
    faiss, datasets = pytest.importorskip("faiss"), pytest.importorskip("datasets")
    trained, out = exported(head)
    found = trained.retriever()(QUESTIONS, 10)
    passages = datasets.load_from_disk(str(out / "passages"))
    assert passages.column_names == ["id", "title", "text", "embeddings"] and len(passages) == trained.corpus.count
    passages.load_faiss_index("embeddings", str(out / "index" / "index.faiss"))
    ids = [json.loads(line) for line in (out / "index" / "ids.jsonl").read_text().splitlines()]
    index = faiss.read_index(str(out / "index" / "index.faiss"))
    assert ids == passages["id"] and index.metric_type == faiss.METRIC_INNER_PRODUCT
    for row, question in enumerate(of_questions(trained).numpy()):
        expected = [trained.corpus.passage(number) for number in found.ids[row].tolist()]
        scores, nearest = passages.get_nearest_examples("embeddings", question, k=10)
        assert nearest["id"] == [one["id"] for one in expected]
        assert nearest["text"] == [one["text"] for one in expected]
        np.testing.assert_allclose(scores * trained.towers.scale, found.scores[row], rtol=0, atol=1e-4)
        assert index.search(question[None], 10)[1][0].tolist() == found.ids[row].tolist()
    dtype = getattr(torch, trained.cfg.refresh.dtype)
    vectors = of_passages(trained).to(dtype).float()
    np.testing.assert_allclose(np.array(passages["embeddings"])[ROWS], vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", ["shared", "roberta"])
def test_the_reader_is_a_masked_language_model_with_the_same_logits(exported, head):
    trained, out = exported(head)
    model = transformers.AutoModelForMaskedLM.from_pretrained(out / "reader").eval()
    assert model.state_dict().keys() == trained.masked_lm.masked_lm.state_dict().keys()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "reader")
    sentence, body = f"It was built in {tokenizer.mask_token}.", trained.corpus.passage(3)["text"][:120]
    inputs = tokenizer(sentence, body, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, trained.masked_lm.masked_lm(**inputs).logits)
    assert ("token_type_ids" in inputs) == (head == "shared")


def code_of(card: Path) -> list[str]:
    """The blocks of Python in a card."""
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)


def run_in(folder: Path, code: str) -> dict:
    """What a card's Python leaves, run where the card says."""
    names: dict = {}
    with contextlib.chdir(folder):
        exec(compile(code, str(folder / "README.md"), "exec"), names)
    return names


@pytest.mark.parametrize("head", HEADS)
def test_a_cards_python_runs_and_both_ways_give_one_vector(exported, head):
    pytest.importorskip("sentence_transformers")
    trained, out = exported(head)
    for folder in {*folders_of(trained, out)}:
        with_library, alone = code_of(folder / "README.md")
        theirs, plain = run_in(folder, with_library)["vectors"], run_in(folder, alone)["vectors"]
        np.testing.assert_allclose(plain.numpy(), theirs, rtol=0, atol=1e-5)
        assert plain.shape == (1, trained.towers.dim)
    run_in(out / "reader", *code_of(out / "reader" / "README.md"))


def test_the_whole_cards_python_searches(exported, capsys):
    pytest.importorskip("sentence_transformers")
    trained, out = exported("untied")
    run_in(out, *code_of(out / "README.md"))
    titles = [trained.corpus.passage(number)["title"] for number in range(trained.corpus.count)]
    printed = eval(capsys.readouterr().out)
    assert len(printed) == 5 and {*printed} <= {*titles}
    card = (out / "README.md").read_text()
    assert trained.corpus.hash in card and "| realm.utility.after | 0.25 |" in card and "seconds" not in card


def test_a_fine_tuned_run_exports_its_reader_of_spans(open_run, tmp_path):
    trained = open_run("untied", stage="open_qa")
    folders = export(trained, tmp_path / "out", vectors=False)
    assert folders.keys() == {"query", "passage", "span_reader"}
    code = code_of(tmp_path / "out" / "span_reader" / "README.md")
    names = run_in(tmp_path / "out" / "span_reader", *code)
    corpus = trained.corpus
    passage = corpus.tokenizer.encode("In 1610 Galileo saw four moons of Jupiter.", add_special_tokens=False).ids
    question = question_sequences(corpus, ["Who saw four moons?"], 48)
    joint = joint_inputs(
        question, torch.tensor([passage]), torch.tensor([len(passage)]), sep_id=corpus.sep_id, max_length=96
    )
    with torch.no_grad():
        ours = trained.span_reader(joint)[0, int(joint.second) : -1]
    theirs = torch.stack([torch.diagonal(names["scores"].roll(-width, 1)) for width in range(ours.shape[1])], dim=1)
    inside = ours.isfinite()
    torch.testing.assert_close(theirs[inside], ours[inside], rtol=0, atol=1e-5)
    assert int(names["scores"].isfinite().sum()) == int(inside.sum()) > 30


def test_every_passage_keeps_its_word_pieces(corpus):
    """The text that is exported, in the exported tokenizer, is what the tower was trained on."""
    tokenizer = tokenizer_of(corpus, max_length=96, segments=True)
    ours = corpus.sequences(np.arange(corpus.count), 96)
    for number in range(corpus.count):
        row = corpus.passage(number)
        encoded = tokenizer(row["title"], row["text"], truncation=True)
        length, second = int(ours.lengths[number]), int(ours.second[number])
        assert encoded["input_ids"] == ours.ids[number, :length].tolist()
        assert encoded["token_type_ids"] == [0] * second + [1] * (length - second)


def test_an_export_is_replaced_and_nothing_else_ever_is(open_run, tmp_path):
    trained, out = open_run("shared"), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists and is no export; nothing was touched"):
        export(trained, out, vectors=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    for _ in range(3):
        export(trained, out, vectors=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.previous"]
    (tmp_path / "out.previous" / "export.json").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="out.previous: exists and is no export, so"):
        export(trained, out, vectors=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_failure_on_the_way_leaves_all_as_it_was(open_run, tmp_path, monkeypatch):
    trained = open_run("shared")
    monkeypatch.setattr("realm_train.export.whole_card", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(trained, tmp_path / "out", vectors=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_is_where(open_run, tmp_path, monkeypatch, capsys):
    run = open_run("shared").run
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["export", f"run={run}", f"out={tmp_path / 'out'}", "device=cpu", "vectors=false"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(tmp_path / "out" / name) for name in ("retriever", "reader")
    ]
    assert json.loads((tmp_path / "out" / "export.json").read_text())["step"] == 0
