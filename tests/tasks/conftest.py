"""A small world to train in: real passages, a random index, models with the corpus's vocabulary."""

from __future__ import annotations

import pytest
import torch
from small_world import random_index
from spanned import spanned  # noqa: F401

from realm_train.tasks.retrieval import Retrieval


@pytest.fixture(autouse=True)
def one_thread():
    """One thread in a test, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def retrieval(spanned) -> Retrieval:  # noqa: F811
    """Four candidates, three of them looked up in random vectors."""
    retrieval = Retrieval(spanned, k=4, passage_length=64, body_length=48)
    retrieval.adopt(random_index(spanned))
    return retrieval
