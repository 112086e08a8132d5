"""The tokenizer of a corpus: any fast Hugging Face tokenizer, kept inside the corpus folder as `tokenizer.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from realm_train.errors import BadInput

SPECIAL = ("cls", "sep", "mask", "pad")
PROBE = ("Ada wrote a program.", "It ran, in 1843.")


def load_tokenizer(name: str) -> tuple[str, dict]:
    """A tokenizer by hub name or folder, as JSON, and `{"name", "sha256", "vocab_size", "cls", "sep", "mask", "pad"}`.

    Raises BadInput where it cannot be loaded, lacks a special token, or makes other pieces of a sentence than of the
    text around it (a passage is stored as the pieces of its sentences).
    """
    loaded = _loaded(name)
    text = with_prefix_space(loaded.backend_tokenizer.to_str())
    if not is_separable(plain_tokenizer(text)):
        raise BadInput(f"tokenizer {name}: pieces of a sentence change with the text before it; give a BERT-type one")
    special = {key: getattr(loaded, f"{key}_token_id") for key in SPECIAL}
    missing = [f"{key}_token" for key, value in special.items() if value is None]
    if missing:
        raise BadInput(f"tokenizer {name}: has no {', '.join(missing)}; give one of a BERT-type encoder")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return text, {"name": name, "sha256": sha256, "vocab_size": len(loaded), **special}


def _loaded(name: str):
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"tokenizer {name}: cannot be loaded ({reason}); give a hub name or a folder") from error
    if not loaded.is_fast:
        raise BadInput(f"tokenizer {name}: has no fast version, which character offsets need; give another")
    return loaded


def with_prefix_space(text: str) -> str:
    """A byte-level tokenizer (RoBERTa's, ModernBERT's) made to read a text's first word as it reads all others."""
    tree = json.loads(text)
    first = tree["pre_tokenizer"] or {}
    for part in [first, *first.get("pretokenizers", [])]:
        if part.get("type") == "ByteLevel":
            part["add_prefix_space"] = True
    return json.dumps(tree, ensure_ascii=False)


def plain_tokenizer(text: str):
    """The `tokenizers.Tokenizer` of this JSON that reads "[MASK]" in a text as ordinary characters, and never cuts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def corpus_tokenizer(folder: str | Path):
    """The tokenizer that a prepared corpus was made with: the pieces of a passage's text are its stored body."""
    path = Path(folder) / "tokenizer.json"
    try:
        return plain_tokenizer(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error}); prepare the corpus again") from error


def is_separable(tokenizer) -> bool:
    """Sentences one by one give the pieces of the whole."""
    apart = [piece for part in PROBE for piece in tokenizer.encode(part, add_special_tokens=False).ids]
    return apart == tokenizer.encode(" ".join(PROBE), add_special_tokens=False).ids
