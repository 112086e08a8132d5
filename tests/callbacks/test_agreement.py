"""What two ranks agree on, and that the one word for it is rank 0's."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist
from two_ranks import on_two_ranks

from realm_train.callbacks.agreement import Agreement


def on_a_rank(folder) -> dict:
    """Each rank says what it got; ranks say different things, and one comes late."""
    stale = folder / "decisions" / "old"
    stale.mkdir(parents=True, exist_ok=True)
    (stale / "v.json").write_text("99")
    dist.barrier()
    ranks = Agreement(folder / "decisions")
    result = {"rank": ranks.rank, "folder": ranks.folder.name, "stale": (stale / "v.json").exists()}
    result["broadcast"] = [ranks.broadcast(word if ranks.rank == 0 else -5) for word in (7, 0, -1, 2**62)]
    result["least"] = [ranks.least(mine[ranks.rank]) for mine in ((1, 1), (1, 0), (-1, 0), (0, 1))]
    result["decided"] = [ranks.decided(f"v{number}", decide(number, ranks.rank)) for number in range(3)]
    ids = torch.arange(3) + 10 if ranks.rank == 0 else torch.tensor([4])
    rows = ids[:, None] * torch.ones(2)
    result["gathered"] = [part.tolist() for part in ranks.gathered(ids, rows.to(torch.float16).requires_grad_())]
    result["nothing"] = [list(part.shape) for part in ranks.gathered(ids[:0], rows[:0])]
    result |= impatience(ranks)
    return result


def decide(number: int, rank: int):
    """Rank 0 knows at its third look; what rank 1 would say does not count."""
    looks = []

    def look():
        looks.append(None)
        return None if len(looks) < 3 else 100 + number

    return look if rank == 0 else lambda: pytest.fail("rank 1 decides nothing")


def impatience(ranks: Agreement) -> dict:
    """Rank 0 never decides: rank 1 may give up by itself, and no collective holds it."""
    started = time.monotonic()

    def meanwhile() -> None:
        if time.monotonic() - started > 0.3:
            raise TimeoutError

    try:
        ranks.decided("never", lambda: None, meanwhile=meanwhile)
    except TimeoutError:
        return {"gave up": True}
    return {"gave up": False}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("agreement")
    return on_two_ranks(on_a_rank, folder, folder)


def test_every_word_is_that_of_rank_0(ranks):
    for rank in ranks:
        assert rank["broadcast"] == [7, 0, -1, 2**62] and rank["decided"] == [100, 101, 102]


def test_the_least_is_that_of_all(ranks):
    assert [rank["least"] for rank in ranks] == [[1, 0, -1, 0]] * 2


def test_rows_of_unequal_numbers_are_gathered_rank_after_rank(ranks):
    ids = [10, 11, 12, 4]
    for rank in ranks:
        assert rank["gathered"] == [ids, [[float(i)] * 2 for i in ids]] and rank["nothing"] == [[0], [0, 2]]


def test_what_an_earlier_start_has_decided_is_void(ranks):
    assert ranks[0]["folder"] == ranks[1]["folder"] != "old" and not any(rank["stale"] for rank in ranks)


def test_waiting_can_be_given_up_on_any_rank(ranks):
    assert [rank["gave up"] for rank in ranks] == [True, True]


def test_alone_one_agrees_with_oneself_and_writes_nothing(tmp_path):
    alone = Agreement(tmp_path / "decisions")
    ids, rows = torch.tensor([3, 1]), torch.randn(2, 4, dtype=torch.float64)
    assert (alone.rank, alone.world, alone.broadcast(5), alone.least(-1)) == (0, 1, 5, -1)
    assert alone.decided("v", lambda: 3) == 3
    got = alone.gathered(ids, rows)
    assert torch.equal(got[0], ids) and torch.equal(got[1], rows.float())
    assert not (tmp_path / "decisions").exists()
