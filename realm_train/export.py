"""`python -m realm_train.export run=runs/<name> out=exported/<name>`: a run in the formats of other libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import nn

from realm_train.callbacks import provenance
from realm_train.command import command
from realm_train.data.corpus import Corpus
from realm_train.data.vectors import save_passages, write_ids
from realm_train.errors import BadInput
from realm_train.evaluation.comparison import scalars, short
from realm_train.evaluation.model_card import export_card, reader_card, search_code, span_reader_card, tower_card
from realm_train.index import aside
from realm_train.index.faiss import write_exported
from realm_train.index.snapshot import tower_hash
from realm_train.index.store import IndexStore
from realm_train.models.encoder import has_segments
from realm_train.models.exported_tower import head_code, model_args, save_span_reader, save_tokenizer, save_tower
from realm_train.models.towers import Tower
from realm_train.trained import Trained, open_trained

MANIFEST = "export.json"


@command("export")
def main(cfg: DictConfig) -> None:
    """Exports one run, and says what is where."""
    out = Path(cfg.out)
    refuse_foreign(out)
    trained = open_trained(cfg.run, stage=cfg.stage, corpus=cfg.corpus, device=cfg.device, threads=cfg.threads)
    for folder, what in export(trained, out, vectors=cfg.vectors).items():
        print(f"{out / folder}: {what}")


def export(trained: Trained, out: Path, *, vectors: bool = True) -> dict[str, str]:
    """Writes the export of an opened run as `out`, and returns its folders and what each holds; an export that was
    there before becomes `<out>.previous`. Raises BadInput, and changes nothing, if something else is there."""
    refuse_foreign(out)
    with replacing(out) as folder:
        folders = save_towers(trained, folder) | save_readers(trained, folder)
        if vectors:
            folders |= save_index(trained, folder)
        (folder / "README.md").write_text(whole_card(trained, folders, searchable=vectors), encoding="utf-8")
        manifest = {"kind": "export", **facts(trained), "folders": folders}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folders


def refuse_foreign(out: Path) -> None:
    """Raises BadInput if something stands at `out` that is no export."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and not is_export(out):
        raise BadInput(f"{out}: exists and is no export; nothing was touched: give another out=")


def is_export(folder: Path) -> bool:
    """Whether an export is there."""
    manifest = aside.read_json(folder / MANIFEST)
    return isinstance(manifest, dict) and manifest.get("kind") == "export"


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `out` when the block ends; after an error all is as it was."""
    beside = out.with_name(f"{out.name}.partial")
    try:
        with aside.written_aside(beside) as folder:
            yield folder
            make_room(out)
            aside.publish(folder, out)
    finally:
        with suppress(OSError):
            beside.rmdir()  # succeeds only when nothing else is being written


def make_room(out: Path) -> None:
    """Renames an older export to `<out>.previous`; one of that name goes, what is no export stays and is refused."""
    if not out.exists():
        return
    if not any(out.iterdir()):
        out.rmdir()
        return
    previous = out.with_name(f"{out.name}.previous")
    if previous.exists() and not is_export(previous):
        raise BadInput(f"{previous}: exists and is no export, so {out} cannot be moved there; move one of them away")
    aside.remove(previous)
    out.rename(previous)


def save_towers(trained: Trained, folder: Path) -> dict[str, str]:
    """One folder for both towers where they are one, else one each."""
    lengths = {"passages": trained.cfg.passage_length, "questions": trained.cfg.query_length}
    towers = trained.towers
    if towers.shared:
        parts = [("retriever", "questions and passages", towers.passage, lengths["passages"])]
    else:
        parts = [
            ("query", "questions", towers.query, lengths["questions"]),
            ("passage", "passages", towers.passage, lengths["passages"]),
        ]
    for name, role, tower, max_length in parts:
        target = folder / name
        segments = tower.segments and has_segments(tower.encoder)
        tokenizer = tokenizer_of(trained.corpus, max_length=max_length, segments=segments)
        save_tower(tower, target, tokenizer=tokenizer, max_length=max_length)
        (target / "README.md").write_text(card_of(trained, tower, role, max_length), encoding="utf-8")
    return {name: f"vectors of {role}: sentence-transformers and transformers" for name, role, *_ in parts}


def card_of(trained: Trained, tower: Tower, role: str, max_length: int) -> str:
    """The model card of a tower."""
    return tower_card(
        about=trained.run.name,
        role=role,
        dim=tower.dim,
        max_length=max_length,
        query_length=trained.cfg.query_length,
        scale=trained.towers.scale,
        pooling=tower.pooling,
        head=head_code(tower),
        load_arguments="".join(f", {name}={value}" for name, value in model_args(tower).items()),
        base_model=base_model(trained),
    )


def save_readers(trained: Trained, folder: Path) -> dict[str, str]:
    """The masked language model, and the reader of spans, as far as they are trained."""
    said = {"about": trained.run.name, "query_length": trained.cfg.query_length, "base_model": base_model(trained)}
    saved = {}
    if trained.masked_lm is not None:
        model = trained.masked_lm.masked_lm
        model.save_pretrained(folder / "reader")
        card = reader_card(**said, passage_length=trained.cfg.passage_length)
        add_to_reader(trained, folder / "reader", model, card)
        saved["reader"] = "masked language model: transformers' AutoModelForMaskedLM"
    if (reader := trained.span_reader) is not None:
        save_span_reader(reader, folder / "span_reader")
        card = span_reader_card(**said, max_span=reader.max_span, eps=reader.norm.eps)
        add_to_reader(trained, folder / "span_reader", reader.encoder, card)
        saved["span_reader"] = "scores answers in a passage: transformers' AutoModel, and head.safetensors"
    return saved


def add_to_reader(trained: Trained, folder: Path, model: nn.Module, card: str) -> None:
    """The tokenizer and the card of a reader."""
    longest = trained.cfg.query_length + trained.cfg.passage_length
    save_tokenizer(tokenizer_of(trained.corpus, max_length=longest, segments=has_segments(model)), folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def save_index(trained: Trained, folder: Path) -> dict[str, str]:
    """The vectors of all passages, as a faiss file with ids and as a data set with titles and texts."""
    version, search, embeddings = vectors_of(trained)
    inside = folder / "index"
    inside.mkdir()
    write_exported(embeddings, version, search, inside / "index.faiss")
    write_ids(trained.corpus, inside / "ids.jsonl")
    save_passages(trained.corpus, embeddings, folder / "passages")
    kind = "as the run searches it" if search["kind"] == "faiss" else "exact (IndexFlatIP)"
    return {
        "index": f"faiss file, {kind}; line i of ids.jsonl is the id of row i",
        "passages": "datasets: id, title, text, embeddings; load_faiss_index reads index/index.faiss",
    }


def vectors_of(trained: Trained) -> tuple[Path, dict, np.ndarray]:
    """The folder, the search settings and the embeddings [N, D] of the newest version of these very towers."""
    trained.index  # noqa: B018 - encodes the corpus where there is no such version yet
    tower, corpus = tower_hash(trained.towers.passage.state_dict()), trained.corpus.hash
    for store in map(IndexStore, sorted(trained.run.glob("index*"))):
        if (version := store.of_tower(tower, corpus=corpus)) is not None:
            manifest, embeddings = store.load(version, corpus=corpus, tower=tower)
            return store.folder(version), manifest.get("search", {"kind": "exact"}), embeddings
    raise BadInput(f"{trained.run}: its index went away while it was exported; export again")


def tokenizer_of(corpus: Corpus, *, max_length: int, segments: bool) -> Any:
    """The corpus's tokenizer as transformers saves it, with our special tokens around one text and around a pair."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer.from_str(corpus.tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    ids = {name: corpus.manifest["tokenizer"][name] for name in ("cls", "sep", "mask", "pad")}
    words = {name: own.id_to_token(number) for name, number in ids.items()}
    cls, sep = words["cls"], words["sep"]
    own.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids["cls"]), (sep, ids["sep"])],
    )
    unknown = json.loads(own.to_str())["model"].get("unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        model_max_length=max_length,
        model_input_names=["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
        unk_token=unknown,
        **{f"{name}_token": word for name, word in words.items()},
    )


def facts(trained: Trained) -> dict[str, Any]:
    """Where the export comes from."""
    manifest = trained.corpus.manifest
    return {
        "run": trained.run.name,
        "stage": trained.stage,
        "step": trained.step,
        "commit": provenance.read(trained.run).get("commit"),
        "corpus": trained.corpus.folder.name,
        "corpus_hash": trained.corpus.hash,
        "passages": trained.corpus.count,
        "tokenizer": "/".join(Path(manifest["tokenizer"]["name"]).parts[-2:]),
        "score_scale": trained.towers.scale,
        "vectors": f"encoded in {trained.precision}, kept as {trained.cfg.refresh.dtype}",
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def base_model(trained: Trained) -> str | None:
    """The hub name that the towers started from, if it is one."""
    name = trained.cfg.model.get("name")
    return name if name and not Path(name).exists() and name.count("/") <= 1 else None


def whole_card(trained: Trained, folders: Mapping[str, str], *, searchable: bool) -> str:
    """The card of the export, with the numbers that the run's folder has."""
    report = aside.read_json(trained.run / "report.json") or {}
    numbers = scalars({name: report[name] for name in ("ict", "realm", "index") if name in report})
    tables = sorted(trained.run.glob("evaluation/*/table.md"))
    query_folder = "retriever" if trained.towers.shared else "query"
    return export_card(
        about=trained.run.name,
        folders=folders,
        facts={name.replace("_", " "): value for name, value in facts(trained).items()},
        numbers={name: short(value) for name, value in numbers.items()},
        tables={path.parent.name: path.read_text(encoding="utf-8") for path in tables},
        search=search_code(query_folder=query_folder, faiss_file="index/index.faiss") if searchable else None,
    )


if __name__ == "__main__":
    main()
