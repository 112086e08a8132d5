import json

import numpy as np
import pytest

from data_prep.question_sources import File, question_key
from data_prep.questions import main, prepare_questions, split_of
from realm_train.command import compose
from realm_train.data.questions import read_questions
from realm_train.errors import BadInput


def file_of(path, questions):
    """A JSONL file of questions; the path of it."""
    lines = [json.dumps({"question": text, "answers": answers}) for text, answers in questions]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def numbered(tmp_path):
    """A file of 400 different questions."""
    return file_of(tmp_path / "many.jsonl", [(f"What is number {n}?", [str(n)]) for n in range(400)])


def texts(folder, split):
    return {question.text for question in read_questions(folder, split=split)}


def test_splits_are_disjoint_and_whole_and_of_the_wanted_size(numbered, tmp_path):
    source = File(path=numbered, splits={"train": 0.7, "dev": 0.2, "test": 0.1})
    manifest, made = prepare_questions(source=source, out=tmp_path / "out")
    splits = {split: texts(tmp_path / "out", split) for split in ("train", "dev", "test")}
    assert made and manifest["splits"] == {split: len(found) for split, found in splits.items()}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == manifest["count"] == 400
    for split, share in source.splits.items():  # within four standard deviations
        assert abs(len(splits[split]) / 400 - share) < 4 * np.sqrt(share * (1 - share) / 400)


def test_other_questions_do_not_move_a_question(numbered, tmp_path):
    shares = {"train": 0.8, "dev": 0.2}
    prepare_questions(source=File(path=numbered, splits=shares), out=tmp_path / "out")
    few = file_of(tmp_path / "few.jsonl", [(f"what is   NUMBER {n}", ["x"]) for n in range(0, 400, 7)])
    prepare_questions(source=File(path=few, splits=shares), out=tmp_path / "few")
    for split in shares:
        numbers = {text.split()[-1].strip("?") for text in texts(tmp_path / "out", split)}
        assert {text.split()[-1] for text in texts(tmp_path / "few", split)} <= numbers


def test_a_share_of_nothing_is_never_chosen():
    keys = [str(number) for number in range(2000)]
    assert {split_of(key, {"none": 0.0, "dev": 1.0, "last": 0.0}) for key in keys} == {"dev"}
    thirds = {name: 1 / 3 for name in "abc"}
    assert {split_of(key, thirds) for key in keys} == set("abc")


def test_the_same_question_twice_is_one_with_the_answers_of_both(tmp_path):
    questions = [("Who wrote Emma?", ["Austen"]), ("Other?", ["x"]), ("who WROTE “Emma”", ["Jane Austen", "Austen"])]
    source = File(path=file_of(tmp_path / "a.jsonl", questions), splits={"dev": 1.0})
    manifest, _ = prepare_questions(source=source, out=tmp_path / "out")
    found = read_questions(tmp_path / "out")
    assert [question.answers for question in found] == [("Austen", "Jane Austen"), ("x",)]
    assert manifest["counts"]["changed"] == {"duplicate_question": 1} and manifest["count"] == 2


def test_patterns_stay_patterns(tmp_path):
    path = file_of(tmp_path / "trec.jsonl", [("When?", [r"17\d\d"])])
    prepare_questions(source=File(path=path, splits={"dev": 1}, regex=True), out=tmp_path / "out")
    assert read_questions(tmp_path / "out")[0].regex


def test_question_keys():
    assert question_key("Who's  “Beyoncé”?") == question_key("who s Beyonce") == "who s beyonce"
    assert question_key("2 + 2?") != question_key("2 + 3?")
    assert question_key("???") == "???" != question_key("!")


@pytest.mark.parametrize("splits", [{}, {"train": 0.5}, {"train": 1.2, "dev": -0.2}])
def test_shares_must_sum_to_one(numbered, splits):
    with pytest.raises(BadInput, match=r"source\.splits: got .*; expected shares that sum to 1"):
        File(path=numbered, splits=splits)


def test_the_command_shows_questions_and_says_when_nothing_changed(tmp_path, capsys):
    path = file_of(tmp_path / "a.jsonl", [("Who?", ["Ada", "A. Lovelace"])])
    words = ("source=file", f"source.path={path}", f"out={tmp_path / 'out'}", "show=5")
    for line in ("1 questions: 1 dev; of 1 a.jsonl; left out: none; changed: none;", f"{tmp_path / 'out'}: up to date"):
        main(compose("data_prep/questions/questions", *words))
        shown = capsys.readouterr().out
        assert "Who?  · dev," in shown and "Ada | A. Lovelace" in shown and shown.splitlines()[-1].startswith(line)


def test_other_shares_make_it_again_and_another_folder_is_refused(numbered, tmp_path):
    for shares, made in (({"dev": 1}, True), ({"dev": 1}, False), ({"dev": 0.5, "train": 0.5}, True)):
        assert prepare_questions(source=File(path=numbered, splits=shares), out=tmp_path / "out")[1] is made
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists and is no prepared questions"):
        prepare_questions(source=File(path=numbered, splits={"dev": 1}), out=tmp_path / "mine")
