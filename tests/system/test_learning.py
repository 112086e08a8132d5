"""A retriever learns from nothing but text, on a corpus small enough for a test."""

from tiny_run import series

WORDS = ["stages=[ict]", "model.dropout=0.0", "ict.steps=60", "ict.batch_size=16", "ict.micro_batch_size=16"]


def test_sixty_steps_of_ict_beat_chance_by_far(train):
    run = train(*WORDS, "ict.lr=3e-3", "ict.keep_rate=0.5", "checkpoints.every=60")
    accuracy = [value for _, value in series(run, "ict", "ict/accuracy")]
    chance = 1 / 16
    assert sum(accuracy[:5]) / 5 < 4 * chance
    assert sum(accuracy[-10:]) / 10 > 8 * chance
