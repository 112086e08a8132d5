"""The live table tells the truth about pace, trend and danger, and prints no control codes where nobody reads them."""

import io
import re
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from realm_train.callbacks.alarms import alarms, dead
from realm_train.callbacks.live import Live, total_steps
from realm_train.callbacks.pace import Pace, clock
from realm_train.callbacks.series import TREND_WIDTH, Series, number, sparkline


class Falling(pl.LightningModule):
    """Its loss at step t is 8 - t, its p(null) always 0.99."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.count = 0

    def training_step(self, batch, batch_idx):
        self.log("loss", 8.0 - self.count)
        self.count += 1
        return (self.weight * batch.sum()).sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):  # Lightning calls it after every callback
        self.log("retrieval/p_null", 0.99)
        self.log("retrieval/utility", float(self.count))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(400, 1), batch_size=1)


def fit(tmp_path, live, **settings):
    trainer = pl.Trainer(
        callbacks=[live],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **settings,
    )
    trainer.fit(Falling())
    return trainer


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_off_a_terminal_a_plain_line_every_few_steps(tmp_path):
    out = io.StringIO()
    fit(tmp_path, Live("ict", every=4, console=Console(file=out)), max_steps=10)
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["ict", "4/10"], ["ict", "8/10"], ["ict", "10/10"]]
    assert [re.search(r"loss (\S+)", line)[1] for line in lines] == ["5", "1", "-1"]
    assert [re.search(r"utility (\S+)", line)[1] for line in lines] == ["4", "8", "10"]
    assert "estimating" in lines[0] and "left" in lines[1]
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_accumulated_batches_are_one_step(tmp_path):
    live = Live("ict", every=1, console=Console(file=io.StringIO()))
    fit(tmp_path, live, max_steps=5, accumulate_grad_batches=3)
    assert len(live.series["loss"].settle().recent) == 5


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_dead_retriever_is_mourned_loudly_and_once(tmp_path):
    out = io.StringIO()
    fit(tmp_path, Live("pretrain", every=20, console=Console(file=out)), max_steps=160)
    assert out.getvalue().count("THE RETRIEVER IS DEAD: p(null) was 0.990") == 1
    assert "Warm the retriever up for longer" in out.getvalue()
    assert out.getvalue().count("ALARM p(null) 0.99") == 8


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_on_a_terminal_one_table_in_place(tmp_path):
    out = io.StringIO()
    fit(tmp_path, Live("pretrain", console=Console(file=out, force_terminal=True, width=100)), max_steps=40)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).split("pretrain")[-1]
    assert "40/40" in last and "0:00:00 left" in last
    assert re.search(r"loss +-31 +-21\.5 +█", last)
    assert "! p(null) 0.99: the reader ignores what is retrieved" in last


def test_the_screen_is_given_back_when_training_fails():
    console = Console(file=io.StringIO(), force_terminal=True)
    live = Live("ict", console=console)
    trainer, module = Mock(spec=pl.Trainer, global_step=0, max_steps=5, is_global_zero=True), Falling()
    live.on_train_start(trainer, module)
    assert console._live_stack
    live.on_exception(trainer, module, RuntimeError("boom"))
    assert not console._live_stack


def test_a_stage_without_an_end_shows_no_total():
    trainer = Mock(spec=pl.Trainer, max_steps=-1, estimated_stepping_batches=float("inf"))
    assert total_steps(trainer) == 0
    trainer.estimated_stepping_batches = 30
    assert total_steps(trainer) == 30


def walk(pace, seconds, now):
    for second in seconds:
        now += second
        pace.step(now)
    return now


def test_the_estimate_leaves_out_the_warm_up_and_shares_out_the_pauses():
    pace = Pace()
    pace.start(0.0)
    now = walk(pace, [60.0, 2, 2, 2, 2], 0.0)
    assert pace.left(100) is None
    now = walk(pace, [2.0] * 5, now)
    assert pace.left(100) == pytest.approx(200)
    pace.pause(now)
    pace.go_on(now + 10)
    now = walk(pace, [2.0] * 10, now + 10)
    assert pace.left(100) == pytest.approx(100 * (2 + 10 / 20))
    assert pace.elapsed(now) == now


def test_a_long_stop_between_steps_is_a_pause_not_a_step():
    pace = Pace()
    pace.start(0.0)
    walk(pace, [1.0] * 10 + [31.0] + [1.0] * 4, 0.0)
    assert pace.left(15) == pytest.approx(15 * (1 + 30 / 15))


def test_a_trend_of_any_length_has_bounded_width_and_the_right_means():
    series = Series()
    for step in range(10_000):
        series.add(torch.tensor(float(step)))
    trend = series.settle().trend()
    assert len(trend) <= TREND_WIDTH
    assert trend == sorted(trend)
    assert sum(trend) / len(trend) == pytest.approx(5_000, rel=0.1)
    assert list(series.recent) == list(range(9_800, 10_000))


def test_a_rare_metric_counts_only_when_it_changes():
    series = Series(rare=True)
    for value in [0, 0, 1, 1, 1, 2]:
        series.add(value)
    assert list(series.settle().recent) == [0, 1, 2]


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("retrieval/p_null", [0.96] * 20, True),
        ("retrieval/p_null", [0.94] * 20, False),
        ("retrieval/p_null", [0.99] * 19, False),
        ("retrieval/utility", [-0.01] * 50, True),
        ("retrieval/utility", [-0.01] * 49, False),
        ("retrieval/utility", [-0.21, 0.19] * 25, False),  # no more than chance
        ("retrieval/utility", [-0.26, 0.14] * 25, True),
        ("retrieval/utility", [0.01] * 50, False),
        ("retrieval/entropy", [0.0] * 20, True),
        ("retrieval/entropy", [0.5] * 20, False),
        ("retrieval/leaks", [0.0] * 9 + [1.0] + [0.0] * 9, True),
        ("retrieval/leaks", [0.0] * 20, False),
        ("loss", [1.0, float("nan")], True),
        ("loss", [float("nan"), 1.0], False),
    ],
)
def test_alarms_ring_on_their_own_metric_alone(metric, values, expected):
    assert list(alarms({metric: values})) == ([metric] if expected else [])


def test_a_retriever_is_dead_only_after_a_hundred_steps():
    for metric, value in {"retrieval/p_null": 0.97, "retrieval/entropy": 0.001, "retrieval/score_std": 0.0}.items():
        assert dead({metric: [value] * 99}) is None
        assert "DEAD" in dead({metric: [value] * 100})
    assert dead({"retrieval/p_null": [0.4] * 200, "retrieval/entropy": [1.0] * 200}) is None


def test_small_words():
    assert (clock(0.0), clock(59.6), clock(3661.0)) == ("0:00:00", "0:01:00", "1:01:01")
    assert (number(3.0), number(0.012341), number(12345.6), number(float("nan"))) == ("3", "0.01234", "12346", "nan")
    assert sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert sparkline([0.0, 7.0], ascii_only=True) == "_@"
    assert sparkline([]) == "" and sparkline([2.0, 2.0]) == "▁▁"
