"""Killed, damaged, filled up, doubled and set back in time, at moments that a seed chooses: training goes on with a
whole index of its own weights, nobody ever sees half a version, and no file of the user's is lost.

A round can be run again alone: `pytest -m 'slow or not slow' 'tests/fire/test_rounds.py::test_round[117]'`.
"""

from __future__ import annotations

import time

import pytest
from arena import Arena
from faults import FILES, VERSIONS

ROUNDS, SLOW_ROUNDS = 20, 200


def worker_dies(arena: Arena) -> None:
    """At several moments of its life: while it encodes, writes a shard, publishes, renames, cleans up."""
    arena.train()
    for _ in range(4):
        die_at = arena.rng.randrange(1, 60)
        arena.work(die_at=die_at, die_after=arena.rng.random() < 0.5)
        arena.run(0.25, until=lambda: arena.workers[0].exitcode is not None)


def worker_is_killed(arena: Arena) -> None:
    """By somebody else, at any time."""
    arena.train()
    arena.work()
    for _ in range(4):
        arena.run(arena.rng.uniform(0.0, 0.3))
        arena.kill(arena.workers[0])


def trainer_dies(arena: Arena) -> None:
    """While it writes a snapshot, a checkpoint, a pin, its first index."""
    arena.work()
    for _ in range(3):
        arena.train(die_at=arena.rng.randrange(1, 200), die_after=arena.rng.random() < 0.5)
        arena.run(0.4, until=lambda: arena.trainer.exitcode is not None)


def trainer_dies_while_it_adopts(arena: Arena) -> None:
    arena.work()
    for moment in arena.rng.sample(["before", "during", "after"], 2):
        arena.train(die_in=moment)
        arena.run(1.5, until=lambda: arena.trainer.exitcode is not None)


def both_are_killed(arena: Arena) -> None:
    arena.train()
    arena.work()
    for _ in range(2):
        arena.run(arena.rng.uniform(0.1, 0.5))
        arena.kill(arena.trainer)
        arena.kill(arena.workers[0])


def a_shard_is_damaged(arena: Arena) -> None:
    arena.train()
    arena.work(slow=0.01)
    until = time.monotonic() + 30.0
    for kind in ("flipped byte", arena.rng.choice(FILES)):
        arena.run(0.2)
        while not arena.damage_shard(kind, slow=0.01):
            assert time.monotonic() < until, "no refresh was met in the middle"
            arena.run(0.05)


def a_version_is_damaged(arena: Arena) -> None:
    arena.train()
    arena.work(births=tuple(arena.rng.sample(VERSIONS, 2)), seed=arena.seed)
    arena.run(0.6)


def a_version_of_another_training_is_put_there(arena: Arena) -> None:
    arena.train()
    arena.work()
    arena.run(0.3)
    for step in arena.rng.sample([0, 24, 10**6], 2):  # long ago, about now, in a future that never comes
        arena.publish_foreign(step=step, seed=arena.seed + 1)
        arena.run(0.2)


def the_disk_is_full(arena: Arena) -> None:
    arena.train(full_at=arena.rng.randrange(20, 150), full_for=arena.rng.randrange(1, 10))
    arena.work(full_at=arena.rng.randrange(1, 60), full_for=arena.rng.choice([1, 5, 100]))
    arena.run(0.8)


def two_workers(arena: Arena) -> None:
    locked = arena.rng.random() < 0.5
    arena.train()
    arena.work(slow=0.002, locked=locked)
    arena.run(0.1)
    arena.work(slow=0.003, seat=1, locked=locked)
    arena.run(0.8)


def the_clock_jumps_back(arena: Arena) -> None:
    arena.train(clock_at=arena.rng.randrange(1, 4))
    arena.work(clock_at=arena.rng.randrange(1, 20))
    arena.run(0.5)
    arena.kill(arena.rng.choice([arena.trainer, arena.workers[0]]))


ATTACKS = (
    worker_dies,
    worker_is_killed,
    trainer_dies,
    trainer_dies_while_it_adopts,
    both_are_killed,
    a_shard_is_damaged,
    a_version_is_damaged,
    a_version_of_another_training_is_put_there,
    the_disk_is_full,
    two_workers,
    the_clock_jumps_back,
)


@pytest.mark.parametrize(
    "seed",
    [
        *range(ROUNDS),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(ROUNDS, ROUNDS + SLOW_ROUNDS)),
    ],
)
def test_round(seed, tmp_path):
    attack = ATTACKS[seed % len(ATTACKS)]
    arena = Arena(tmp_path, seed, lag=(None, 3, 8)[seed // len(ATTACKS) % 3])
    try:
        attack(arena)
        wrong = arena.won()
        assert not wrong, f"round {seed} ({attack.__name__}): {wrong}\n{arena.log()[-6000:]}"
    finally:
        arena.close()
