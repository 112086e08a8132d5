"""`python -m realm_train.convert source=… corpus=… name=…`: a published REALM checkpoint becomes a run."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from realm_train.build import build_open_qa, build_reader, build_towers, check_lengths
from realm_train.callbacks import provenance
from realm_train.command import command, resolved
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.models.published_realm import Part, read_published

STAGE_OF = {"span_reader": "open_qa", "reader": "pretrain"}  # towers alone are as after ict


@command("convert")
def main(cfg: DictConfig) -> None:
    """Converts, and says where the run is."""
    sources = list(cfg.source) if isinstance(cfg.source, ListConfig) else [cfg.source]
    run, stage = convert(cfg, [Path(source) for source in sources])
    parts = "towers" if stage == "ict" else "towers and reader"
    print(f"{run}: {parts} as after the stage {stage}; block_emb, the index of another corpus, is never taken over")


def convert(cfg: DictConfig, sources: Sequence[Path]) -> tuple[Path, str]:
    """Writes the run `cfg.run` with the weights of the sources, and returns it and the stage that it is as after.

    Raises BadInput, and writes nothing, if the sources do not make up towers, or something is there already.
    """
    run, corpus = Path(cfg.run), Corpus(cfg.corpus)
    check_lengths(corpus, cfg.passage_length)
    if run.exists() and any(run.iterdir()):
        raise BadInput(f"{run}: exists already; give another name=")
    parts = parts_of(sources)
    stage = next((stage for part, stage in STAGE_OF.items() if part in parts), "ict")
    cfg = configured(cfg, parts, stage=stage)
    state = state_of(cfg, parts, corpus, stage=stage)
    beside = run.with_name(f"{run.name}.partial")
    with aside.written_aside(beside) as folder:
        write_run(folder, cfg, corpus, state, stage=stage)
        if run.exists():
            run.rmdir()  # empty
        aside.publish(folder, run)
    beside.rmdir()
    return run, stage


def parts_of(sources: Sequence[Path]) -> dict[str, Part]:
    """`embedder` for passages, `query_embedder` where questions have their own, and the readers."""
    parts: dict[str, Part] = {}
    for source in sources:
        for name, part in read_published(source).items():
            if name in parts:
                raise BadInput(f"source: {parts[name].source} and {source} both have: {name}; give one of them")
            parts[name] = part
    questions = parts.pop("question_embedder", None)
    if questions is not None and "embedder" in parts:
        parts["query_embedder"] = questions
    elif questions is not None:
        parts["embedder"] = questions
        warnings.warn(
            f"{questions.source}: its embedder was fine-tuned for questions, and now embeds the passages too; add the"
            " one that embedded its passages to source= (RealmEmbedder)",
            stacklevel=3,
        )
    if "embedder" not in parts:
        raise BadInput(f"source: got {', '.join(parts)} alone, expected an embedder too: source=[embedder,reader]")
    return parts


def configured(cfg: DictConfig, parts: dict[str, Part], *, stage: str) -> DictConfig:
    """The configuration of a run with these parts."""
    cfg, embedder = cfg.copy(), parts["embedder"]
    reader = parts.get("span_reader") or parts.get("reader") or embedder
    with open_dict(cfg):
        del cfg.source
        cfg.stages, cfg.model.dropout = [stage], None
        cfg.model.towers.update(
            dim=len(embedder.state["cls.dense.weight"]),
            pooling="pooler",
            norm_eps=embedder.settings["layer_norm_eps"],
            shared="query_embedder" not in parts,
        )
        cfg.model.towers.encoder.update(config=embedder.bert, pooler=True)
        cfg.model.reader.config = reader.bert
        del cfg.model.encoder
        if stage == "open_qa":
            cfg.open_qa.update(
                width=len(reader.state["qa_outputs.layer_normalization.weight"]),
                max_span=reader.settings["max_span_width"],
                null_score="tower",  # there is no learned score: fine-tuning knew no null passage
            )
    return cfg


def state_of(cfg: DictConfig, parts: dict[str, Part], corpus: Corpus, *, stage: str) -> dict[str, torch.Tensor]:
    """The state dict of the stage's task; every weight of the models is one of the checkpoint's."""
    query = parts.get("query_embedder", parts["embedder"]).tower()
    towers = _prefixed("passage.", parts["embedder"].tower()) | _prefixed("query.", query)
    if stage == "open_qa":
        weights = {"towers": towers, "span_reader": parts["span_reader"].span_reader()}
        return _prefixed("qa.", build_open_qa(cfg, corpus, weights).state_dict())
    state = _prefixed("towers.", build_towers(cfg, corpus, {"towers": towers}).state_dict())
    if stage == "ict":
        return state
    reader = build_reader(cfg, corpus, {"reader": parts["reader"].masked_lm()}).state_dict()
    return _prefixed("realm.", state | _prefixed("reader.", reader))


def _prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def write_run(folder: Path, cfg: DictConfig, corpus: Corpus, state: dict[str, torch.Tensor], *, stage: str) -> None:
    """What training would have left: configuration, provenance, and a finished stage with a checkpoint of step 0."""
    checkpoints = folder / "checkpoints" / stage
    checkpoints.mkdir(parents=True)
    torch.save({"state_dict": state, "global_step": 0, "epoch": 0}, checkpoints / "step-000000.ckpt")
    (checkpoints / "DONE").touch()
    OmegaConf.save(OmegaConf.create(resolved(cfg)), folder / "config.yaml")
    data = {"corpus": corpus.hash, "passages": corpus.count, "counts": corpus.manifest["counts"]}
    provenance.start(folder, command=shlex.join(["python", *sys.orig_argv[1:]]), data=data)


if __name__ == "__main__":
    main()
