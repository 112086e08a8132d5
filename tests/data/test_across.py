"""Cloze pairs across passages."""

from __future__ import annotations

import numpy as np
import pytest

from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences
from realm_train.data.masking import SalientMasking
from realm_train.data.oracle import Oracle
from realm_train.errors import BadInput
from realm_train.evaluation.retrieval import holds_run


def test_every_pair_across_holds_what_its_query_masks(spanned):
    across = MaskedSentences(spanned, SalientMasking(), oracle=Oracle(spanned), heldout_percent=0.0)
    pairs = ClozePairs(spanned, across=across, across_rate=1.0, heldout_percent=0.0)
    plain = ClozePairs(spanned, heldout_percent=0.0)
    seen = 0
    for position in range(40):
        pair, example = pairs[position], across[position]
        if example.helpful < 0:  # nobody else holds it: an ordinary pair
            assert pair.passage == pairs.order[position]
            continue
        seen += 1
        assert pair.passage == example.helpful and not pair.kept
        assert spanned.mask_id in pair.query and holds_run(pair.body, example.masked.answer())
        assert set(pair.exclude) == {*example.exclude.tolist(), example.helpful}
    assert seen and np.array_equal(plain[3].body, ClozePairs(spanned, heldout_percent=0.0, across_rate=1.0)[3].body)


def test_the_rate_is_a_probability(spanned):
    with pytest.raises(BadInput, match="across_rate: got 2"):
        ClozePairs(spanned, across_rate=2.0)
