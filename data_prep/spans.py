"""python -m data_prep.spans corpus=data/vital: the salient spans of a prepared corpus (REALM, section 3.4).

A tagger reads raw text; what it finds is kept where it can be masked: whole word pieces of one sentence. Every finished
shard is a file, so a killed step goes on where it was. Passages that stood in the corpus that this one was updated from
keep the spans that they had.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np

from data_prep.alignment import Passage, Row, align
from data_prep.carried_spans import CarriedSpans, older_spans, places
from data_prep.progress import progress
from data_prep.show import show_example
from data_prep.span_shards import merge_shards, write_shard
from data_prep.step import run_step
from data_prep.taggers import Tagger
from data_prep.tokenizer import corpus_tokenizer
from data_prep.workers import cpus, in_order
from realm_train.command import command
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput

FORMAT = 1  # of the files and of what counts as a span: spans of another format are made again
PLACES = "places.npy"  # where passages are in the older corpus


def prepare_spans(
    *, corpus: str | Path, tagger: Tagger, max_tokens: int = 10, shard_size: int = 512, workers: int | None = None
) -> tuple[dict, bool]:
    """Writes `corpus`/spans; returns its manifest and whether it had to be made.

    `shard_size` is passages between two saves. Raises BadInput for a folder that is no corpus, a tagger that cannot be
    loaded, and a corpus without a single span.
    """
    for name, value in {"max_tokens": max_tokens, "shard_size": shard_size}.items():
        if value < 1:
            raise BadInput(f"{name}: got {value}, expected at least 1")
    opened = Corpus(corpus)
    settings = {"format": FORMAT, "tagger": tagger.settings(), "max_tokens": max_tokens}
    return run_step(
        name="spans",
        kind="spans",
        out=opened.folder / "spans",
        inputs=[{"name": "corpus", "hash": opened.hash}],
        settings=settings,
        work=lambda aside: write_spans(
            aside,
            corpus=opened,
            older=older_spans(opened, settings=settings),
            tagger=tagger,
            max_tokens=max_tokens,
            shard_size=shard_size,
            workers=cpus() if workers is None else workers,
        ),
        resumable=True,
    )


def write_spans(
    folder: Path,
    *,
    corpus: Corpus,
    older: Path | None,
    tagger: Tagger,
    max_tokens: int,
    shard_size: int,
    workers: int,
) -> dict:
    """Writes the arrays into `folder` and returns the manifest's fields; shards that are there are not made again."""
    shards = folder / "shards"
    shards.mkdir(exist_ok=True)
    if older is not None:
        np.save(shards / PLACES, places(corpus, Corpus(older)))
    work = ShardTagger(corpus.folder, tagger=tagger, max_tokens=max_tokens, out=shards, older=older)
    ranges = [(start, min(start + shard_size, corpus.count)) for start in range(0, corpus.count, shard_size)]
    missing = [shard for shard in ranges if not work.path(shard).exists()]
    done = corpus.count - sum(end - start for start, end in missing)
    words, started = 0, time.perf_counter()
    with progress("spans", unit="passages") as update:
        update(done, corpus.count)
        for passages, words_of_shard in in_order(work, missing, workers=workers):
            done, words = done + passages, words + words_of_shard
            update(done, corpus.count)
    seconds = time.perf_counter() - started
    fields = merge_shards([work.path(shard) for shard in ranges], folder)
    if not fields["count"]:
        raise BadInput(
            f"{corpus.folder}: no span in {corpus.count} passages (tagger {tagger.settings()}; skipped:"
            f" {listed(fields['counts']['skipped'])}); give another tagger=, or train with masking=span or token"
        )
    shutil.rmtree(shards)
    return {"corpus": corpus.hash, **fields, "words_per_second": round(words / seconds)}


class ShardTagger:
    """Tags passages [start, end) and writes them as one file, complete or not at all."""

    def __init__(self, corpus: Path, *, tagger: Tagger, max_tokens: int, out: Path, older: Path | None = None) -> None:
        self.folder, self.tagger, self.max_tokens, self.out, self.older = corpus, tagger, max_tokens, out, older

    def path(self, shard: tuple[int, int]) -> Path:
        """Where the shard's file is once it is done."""
        return self.out / "{:09d}-{:09d}.npz".format(*shard)

    def __call__(self, shard: tuple[int, int]) -> tuple[int, int]:
        """How many passages the shard has, and how many words were tagged."""
        texts = self._corpus.passages(*shard)["text"]
        known = [self._carried and self._carried(passage, text) for passage, text in enumerate(texts, start=shard[0])]
        unknown = [text for text, rows in zip(texts, known, strict=True) if rows is None]
        found, skipped = iter(self.tagger(unknown)), Counter()
        for number, text in enumerate(texts):
            if known[number] is None:
                passage = self._passage(shard[0] + number, text)
                known[number], reasons = align(passage, next(found), max_tokens=self.max_tokens)
                skipped.update(reasons)
        report = {"skipped": skipped, "models": self.tagger.version(), "carried": len(texts) - len(unknown)}
        rows: list[Row] = [row for rows in known for row in rows]
        write_shard(self.path(shard), rows=rows, counts=[len(rows) for rows in known], report=report)
        return len(texts), sum(len(text.split()) for text in unknown)

    @cached_property
    def _carried(self) -> CarriedSpans | None:
        """What the older corpus has, if the very same models found it."""
        if self.older is None:
            return None
        older = Corpus(self.older)
        if older.span_manifest["models"] != self.tagger.version():
            return None
        return CarriedSpans(older, np.load(self.out / PLACES, mmap_mode="r"))

    def _passage(self, passage: int, text: str) -> Passage:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64)
        if not np.array_equal(ids, self._corpus.body(passage)):
            raise BadInput(
                f"{self.folder}: its tokenizer.json makes other pieces of passage {passage} than tokens.npy holds;"
                " prepare the corpus again"
            )
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return Passage(
            text=text,
            sentences=self._corpus.sentences(passage),
            starts=offsets[:, 0],
            ends=offsets[:, 1],
            words=np.array(encoding.word_ids, dtype=np.int64),
            unknown=ids == self._unknown,
        )

    @cached_property
    def _corpus(self) -> Corpus:
        return Corpus(self.folder)

    @cached_property
    def _tokenizer(self):
        return corpus_tokenizer(self.folder)

    @cached_property
    def _unknown(self) -> int | None:
        """The id of the piece that stands for what the vocabulary lacks; byte-level vocabularies lack nothing."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return None if name is None else self._tokenizer.token_to_id(name)


def show_spans(folder: str | Path, *, count: int) -> None:
    """Prints passages from all over the corpus, their spans underlined."""
    corpus = Corpus(folder)
    labels = corpus.span_manifest["labels"]
    with_spans = np.flatnonzero(corpus.span_counts())
    step = max(len(with_spans) // max(count, 1), 1)
    for number in with_spans[::step][:count].tolist():
        passage = corpus.passage(number)
        spans = [(row[1], row[2], labels[row[5]]) for row in corpus.spans(number).tolist()]
        heading = f"{passage['title'] or '(no title)'}  · passage {number}"
        show_example(heading=heading, text=passage["text"], sentences=corpus.sentences(number), spans=spans)


def summary(manifest: dict, folder: str | Path) -> str:
    """The step's last line."""
    counts = manifest["counts"]
    return (
        f"{counts['kept']:,} spans: {listed(counts['by_label'])}; left out: {listed(counts['skipped'])};"
        f" {counts['passages_without_span']:,} passages without a span;"
        f" {counts['passages_carried']:,} passages had theirs already;"
        f" {manifest['words_per_second']:,} words a second, {manifest['seconds']} s → {folder}"
    )


def listed(counts: dict[str, int]) -> str:
    """Counts as words, the largest first: "3 PERSON, 1 DATE"."""
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in Counter(counts).most_common()) or "none"


@command("data_prep/spans")
def main(cfg) -> None:
    """Makes the spans of a corpus, and prints `show` of its passages."""
    from hydra.utils import instantiate

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers: the processes are the parallelism
    manifest, made = prepare_spans(
        corpus=cfg.corpus,
        tagger=instantiate(cfg.tagger),
        max_tokens=cfg.max_tokens,
        shard_size=cfg.shard_size,
        workers=cfg.workers,
    )
    show_spans(cfg.corpus, count=cfg.show)
    folder = Path(cfg.corpus) / "spans"
    print(summary(manifest, folder) if made else f"{folder}: up to date, {manifest['count']:,} spans")


if __name__ == "__main__":
    main()
