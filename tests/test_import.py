"""`import realm_train` is light, and every public name resolves."""

import subprocess
import sys

import pytest

import realm_train

HEAVY = ("torch", "faiss", "wandb", "spacy", "datasets", "hydra", "omegaconf", "transformers", "pytorch_lightning")


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_importing_the_package_imports_nothing_heavy():
    assert modules_after("import realm_train").isdisjoint(HEAVY)


def test_the_corpus_and_the_exact_index_need_no_optional_package():
    loaded = modules_after("from realm_train import Corpus, ExactIndex, marginal_log_likelihood")
    assert "torch" in loaded
    assert loaded.isdisjoint({"faiss", "wandb", "spacy", "datasets", "hydra", "transformers", "pytorch_lightning"})


@pytest.mark.parametrize("name", realm_train.__all__)
def test_every_public_name_resolves(name):
    thing = getattr(realm_train, name)
    assert name == "__version__" or thing.__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Relam'"):
        realm_train.Relam  # noqa: B018


def test_dir_lists_the_public_names():
    assert set(dir(realm_train)) == set(realm_train.__all__)
