"""Salient spans of a prepared corpus (REALM, section 3.4): entities and dates, as characters and as whole word pieces.

    python -m data_prep.spans corpus=data/vital

The tagger reads raw text. Every finished shard is a file, so a killed step goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from data_prep.alignment import Passage, Row, align
from data_prep.progress import progress
from data_prep.show import show_example
from data_prep.span_shards import merge_shards, write_shard
from data_prep.step import run_step
from data_prep.taggers import Tagger
from data_prep.tokenizer import corpus_tokenizer
from data_prep.workers import cpus, in_order
from realm_train.command import command, resolved
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput


@command("data_prep/spans")
def main(cfg: DictConfig) -> None:
    """Makes the spans if corpus or settings changed, says what was kept and skipped, and shows examples."""
    from hydra.utils import instantiate

    if cfg.shard_size < 1 or cfg.max_tokens < 1:
        raise BadInput(
            f"shard_size and max_tokens: got {cfg.shard_size} and {cfg.max_tokens}, expected at least 1 of each"
        )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers: the processes are the parallelism
    corpus = Corpus(cfg.corpus)
    out = corpus.folder / "spans"
    manifest, made = run_step(
        name="spans",
        kind="spans",
        out=out,
        inputs=[{"name": "corpus", "hash": corpus.hash}],
        settings={"tagger": resolved(cfg.tagger), "max_tokens": cfg.max_tokens},
        work=lambda aside: make_spans(
            aside,
            corpus=corpus,
            tagger=instantiate(cfg.tagger),
            max_tokens=cfg.max_tokens,
            shard_size=cfg.shard_size,
            workers=cfg.workers or cpus(),
        ),
        resumable=True,
    )
    if cfg.show:
        show(Corpus(cfg.corpus), cfg.show)
    print(summary(manifest, corpus=corpus) if made else f"{out}: up to date, {manifest['count']:,} spans")


def make_spans(aside: Path, *, corpus: Corpus, tagger: Tagger, max_tokens: int, shard_size: int, workers: int) -> dict:
    """Writes spans.npy and span_offsets.npy into `aside`; shards that are there already are not made again.

    Raises BadInput if the whole corpus has no span.
    """
    shards = aside / "shards"
    shards.mkdir(exist_ok=True)
    work = ShardTagger(corpus.folder, tagger=tagger, max_tokens=max_tokens, out=shards)
    ranges = [(start, min(start + shard_size, corpus.count)) for start in range(0, corpus.count, shard_size)]
    missing = [shard for shard in ranges if not work.path(shard).exists()]
    done = corpus.count - sum(end - start for start, end in missing)
    words, started = 0, time.perf_counter()
    with progress("spans", total=corpus.count, unit="passages") as show_progress:
        show_progress(done)
        for passages, words_of_shard in in_order(work, missing, workers=workers):
            done, words = done + passages, words + words_of_shard
            show_progress(done)
    seconds = time.perf_counter() - started
    fields = merge_shards([work.path(shard) for shard in ranges], aside)
    if fields["count"] == 0:
        raise BadInput(
            f"{corpus.folder}: not one span in {corpus.count} passages, tagger {fields['tagger']}, skipped"
            f" {fields['counts']['skipped']}; give another tagger=, or train with masking=span, which needs no spans"
        )
    shutil.rmtree(shards)
    return {"corpus": corpus.hash, **fields, "words_per_second": round(words / seconds)}


class ShardTagger:
    """Tags passages [start, end) and writes them as one file, complete or not at all."""

    def __init__(self, corpus: Path, *, tagger: Tagger, max_tokens: int, out: Path) -> None:
        self.folder, self.tagger, self.max_tokens, self.out = corpus, tagger, max_tokens, out

    def path(self, shard: tuple[int, int]) -> Path:
        """Where the shard's file is once it is done."""
        return self.out / "{:09d}-{:09d}.npz".format(*shard)

    def __call__(self, shard: tuple[int, int]) -> tuple[int, int]:
        """How many passages and words were tagged."""
        passages = range(*shard)
        texts = [self._corpus.passage(passage)["text"] for passage in passages]
        rows: list[Row] = []
        counts, skipped = [], Counter()
        for passage, text, entities in zip(passages, texts, self.tagger(texts), strict=True):
            kept, reasons = align(self._passage(passage, text), entities, max_tokens=self.max_tokens)
            rows += kept
            counts.append(len(kept))
            skipped.update(reasons)
        words = sum(len(text.split()) for text in texts)
        report = {"skipped": skipped, "tagger": self.tagger.describe()}
        write_shard(self.path(shard), rows=rows, counts=counts, report=report)
        return len(texts), words

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


def show(corpus: Corpus, examples: int) -> None:
    """Prints passages from all over the corpus, their spans underlined."""
    labels = corpus.span_manifest["labels"]
    with_spans = np.flatnonzero(corpus.span_counts())
    for passage in with_spans[np.linspace(0, len(with_spans) - 1, min(examples, len(with_spans)), dtype=np.int64)]:
        record = corpus.passage(passage)
        spans = [(row[1], row[2], labels[row[5]]) for row in corpus.spans(passage).tolist()]
        show_example(
            heading=record["title"], text=record["text"], sentences=corpus.sentences(passage).tolist(), spans=spans
        )


def summary(manifest: dict, *, corpus: Corpus) -> str:
    """What was kept and what was not, on a few lines."""
    counts = manifest["counts"]
    lines = [
        f"kept {counts['kept']:,} spans: {_listed(counts['by_label'])}",
        f"skipped: {_listed(counts['skipped']) or 'none'}",
        f"passages without a span: {counts['passages_without_span']:,} of {corpus.count:,}",
        f"{corpus.folder / 'spans'}: {manifest['seconds']:,.0f} s, {manifest['words_per_second']:,} words a second",
    ]
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common())


if __name__ == "__main__":
    main()
