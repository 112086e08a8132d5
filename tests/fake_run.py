"""A run folder as training leaves it; its numbers are made up but agree: curves fall, versions are adopted."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

PASSAGES = {
    "Paris": (
        "Paris is the capital of France. The Eiffel Tower, built by the firm of Gustave Eiffel for the "
        "world's fair of 1889, was first disliked by artists and is now the symbol of the city on the Seine."
    ),
    "World's fair": (
        "Universal exhibitions showed the industry of nations. London opened the first in 1851 under a roof "
        "of glass; the fair of 1889 left behind the Eiffel Tower, and that of 1958 the Atomium in Brussels."
    ),
    "Iron": (
        "Iron is a metal of the first transition series. Wrought iron carried bridges and towers until steel "
        "became cheap in the last quarter of the nineteenth century."
    ),
    "Marie Curie": (
        "Marie Curie, born Skłodowska in Warsaw, shared the Nobel Prize in Physics in 1903 and received the "
        "Nobel Prize in Chemistry in 1911. She named polonium after her country."
    ),
    "Radioactivity": (
        "Henri Becquerel found radioactivity in 1896 in salts of uranium. Polonium and radium were found two "
        "years later by Marie Curie and Pierre Curie in Paris."
    ),
    "Nile": (
        "The Nile flows north through eleven countries into the Mediterranean Sea. Below Khartoum the White "
        "Nile and the Blue Nile are one river, and from Aswan on it fed ancient Egypt."
    ),
    "Cairo": (
        "Cairo, the capital of Egypt, lies on the Nile where its valley opens into the delta. Its old town "
        "counts several hundred mosques."
    ),
    "Ludwig van Beethoven": (
        "Beethoven came to Vienna in 1792 to study with Joseph Haydn. His ninth symphony, first heard there "
        "in 1824, ends with a chorus on a poem of Friedrich Schiller."
    ),
    "Vienna": (
        "Vienna stands on the Danube. Mozart, Haydn, Beethoven and Schubert worked in the city, and its opera "
        "opened in 1869 on the Ringstraße."
    ),
    "Photosynthesis": (
        "In photosynthesis plants, algae and cyanobacteria turn light into chemical energy. The green pigment "
        "chlorophyll absorbs mainly red and blue light, and oxygen is released."
    ),
    "Chlorophyll": (
        "Chlorophyll is a pigment with a magnesium ion at its centre. It sits in the thylakoid membranes of "
        "chloroplasts."
    ),
    "Isaac Newton": (
        "Isaac Newton published the Principia in 1687, with the laws of motion and of universal gravitation. "
        "He shared the invention of calculus with Gottfried Wilhelm Leibniz."
    ),
    "Calculus": (
        "Calculus is the study of continuous change. It was developed in the late 17th century by Isaac "
        "Newton and Gottfried Wilhelm Leibniz, who quarrelled about who was first."
    ),
    "Mount Everest": (
        "Edmund Hillary and Tenzing Norgay reached the summit of Mount Everest on 29 May 1953, from the south "
        "side, in Nepal."
    ),
    "Himalayas": (
        "The Himalayas part the plains of India from Tibet. Mount Everest, on the border of Nepal and China, "
        "is their highest peak."
    ),
    "William Shakespeare": (
        "William Shakespeare was born in Stratford-upon-Avon in 1564. Hamlet, King Lear and Macbeth were "
        "written between 1599 and 1606."
    ),
}

SENTENCES = [
    ("the [MASK] [MASK] is a tower of wrought iron on the champ de mars in paris.", "eiffel tower", "Eiffel Tower"),
    ("polonium was discovered in 1898 by [MASK] [MASK] and her husband.", "marie curie", "Polonium"),
    ("the blue [MASK] leaves lake tana in ethiopia.", "nile", "Lake Tana"),
    ("[MASK] lived in vienna from 1792 until his death.", "beethoven", "Bonn"),
    ("leaves are green because of [MASK].", "chlorophyll", "Leaf"),
    ("the notation of [MASK] wilhelm leibniz is the one still in use.", "gottfried", "Derivative"),
    ("tenzing norgay climbed [MASK] [MASK] with a new zealander.", "mount everest", "Tenzing Norgay"),
    ("the play [MASK] is set at elsinore <in denmark> & ends badly.", "hamlet", "Helsingør"),
    ("the capital of [MASK] is the largest arab city.", "egypt", "Arab world"),
    ("the opera on the [MASK] opened in 1869.", "ringstraße", "Opera house"),
]


def fake_run(folder: Path, *, learnt: bool = True, seed: int = 0, ict_steps: int = 200, steps: int = 400) -> Path:
    """Write a whole run into `folder`; with `learnt=False` its retriever has learnt nothing."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    config = f"experiment: quickstart\nseed: {seed}\npretrain:\n  steps: {steps}\n  lr: 3.0e-05\nretrieval:\n  k: 8\n"
    (folder / "config.yaml").write_text(config)
    events = [*_ict_events(rng, ict_steps), *_pretrain_events(rng, steps, learnt)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "provenance.json").write_text(json.dumps(_provenance(ict_steps, steps)))
    for version in range(2, 5):
        path = folder / "index" / f"v{version:06d}"
        path.mkdir(parents=True)
        manifest = {
            "kind": "index",
            "version": version,
            "trained_step": version * steps // 4,
            "count": 12043,
            "dim": 128,
        }
        (path / "manifest.json").write_text(json.dumps(manifest))
    (folder / "heldout").mkdir()
    for step, done in ((0, 0.0), (steps, 1.0)):
        record = _heldout(random.Random(seed + 1), step, done if learnt else 0.0)
        (folder / "heldout" / f"pretrain-{step:06d}.json").write_text(json.dumps(record))
    return folder


def _ict_events(rng: random.Random, steps: int) -> list[dict]:
    events = []
    for step in range(0, steps, 2):
        done = 1 - math.exp(-step / 60)
        event = {"step": step, "stage": "ict", "time": 1.7e9 + step, "loss": 4.1 - 2.7 * done + rng.gauss(0, 0.15)}
        event["ict/accuracy_masked"] = min(1.0, 0.05 + 0.6 * done + rng.gauss(0, 0.05))
        event["ict/accuracy_kept"] = min(1.0, 0.2 + 0.8 * done)
        event["ict/accuracy"] = 0.9 * event["ict/accuracy_masked"] + 0.1 * event["ict/accuracy_kept"]
        events.append({**event, "throughput/tokens_per_second": 9000 + rng.gauss(0, 300)})
    events.append({"step": steps, "stage": "ict", "time": 1.7e9 + steps, "heldout/ict_accuracy": 0.61})
    return events


def _pretrain_events(rng: random.Random, steps: int, learnt: bool) -> list[dict]:
    events, version, trained = [], 0, 0
    for step in range(0, steps + 1, 2):
        done = 1 - math.exp(-3 * step / steps)
        event = {"step": step, "stage": "pretrain", "time": 1.7e9 + 300 + step}
        if step % (steps // 4) == 20 and step > 20 or step == 0:
            version, trained = step // (steps // 4), step - step % (steps // 4)
            events.append({**event, **_adoption(version, done)})
        gain = 0.35 * done if learnt else -0.05
        event["loss"] = 5.6 - 1.1 * done - gain + rng.gauss(0, 0.35)
        event["retrieval/utility"] = gain + rng.gauss(0, 0.1)
        event["retrieval/p_null"] = 0.13 + (0.2 if learnt else 0.8) * done + rng.gauss(0, 0.01)
        event["retrieval/entropy"] = 1.9 - 0.8 * done + rng.gauss(0, 0.03)
        event["retrieval/score_std"] = 0.4 + 1.1 * done + rng.gauss(0, 0.05)
        event |= {"retrieval/leaks": 0, "index/version": version, "index/age_steps": step - trained}
        events.append({**event, "throughput/tokens_per_second": 5200 + rng.gauss(0, 200)})
    return events


def _adoption(version: int, done: float) -> dict:
    metrics = {"index/version": version, "index/refresh_seconds": 14.0 + version}
    metrics |= {f"retrieval/recall@{k}": base + 0.1 * done for k, base in ((1, 0.08), (5, 0.21), (20, 0.38))}
    if version:
        metrics |= {f"index/overlap@{k}": base + 0.3 * done for k, base in ((1, 0.4), (5, 0.45), (20, 0.5))}
    return metrics


def _provenance(ict_steps: int, steps: int) -> dict:
    return {
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "hardware": {"cpu": "Some CPU", "cores": 2, "memory_gib": 8.0, "gpus": [], "threads": 2},
        "command": "realm_train.train experiment=quickstart",
        "started": 1.7e9,
        "data": {"corpus": {"hash": "c0ffee", "kept": 12043, "skipped": {"empty": 3, "duplicate": 41}}},
        "stages": {
            "prepare": {"passages": 21.5, "spans": 64.0},
            "ict": {"seconds": 190.0, "steps": ict_steps},
            "pretrain": {"seconds": 410.0, "steps": steps},
        },
    }


def _heldout(rng: random.Random, step: int, done: float) -> dict:
    masks = [len(answer.split()) for _, answer, _ in SENTENCES] * 8
    nulls = [count * (5.4 - 0.9 * done) + rng.gauss(0, 0.8) for count in masks]
    gains = [count * (0.01 + 0.36 * done) + rng.gauss(0, 0.15 * (0.2 + done)) for count in masks]
    losses = [null - gain for null, gain in zip(nulls, gains, strict=True)]
    loss, null = sum(losses) / sum(masks), sum(nulls) / sum(masks)
    return {
        "step": step,
        "stage": "pretrain",
        "metrics": {
            "loss": loss,
            "loss_null": null,
            "utility": null - loss,
            "p_null": 0.14 + 0.17 * done,
            "entropy": 1.95 - 0.8 * done,
            "recall@1": 0.08 + 0.09 * done,
            "recall@5": 0.21 + 0.13 * done,
            "recall@20": 0.38 + 0.08 * done,
        },
        "loss_by_example": losses,
        "loss_null_by_example": nulls,
        "masks_by_example": masks,
        "examples": [_example(rng, number, done) for number in range(len(SENTENCES))],
    }


def _example(rng: random.Random, number: int, done: float) -> dict:
    """The prior sharpens on passages that hold the answer; log_p is the marginal of what is shown."""
    masked, answer, title = SENTENCES[number]
    holds = {name: answer in text.lower() for name, text in PASSAGES.items()}
    ranked = sorted(PASSAGES, key=lambda name: rng.random() - (0.9 * done if holds[name] else 0.0))[:7]
    scores = {name: rng.gauss(0, 0.3) + 2.6 * done * holds[name] for name in ranked}
    total = math.exp(1.0 * done) + sum(map(math.exp, scores.values()))
    log_null = -4.5 + 0.5 * done
    passages = [
        {
            "id": list(PASSAGES).index(name),
            "title": name,
            "text": PASSAGES[name],
            "p": math.exp(scores[name]) / total,
            "score": scores[name],
            "log_likelihood": log_null + (2.5 * done if holds[name] else -0.1) + rng.gauss(0, 0.1),
            "has_answer": holds[name],
        }
        for name in ranked
    ]
    p_null = math.exp(1.0 * done) / total
    log_p = math.log(p_null * math.exp(log_null) + sum(row["p"] * math.exp(row["log_likelihood"]) for row in passages))
    shown = {"id": 100 + number, "masked": masked, "answer": answer, "title": title}
    return {**shown, "log_p": log_p, "log_p_null": log_null, "p_null": p_null, "passages": passages}
