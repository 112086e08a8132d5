"""No recipe rots: every file of conf/experiment is composed, and each of its stages stepped twice."""

import math

import pytest
from omegaconf import OmegaConf
from tiny_run import ON_CPU, SIZES, overrides, pretrained, questions_file, series, spans_folder, threads, train  # noqa: F401

from realm_train.command import CONF, compose

RECIPES = sorted((CONF / "experiment").glob("*.yaml"))
SMALLER = [  # the recipe otherwise: its stages, candidates, masking, granularity, scale
    *("ict.steps=2", "ict.batch_size=4", "ict.micro_batch_size=4"),
    *("mlm.steps=2", "mlm.batch_size=4", "mlm.micro_batch_size=4"),
    *("pretrain.steps=2", "pretrain.batch_size=2", "pretrain.micro_batch_size=2"),
    *("open_qa.steps=2", "open_qa.batch_size=4", "open_qa.micro_batch_size=2", "open_qa.beam=20"),
    *("refresh=inline", "refresh.every=1", "checkpoints.every=1", "workers=0"),
]


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_it_is_run_and_what_to_expect(recipe):
    header = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Run:") and f"experiment={recipe.stem}" in line for line in header)
    assert any(line.startswith("# Cost:") for line in header) and any(line.startswith("# Expect:") for line in header)
    assert OmegaConf.load(recipe).name == recipe.stem


@pytest.mark.filterwarnings("ignore:cold start")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe, spans_folder, pretrained, questions_file, tmp_path):  # noqa: F811
    from realm_train.checkpoints import finished
    from realm_train.train import main

    run, words = tmp_path / "run", [f"corpus={spans_folder}", *SIZES]
    if recipe.stem.startswith("open_qa"):
        words = [f"ckpt={pretrained}", f"questions={questions_file}", f"dev_questions={questions_file}", *ON_CPU]
    cfg = compose("train", f"experiment={recipe.stem}", f"run={run}", *words, *SMALLER)
    main(cfg)
    for stage in cfg.stages:
        losses = [value for _, value in series(run, stage, "loss")]
        assert len(losses) == 2 and all(map(math.isfinite, losses)) and finished(run, stage)
    assert not any(leaks for _, leaks in series(run, "pretrain", "retrieval/leaks"))
