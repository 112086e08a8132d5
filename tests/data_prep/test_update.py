"""A corpus made from an older one is the one made from nothing, byte for byte, and only what changed is tokenised."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data_prep import step
from data_prep.exchange import exchange
from data_prep.near_duplicates import Rules
from data_prep.packing import Packer
from data_prep.passages import summary
from data_prep.spans import prepare_spans
from data_prep.splitting import Spacy
from data_prep.taggers import DateTagger
from realm_train.data.corpus import Corpus
from realm_train.data.passage_keys import passage_keys
from realm_train.errors import BadInput

TIMES = ("created", "seconds", "update")


def contents(folder):
    """Every file of a corpus but its manifest, as bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lasting(corpus):
    """The manifest without times, the update's record, and the file that was read."""
    manifest = {name: value for name, value in corpus.manifest.items() if name not in TIMES}
    return manifest | {"inputs": [one["sha256"] for one in manifest["inputs"]]}


@pytest.fixture
def make(make_corpus, tmp_path):
    """`make("name", documents, update=…)`: a corpus in a folder of its own."""

    def make(name, documents, **settings):
        (tmp_path / name).mkdir(exist_ok=True)
        return make_corpus(documents, tmp_path / name, **settings)

    return make


@pytest.fixture
def packed(monkeypatch) -> list[str]:
    """The ids of the documents that were tokenised."""
    ids, pack = [], Packer.__call__

    def remembered(self, documents):
        ids.extend(document.id for document in documents)
        return pack(self, documents)

    monkeypatch.setattr(Packer, "__call__", remembered)
    return ids


def document(name, text, title="T"):
    return {"id": str(name), "title": title, "text": text}


def changed(documents, seed):
    """Some documents edited, removed, renamed, moved, told twice, and new ones."""
    rng = random.Random(seed)
    documents = [dict(one) for one in documents]
    for one in rng.sample(documents, 4):
        one["text"] = f"{one['text']} It was {rng.randrange(100)} years ago."
    rng.choice(documents)["title"] += " (again)"
    rng.choice(documents)["id"] += " renamed"
    for _ in range(4):
        documents.pop(rng.randrange(len(documents)))
    for number in range(3):
        documents.insert(rng.randrange(len(documents)), document(f"new {number}", f"Something new, {number}. " * 9))
    first, last = sorted(rng.sample(range(len(documents)), 2))
    documents[first:last] = reversed(documents[first:last])
    return [*documents, rng.choice(documents)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [256, 5])
def test_it_is_the_corpus_made_from_nothing(planted_documents, make, monkeypatch, seed, batch):
    monkeypatch.setattr("data_prep.passages.BATCH_DOCUMENTS", batch)
    before, after = changed(planted_documents, seed + 100), changed(planted_documents, seed)
    old = make("old", before)
    whole, updated = make("whole", after), make("updated", after, update=old.folder)
    assert contents(updated.folder) == contents(whole.folder) != contents(old.folder)
    assert lasting(updated) == lasting(whole)
    assert updated.manifest["update"]["documents"]["carried"] > 15


def test_workers_change_nothing(planted_documents, make, monkeypatch):
    monkeypatch.setattr("data_prep.passages.BATCH_DOCUMENTS", 7)
    old, after = make("old", planted_documents), changed(planted_documents, 1)
    spread = make("spread", after, update=old.folder, workers=2)
    assert contents(spread.folder) == contents(make("whole", after).folder)


def test_only_what_changed_is_tokenised_and_all_is_counted(make, packed):
    stays, edited, renamed, gone = (document(name, f"This is {name}. It is a text.") for name in "abcd")
    old = make("old", [stays, edited, renamed, gone, document("empty", " ")])
    packed.clear()
    after = [document("new", "A new text."), stays, edited | {"text": "Another text."}, document("empty", " ")]
    after += [renamed | {"id": "e"}]
    new = make("new", after, update=old.folder)
    assert packed == ["new", "b", "e"]
    documents = {"added": 2, "edited": 1, "removed": 2, "unchanged": 2, "carried": 2}
    assert new.manifest["update"] == {"folder": str(old.folder), "corpus": old.hash, "documents": documents}
    said = "2 added, 1 edited, 2 removed, 2 unchanged documents, 2 carried over;"
    assert said in summary(new.manifest, new.folder)
    assert new.manifest["counts"]["skipped"] == {"empty_document": 1}


def test_a_passage_that_was_anothers_duplicate_comes_back_when_the_other_goes(make, packed):
    first, second = document("first", "The very same text."), document("second", "The very same text.")
    old = make("old", [first, second, document("third", "A third text.")])
    assert [old.passage(row)["document"] for row in range(len(old))] == ["first", "third"]
    packed.clear()
    new = make("new", [second, document("third", "A third text.")], update=old.folder)
    assert [new.passage(row)["document"] for row in range(len(new))] == ["second", "third"]
    assert packed == ["second"] and new.manifest["update"]["documents"]["unchanged"] == 2


def test_what_was_changed_on_the_way_is_counted_again(make):
    documents = [
        document("cut", "word " * 200),
        document("surrogate", "A \ud800 text."),
        document("t", "A.", "x " * 99),
    ]
    old = make("old", [*documents, document("gone", "Gone.")])
    whole, updated = make("whole", documents), make("updated", documents, update=old.folder)
    assert lasting(updated) == lasting(whole) and contents(updated.folder) == contents(whole.folder)
    assert updated.manifest["counts"]["changed"] == {"cut_sentence": 1, "lone_surrogates": 1, "cut_title": 1}


def test_in_place_and_when_nothing_changed(planted_documents, make, packed):
    old = make("one", planted_documents)
    before = contents(old.folder)
    after = changed(planted_documents, 3)
    new = make("one", after, update=old.folder)
    assert new.folder == old.folder and contents(new.folder) == contents(make("whole", after).folder)
    assert contents(old.folder.with_name("corpus.previous")) == before
    packed.clear()
    assert make("one", after, update=new.folder).manifest == new.manifest and not packed
    again = make("again", after, update=new.folder)
    assert contents(again.folder) == contents(new.folder)
    assert set(packed) <= {one["id"] for one in after if one["id"] in ("told again", "copy") or after.count(one) > 1}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_length": 64}, "max_length 96, expected 64"),
        ({"splitter": Spacy("xx")}, "splitter {.*Sentencex.*}, expected {.*Spacy.*}"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(make, tmp_path, settings, said):
    documents = [document("a", "A text.")]
    old = make("old", documents)
    before = contents(old.folder)
    with pytest.raises(BadInput, match=f"{said}; give the same settings"):
        make("new", documents, update=old.folder, **settings)
    assert not (tmp_path / "new" / "corpus").exists() and contents(old.folder) == before


def test_what_can_be_carried_over_does_not_depend_on_near_duplicates_and_limits(make):
    documents = [document(name, f"This is a text about {name}, and it is long enough. " * 2) for name in "abcd"]
    old = make("old", documents)
    settings = {"near_duplicates": Rules(min_sentence=3), "limit": 3}
    whole, updated = make("w", documents, **settings), make("u", documents, update=old.folder, **settings)
    assert contents(updated.folder) == contents(whole.folder) and updated.manifest["documents"] == 3


def test_a_corpus_that_is_none_damaged_or_of_an_older_format_is_refused(make, tmp_path):
    documents = [document("a", "A text.")]
    with pytest.raises(BadInput, match="nothing/manifest.json: not found"):
        make("new", documents, update=tmp_path / "nothing")
    old = make("old", documents).folder
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["settings"]["format"] = 1
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="prepared with format 1, expected"):
        make("new", documents, update=old)
    old = make("other", documents).folder
    with (old / "passages" / "0000000000.arrow").open("ab") as file:
        file.truncate(100)
    with pytest.raises(BadInput, match="is damaged, files are missing or cut"):
        make("new", documents, update=old)


def test_keys_compare_any_two_corpora(planted_documents, make):
    one, other = make("one", planted_documents), make("other", changed(planted_documents, 2))
    assert one.passage_keys.tolist() == passage_keys(one.tokens, one.token_offsets, one.title_lengths).tolist()
    assert len(set(one.passage_keys.tolist())) == len(one)
    spelt = [
        {(tuple(it.title(row).tolist()), tuple(it.body(row).tolist())) for row in range(len(it))} for it in (one, other)
    ]
    shared = np.intersect1d(one.passage_keys, other.passage_keys)
    assert len(one) > len(shared) == len(spelt[0] & spelt[1]) > 30
    (one.folder / "passage_keys.npy").rename(one.folder / "elsewhere")
    assert Corpus(one.folder).passage_keys.tolist() == one.passage_keys.tolist()  # of a corpus without them


def test_two_folders_change_places_or_stay(tmp_path):
    done = exchanged(tmp_path)
    assert (tmp_path / "one" / ("other" if done else "one")).exists()
    if done:
        with pytest.raises(FileNotFoundError):
            exchange(tmp_path / "one", tmp_path / "nothing")
        assert (tmp_path / "one" / "other").exists()


def test_where_folders_cannot_change_places_they_are_renamed_one_by_one(make, monkeypatch):
    monkeypatch.setattr(step, "exchange", lambda one, other: False)
    old = make("one", [document("a", "A text.")])
    before = contents(old.folder)
    new = make("one", [document("a", "Another text.")], update=old.folder)
    assert new.passage(0)["text"] == "Another text." and contents(old.folder.with_name("corpus.previous")) == before


class Dates(DateTagger):
    """Dates, of a model with a version; remembers the texts that it saw."""

    def __init__(self, version="1"):
        super().__init__()
        self.number, self.seen = version, []

    def __call__(self, texts):
        self.seen += texts
        return super().__call__(texts)

    def version(self):
        return {"dates": self.number}


def spans_of(corpus, tagger):
    manifest, _ = prepare_spans(corpus=corpus.folder, tagger=tagger, workers=1, shard_size=9)
    arrays = [(corpus.folder / "spans" / name).read_bytes() for name in ("spans.npy", "span_offsets.npy")]
    return manifest, [*arrays, manifest["labels"], manifest["counts"]["kept"]]


def titled(corpus):
    """Titles and texts of its passages."""
    columns = corpus.passages(0, len(corpus))
    return list(zip(columns["title"], columns["text"], strict=True))


@pytest.mark.parametrize("place", ["another", "the same"])
def test_spans_of_passages_that_stay_are_kept_and_only_others_are_tagged(planted_documents, make, place):
    after, spoken = changed(planted_documents, 4), "They met in may 1990 and left."
    old = make("old", [*planted_documents, document("capitals", spoken)])
    known = titled(old)
    spans_of(old, Dates())
    after.append(document("capitals", spoken.replace("may", "May")))  # the same pieces, another text
    new, whole = make("old" if place == "the same" else "new", after, update=old.folder), make("whole", after)
    tagger = Dates()
    (manifest, made), (_, expected) = spans_of(new, tagger), spans_of(whole, Dates())
    assert made == expected
    assert tagger.seen == [text for title, text in titled(new) if (title, text) not in known]
    assert manifest["counts"]["passages_carried"] == len(new) - len(tagger.seen) > len(tagger.seen) > 5
    assert "They met in May 1990 and left." in tagger.seen


def test_spans_of_another_version_of_the_model_or_damaged_ones_are_not_kept(planted_documents, make):
    old = make("old", planted_documents)
    spans_of(old, Dates())
    new = make("new", planted_documents[1:], update=old.folder)
    tagger = Dates("2")
    spans_of(new, tagger)
    assert len(tagger.seen) == len(new)
    shutil.rmtree(new.folder / "spans")
    (old.folder / "spans" / "spans.npy").write_bytes(b"")
    tagger = Dates()
    spans_of(new, tagger)
    assert len(tagger.seen) == len(new)


KILLED = """
import os, shutil, sys
from pathlib import Path
from data_prep import step

out = Path(sys.argv[1])

def make(text):
    def work(aside):
        (aside / "file").write_text(text)
        return {}
    step.run_step(name="write", kind="text", out=out, inputs=[text], settings={}, work=work)

def make_and_die(last):
    moments = iter(range(1, last + 1))

    def dying(operation):
        def called(*args, **settings):
            next(moments) == last and os._exit(9)
            operation(*args, **settings)
            next(moments) == last and os._exit(9)
            return True
        return called

    Path.rename, step.exchange, shutil.rmtree = map(dying, (Path.rename, step.exchange, shutil.rmtree))
    make("new")

for last in range(1, 50):
    make("oldest")
    make("old")
    child = os.fork()
    if not child:
        try:
            make_and_die(last)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(step.finished(out, wanted={})["inputs"][0], (out / "file").read_text())
    for folder in out.parent.iterdir():
        shutil.rmtree(folder)
    if not code:
        break
"""


def test_killed_before_or_after_any_rename_what_is_made_in_place_of_another_is_whole(tmp_path):
    if not exchanged(tmp_path):
        pytest.skip("this file system cannot let two folders change places")
    words = [sys.executable, "-c", KILLED, str(tmp_path / "out" / "corpus")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    found = run.stdout.splitlines()
    was, now = found.count("old old"), found.count("new new")
    assert found == ["old old"] * was + ["new new"] * now and was > 2 < now


def exchanged(folder):
    """Whether two folders can change places here."""
    for name in ("one", "other"):
        (folder / name).mkdir()
        (folder / name / name).touch()
    return exchange(folder / "one", folder / "other")
