"""python -m data_prep.passages source=vital out=data/vital: raw text into the passages of a corpus folder."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data_prep.corpus_writer import CorpusWriter
from data_prep.near_duplicates import SHINGLE, WINDOW, Rules, find_near_duplicates
from data_prep.packing import Packer
from data_prep.progress import progress
from data_prep.seen_hashes import SeenHashes
from data_prep.show import show_example
from data_prep.sources import Document, Source
from data_prep.splitting import Splitter
from data_prep.step import run_step
from data_prep.tokenizer import load_tokenizer
from data_prep.update import Carrier, Older, older_corpus
from data_prep.workers import cpus, in_order
from realm_train.command import command
from realm_train.errors import BadInput

FORMAT = 2  # of the files: a corpus of another format is made again
BATCH_DOCUMENTS, BATCH_CHARS = 256, 1_000_000
SHORTEST = 16  # pieces of a passage, specials and title among them


def prepare_passages(
    *,
    source: Source,
    out: str | Path,
    tokenizer: str,
    splitter: Splitter,
    max_length: int,
    near_duplicates: Rules,
    limit: int | None = None,
    workers: int | None = None,
    update: str | Path | None = None,
) -> tuple[dict, bool]:
    """Prepares the corpus folder `out` and returns its manifest and whether it had to be made.

    What has not changed since the corpus `update` was made (which may be `out` itself) is carried over from it; the
    corpus is the same without. Raises BadInput for input that is no text, and if no passage comes out.
    """
    if max_length < SHORTEST:
        raise BadInput(f"max_length: got {max_length}, expected at least {SHORTEST} word pieces")
    tokenizer_json, tokenizer_fields = load_tokenizer(tokenizer)
    settings = {
        "format": FORMAT,
        **source.settings(),
        "clean": type(source).clean.__qualname__,
        "limit": limit,
        "max_length": max_length,
        "tokenizer": tokenizer_fields["sha256"],
        "splitter": {"splitter": type(splitter).__name__, **dataclasses.asdict(splitter)},
        "near_duplicates": {"shingle": SHINGLE, "window": WINDOW, **dataclasses.asdict(near_duplicates)},
    }
    packer = Packer(tokenizer=tokenizer_json, split=splitter, clean=source.clean, max_length=max_length)

    def work(aside: Path) -> dict:
        (aside / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        many = cpus() if workers is None else workers
        dtype = "uint16" if tokenizer_fields["vocab_size"] <= 1 << 16 else "uint32"
        older = None if update is None else older_corpus(update, settings=settings)
        given = {"source": source, "packer": packer, "older": older}
        fields = write_passages(aside, **given, token_dtype=dtype, limit=limit, workers=many)
        counted = write_near_duplicates(aside, count=fields["count"], rules=near_duplicates, workers=many)
        fields["counts"]["near_duplicates"] = counted
        return {**fields, "tokenizer": tokenizer_fields, "max_length": max_length}

    return run_step(name="passages", kind="corpus", out=out, inputs=source.inputs(), settings=settings, work=work)


def write_passages(
    folder: Path,
    *,
    source: Source,
    packer: Packer,
    older: Older | None,
    token_dtype: str,
    limit: int | None,
    workers: int,
) -> dict:
    """Packs the source's documents into the folder and returns the manifest's fields about them."""
    seen_documents, seen_passages = SeenHashes(), SeenHashes()
    skipped, changed = Counter(), Counter()
    read: deque[int] = deque()
    work, items = packer, batches(source, limit=limit, read=read)
    if older is not None:
        work, items = Carrier(packer, older.corpus.folder), map(older.marked, items)
    with CorpusWriter(folder, token_dtype=token_dtype) as writer, progress("passages", unit=source.unit) as update:
        for made in in_order(work, items, workers=workers):
            new = seen_passages.first(made.keys)
            writer.append(made, keep=new)
            skipped += made.skipped + Counter(duplicate_passage=int((~new).sum()))
            first = seen_documents.first([document for document, *_ in made.sources])
            changed += made.changed + Counter(duplicate_id=int((~first).sum()))
            update(read.popleft(), source.total)
    skipped += source.skipped
    if not writer.count:
        raise BadInput(f"no passage in {writer.documents} documents ({listed(skipped)}); check what the source reads")
    return {
        "count": writer.count,
        "hash": writer.content,
        "documents": writer.documents,
        "tokens": writer.tokens,
        "sentences": writer.sentences,
        "counts": {"kept": writer.count, "skipped": dict(skipped), "changed": dict(changed)},
        **({} if older is None else {"update": older.report()}),
    }


def batches(source: Source, *, limit: int | None, read: deque[int]) -> Iterator[list[Document]]:
    """Documents in batches that are small enough to be packed at once; `read` gets the source's position after each."""
    batch, chars = [], 0
    for document in islice(source, limit):
        batch.append(document)
        chars += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or chars >= BATCH_CHARS:
            read.append(source.done)
            yield batch
            batch, chars = [], 0
    if batch:
        read.append(source.done)
        yield batch


def write_near_duplicates(folder: Path, *, count: int, rules: Rules, workers: int) -> dict[str, int]:
    """Adds the near duplicates to a corpus folder and returns their counts."""
    scratch = folder / "scratch"
    scratch.mkdir()
    with progress("near duplicates", unit="passages") as update:
        counts = find_near_duplicates(
            folder, scratch, rules=rules, workers=workers, done=lambda passages: update(passages, count)
        )
    shutil.rmtree(scratch)
    return counts


def listed(counts: dict[str, int]) -> str:
    """Counts as words: "3 duplicate passage, 1 redirect"."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items() if count) or "none"


def summary(manifest: dict, out: str | Path) -> str:
    """The step's last line."""
    counts = manifest["counts"]
    return (
        f"{counts['kept']:,} passages of {manifest['documents']:,} documents, {manifest['tokens']:,} word pieces;"
        f" left out: {listed(counts['skipped'])}; changed: {listed(counts['changed'])};"
        f" {counts['near_duplicates']['passages_with_one']:,} have near duplicates;{updated(manifest)}"
        f" {manifest['seconds']} s → {out}"
    )


def updated(manifest: dict) -> str:
    """What became of an older corpus's documents, as words; nothing where there was none."""
    if "update" not in manifest:
        return ""
    documents = dict(manifest["update"]["documents"])
    carried = documents.pop("carried")
    said = ", ".join(f"{count:,} {what}" for what, count in documents.items())
    return f" since {manifest['update']['folder']}: {said} documents, {carried:,} carried over;"


def show_passages(folder: str | Path, *, count: int) -> None:
    """Prints passages from all over the corpus, a bar before each sentence."""
    from realm_train.data.corpus import Corpus

    corpus = Corpus(folder)
    step = max(len(corpus) // max(count, 1), 1)
    for number in range(0, len(corpus), step)[:count]:
        passage = corpus.passage(number)
        near = len(corpus.near_duplicates(number))
        heading = f"{passage['title'] or '(no title)'}  · passage {number}, {near} near duplicates"
        show_example(heading=heading, text=passage["text"], sentences=corpus.sentences(number))


@command("data_prep/passages")
def main(cfg) -> None:
    """Prepares the passages of a corpus, and prints `show` of them."""
    from hydra.utils import instantiate

    manifest, made = prepare_passages(
        source=instantiate(cfg.source),
        out=cfg.out,
        tokenizer=cfg.tokenizer,
        splitter=instantiate(cfg.splitter),
        max_length=cfg.max_length,
        near_duplicates=instantiate(cfg.near_duplicates),
        limit=cfg.limit,
        workers=cfg.workers,
        update=cfg["update"],  # cfg.update is a method
    )
    show_passages(cfg.out, count=cfg.show)
    print(summary(manifest, cfg.out) if made else f"{cfg.out}: up to date, {manifest['count']:,} passages")


if __name__ == "__main__":
    main()
