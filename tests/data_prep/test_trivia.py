import pytest

from data_prep.questions import prepare_questions
from data_prep.trivia import Trivia, entries, unfit, without_category
from realm_train.command import compose
from realm_train.data.questions import read_questions
from realm_train.errors import BadInput

SPLITS = {"train": 0.8, "dev": 0.2}


def written(folder, name, text):
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_answers_are_what_the_file_says(tmp_path):
    path = written(
        tmp_path,
        "a",
        'AUTHOR: Somebody\nCONFIG:\n  delay: 3\n"Is it?":\n- yes\n- no\n- null\n- ~\n'
        "When?:\n- 1945\n- 1_000\n- 2001-01-01\n- 12:30\n- 0x10\n- 1.50\n- 010\n"
        "1984:\n- On\nTwice?:\n- a\nTwice?:\n- b\nAlone?: word\nNone?: []\nSpaced?:\n- ' two  words '\n- two words\n",
    )
    assert list(entries(path)) == [
        ("Is it?", ("yes", "no", "null", "~")),
        ("When?", ("1945", "1_000", "2001-01-01", "12:30", "0x10", "1.50", "010")),
        ("1984", ("On",)),
        ("Twice?", ("a",)),
        ("Twice?", ("b",)),
        ("Alone?", ("word",)),
        ("None?", ()),
        ("Spaced?", ("two words",)),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("What country is highlighted on this map? https://i.imgur.com/09dDNah.png", "image"),
        ("[Input/Output]Mouse?", "options"),
        ("Which of the following NFL coaches has the best playoff record?", "options"),
        ("True or false: the sun is a star", "options"),
        ("Secret Identities: Clark Kent?", "mapping"),
        ("[Capitals] France", "mapping"),
        ("[Acronyms]What is RAM?", None),
        ("Film Title: Fahrenheit ________?", None),  # a blank to fill in
        ("[Acronyms]What does CPU stand for?", None),
        ("Which singer was in the movie Mad Max: Beyond The Thunderdome?", None),
        ("Solve for X: 5x+4=24", None),
        ("Which of the three Gorgon sisters was mortal?", None),
        ("What is the chemical symbol of salt?", None),
        ("What color is the center stripe on the American flag?", None),
    ],
)
def test_what_cannot_be_asked_in_words_alone(text, reason):
    assert unfit(text, ("an answer",)) == reason


def test_a_question_without_an_answer_and_one_with_a_category():
    assert unfit("Who has a Badger skin?", ()) == "no_answer"
    assert without_category("[Acronyms]What does CPU stand for?") == "What does CPU stand for?"
    assert without_category("Name the band: songs include A, B and C") == "Name the band: songs include A, B and C"


def test_a_question_of_two_lists_has_the_answers_of_both(tmp_path):
    written(tmp_path, "one", "AUTHOR: x\nWho wrote Emma?:\n- Austen\nSee http://a.b/c.png:\n- d\n")
    written(tmp_path, "two", '"[Books]Who wrote Emma":\n- Jane Austen\n- Austen\nWhen?:\n- 1815\n')
    source = Trivia(path=str(tmp_path), lists=["one", "two"], splits={"dev": 1})
    manifest, _ = prepare_questions(source=source, out=tmp_path / "out")
    found = read_questions(tmp_path / "out")
    assert [(one.text, one.answers) for one in found] == [
        ("Who wrote Emma?", ("Austen", "Jane Austen")),
        ("When?", ("1815",)),
    ]
    assert [one.id.split("/")[0] for one in found] == ["one", "two"] and len({one.id for one in found}) == 2
    counts = manifest["counts"]
    assert counts["kept"] == 2 and counts["skipped"] == {"image": 1}
    assert counts["changed"] == {"category_taken_off": 1, "duplicate_question": 1}
    assert counts["by_group"] == {"one": {"dev": 1}, "two": {"dev": 1}}


def test_mistakes_name_the_list(tmp_path):
    written(tmp_path, "good", "q:\n- a\n")
    with pytest.raises(BadInput, match="has no list missing, there are: good"):
        Trivia(path=str(tmp_path), lists=["good", "missing"], splits=SPLITS).inputs()
    for text, said in (("q: [a", "broken.yaml: cannot be read as YAML"), ("- a\n", "broken.yaml: got no questions")):
        with pytest.raises(BadInput, match=said):
            list(entries(written(tmp_path, "broken", text)))
    with pytest.raises(BadInput, match="nested.yaml:3: expected a question and a list of texts"):
        list(entries(written(tmp_path, "nested", "q:\n- a\nr:\n- {a: b}\n")))


def test_the_package_has_its_lists(data_package, tmp_path):
    from hydra.utils import instantiate

    data_package("redbot", "ext", "trivia", "lists")
    source = instantiate(compose("data_prep/questions/questions", "source=trivia", f"out={tmp_path / 'out'}").source)
    manifest, _ = prepare_questions(source=source, out=tmp_path / "out")
    counts = manifest["counts"]
    groups = {group: sum(splits.values()) for group, splits in counts["by_group"].items()}
    assert list(groups) == ["general", "computers", "greekmyth", "entertainment", "sports"] and groups["general"] > 650
    read = sum(len(list(entries(file))) for file in source._files())
    assert counts["kept"] + sum(counts["skipped"].values()) + counts["changed"]["duplicate_question"] == read
    assert 0.15 < manifest["splits"]["dev"] / manifest["count"] < 0.25
    by_text = {one.text: one for split in SPLITS for one in read_questions(tmp_path / "out", split=split)}
    assert by_text["How many holes are there in a full round of golf?"].answers == ("18", "Eighteen")
    assert by_text["What does CPU stand for?"].answers == ("Central Processing Unit",)
    assert not any("http" in text or text.startswith("[") for text in by_text)
