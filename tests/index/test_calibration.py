"""Recall is measured as brute force would, effort is the least that reaches the target, and the floor is a floor."""

import numpy as np
import pytest
import torch

from realm_train.batch import MISSING, Neighbours
from realm_train.errors import BadInput
from realm_train.index.calibration import Wanted, calibrate, recall_at
from realm_train.index.exact import ExactIndex

COUNT, DIM = 400, 6


class Leaky:
    """Of the best 100 it sees those that its width lets it see, and all the others; it gives them out of order, every
    `stride`-th first: recall is known for every effort."""

    most = None

    def __init__(self, vectors: np.ndarray, *, widest: int = 100, stride: int = 1) -> None:
        self.exact, self.widest, self.stride = ExactIndex(vectors), widest, stride
        self.asked = set()

    def __call__(self, queries: np.ndarray, fetch: int, width: int) -> np.ndarray:
        self.asked.add(width)
        ranked = self.exact.search(torch.from_numpy(queries), COUNT).ids.numpy()
        seen = [rank for rank in range(COUNT) if rank >= 100 or rank * 37 % 100 < width]
        order = [rank for start in range(self.stride) for rank in seen[start :: self.stride]]
        found = ranked[:, order][:, :fetch]
        return np.pad(found, ((0, 0), (0, fetch - found.shape[1])), constant_values=MISSING)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)


def wanted(**changes):
    return Wanted(**{"target": 0.9, "floor": 0.5, "at": 20, "queries": 30} | changes)


def leaked(width):
    """The recall@20 of a Leaky of this width."""
    return sum(rank * 37 % 100 < width for rank in range(20)) / 20


@pytest.mark.parametrize("target", [0.05, 0.3, 0.5, 0.75, 0.9, 1.0])
def test_the_width_is_the_least_that_reaches_the_target_up_to_a_sixteenth(vectors, target):
    search = calibrate(Leaky(vectors), embeddings=vectors, queries=None, wanted=wanted(target=target, floor=0.0))
    width = search["effort"]["width"]
    least = min(width for width in range(1, 101) if leaked(width) >= target)
    assert search["effort"]["fetch"] == 1 and least <= width <= least + max(1, width // 16)
    assert search["recall"]["20"] == pytest.approx(leaked(width)) and search["recall"]["20"] >= target


def test_the_curve_says_what_every_effort_that_was_tried_found(vectors):
    looker = Leaky(vectors)
    search = calibrate(looker, embeddings=vectors, queries=None, wanted=wanted())
    assert {point["width"] for point in search["curve"]} == looker.asked and len(search["curve"]) > 5
    assert all(point["recall"] == pytest.approx(leaked(point["width"])) for point in search["curve"])


def test_more_candidates_are_scored_where_looking_wider_is_not_enough(vectors):
    looker = Leaky(vectors, stride=4)  # of 24 candidates, six are among the best 24
    search = calibrate(looker, embeddings=vectors, queries=None, wanted=wanted(target=0.95))
    assert search["effort"] == {"width": search["effort"]["width"], "fetch": 16}
    assert [point["fetch"] for point in search["curve"]][:5] == [1, 2, 4, 8, 16]
    assert search["recall"]["20"] >= 0.95


def test_an_index_that_cannot_reach_the_target_serves_with_its_best_and_says_so(vectors, caplog):
    looker = Leaky(vectors, widest=80)
    search = calibrate(looker, embeddings=vectors, queries=None, wanted=wanted(target=0.99))
    assert search["recall"]["20"] == pytest.approx(leaked(80)) and search["recall_target"] == 0.99
    assert search["effort"] == {"width": 80, "fetch": 1}
    assert "recall_target=0.99 is out of reach" in caplog.text


def test_below_the_floor_it_is_refused_with_the_recall_and_what_to_do(vectors):
    with pytest.raises(BadInput, match=r"recall@20 is 0.\d+ at best, below recall_floor=0.6.*the last index stays"):
        calibrate(Leaky(vectors, widest=30), embeddings=vectors, queries=None, wanted=wanted(floor=0.6))


def test_questions_are_used_where_there_are_some_and_never_the_same_to_tune_and_to_measure(vectors, monkeypatch):
    questions = np.random.default_rng(1).standard_normal((50, DIM)).astype(np.float32)
    seen = []
    search_exactly = ExactIndex.search
    monkeypatch.setattr(ExactIndex, "search", lambda *args: (seen.append(args[1]), search_exactly(*args))[1])
    search = calibrate(Leaky(vectors), embeddings=vectors, queries=questions, wanted=wanted())
    tuned, measured = (set(map(tuple, part.tolist())) for part in (seen[0], seen[-1]))
    everything = {tuple(row) for part in seen for row in part.tolist()}
    assert search["queries_from"] == "questions" and search["queries"] == 30
    assert everything <= set(map(tuple, questions.tolist())) and len(everything) == 30
    assert len(tuned) == len(measured) == 15 and not tuned & measured


def test_without_questions_passages_with_noise_stand_in(vectors):
    search = calibrate(Leaky(vectors), embeddings=vectors, queries=None, wanted=wanted())
    assert search["queries_from"] == "passages"
    again = calibrate(Leaky(vectors), embeddings=vectors, queries=np.empty((0, DIM), np.float32), wanted=wanted())
    assert search == again


@pytest.mark.parametrize("bad", [np.ones((3, DIM + 1)), np.full((3, DIM), np.nan), np.ones(DIM)])
def test_refuses_questions_of_another_tower(vectors, bad):
    with pytest.raises(BadInput, match="expected finite vectors"):
        calibrate(Leaky(vectors), embeddings=vectors, queries=bad.astype(np.float32), wanted=wanted())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 1.1}, "<= 1"),
        ({"floor": 0.95}, "floor <= target"),
        ({"at": 0}, "at=0"),
        ({"queries": 1}, "queries=1"),
    ],
)
def test_refuses_what_cannot_be_wanted(changes, message):
    with pytest.raises(BadInput, match=message):
        wanted(**changes)


def neighbours(*rows):
    scores = torch.tensor(rows, dtype=torch.float32)
    return Neighbours(scores=scores, ids=torch.zeros(scores.shape, dtype=torch.long))


def test_recall_counts_ties_with_the_last_and_what_there_is_to_find():
    truth = neighbours([3.0, 2.0, 2.0], [5.0, 4.0, -torch.inf])
    assert recall_at(truth, truth, 3) == 1.0
    found = neighbours([3.0, 2.0, 1.0], [4.0, -torch.inf, -torch.inf])
    assert recall_at(found, truth, 3) == pytest.approx(3 / 5)
    assert recall_at(found, truth, 1) == pytest.approx(1 / 2)
    nothing = neighbours([-torch.inf, -torch.inf])
    assert recall_at(nothing, nothing, 2) == 1.0
