"""Tables say what the record says, and never more."""

import re

import pytest

from realm_train.evaluation.qa_table import markdown, search, sheets


def metric(mean, difference=None):
    found = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    return found | ({"difference": difference} if difference else {})


def system(name, recall, **metrics):
    return {"name": name, "note": f"how {name} works", "index/recall": recall, "metrics": metrics}


@pytest.fixture
def record():
    apart = {"mean": 0.05, "low": -0.01, "high": 0.11, "p": 0.0421}
    systems = {
        "run": system("a | run", 0.973, **{"qa/exact_match": metric(0.25), "qa/recall@5": metric(0.5)}),
        "bm25": system("BM25", 1.0, **{"qa/exact_match": metric(0.3, apart), "qa/recall@5": metric(0.4, apart)}),
        "closed_book": system("closed book", None, **{"qa/exact_match": metric(0.1, apart | {"p": 0.0002})}),
    }
    systems["run"]["calibration"] = {"best": {"mean_p": 0.61, "observed": 0.5, "error": 0.125}}
    parts = {
        part: {"count": count, "systems": {"run": 0.5, "bm25": None}}
        for part, count in (("question overlap", 3), ("answer overlap only", 1000), ("no overlap", 0))
    }
    return {
        "run": "a | run",
        "questions": "trivia-dev",
        "count": 1234,
        "k": 100,
        "matching": {"how": "tokens", "what": "matching tokens: as DPR"},
        "bootstrap": {"draws": 10_000, "seed": 0},
        "systems": systems,
        "missing": {"ict": "there is none"},
        "leakage": {
            "questions": {"train": 77, "threshold": 0.8, "metric": "qa/exact_match", "parts": parts},
            "sentences": {
                "metric": "qa/exact_match",
                "with_sentence": 40,
                "stages": {"ict of a": {"questions": 7, "draws": 6400}},
                "unknown_stages": {"pretrain of b": "it was trained on another corpus"},
                "drawn": {"count": 7, "mean": 0.75},
                "not_drawn": {"count": 33, "mean": None},
            },
        },
    }


@pytest.mark.parametrize("recall", [0.0, 0.5, 0.973, 0.99995, 0.9999999999])
def test_an_approximate_search_is_never_called_exact(recall):
    said = search(recall)
    assert "exact" not in said and float(said.rstrip("%")) <= 99.99


def test_an_exact_search_is_and_none_is_not():
    assert search(1.0) == "exact" and search(None) == "–"


def test_every_row_is_as_wide_as_its_header(record):
    for sheet in sheets(record):
        assert all(len(row) == len(sheet.header) for row in sheet.rows)
    tables = re.findall(r"(?:^\|.*\n)+", markdown(record), flags=re.M)
    assert len(tables) == 5
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_figures_intervals_and_p_values_stand_where_they_belong(record):
    results, differences, calibrated, overlap, drawn = sheets(record)
    assert results.rows[0] == ("a | run (1)", "25.0\n(15.0–35.0)", "50.0\n(40.0–60.0)", "97.30%")
    assert results.rows[2] == ("closed book (3)", "10.0\n(0.0–20.0)", "–", "–")
    assert results.notes[1] == "2: how BM25 works" and "no ict: there is none" in results.notes
    assert any("matching tokens: as DPR" in note and "1,234 questions" in note for note in results.notes)
    assert differences.rows[0][1] == "+5.0\n(-1.0 to +11.0)\np = 0.042" and "a | run" in differences.title
    assert differences.rows[1] == ("closed book", "+5.0\n(-1.0 to +11.0)\np < 0.001", "–")
    assert calibrated.rows == (("a | run", "61.0", "50.0", "12.5", "–", "–", "–"),)
    assert overlap.rows[1] == ("answer overlap only", "1,000", "50.0", "–", "–") and "77" in overlap.notes[0]
    assert drawn.rows == (("drawn by ict of a", "7", "6,400"), ("drawn by any", "7", "–"))
    assert "not known of pretrain of b: it was trained on another corpus" in drawn.notes


def test_what_is_not_known_is_said(record):
    record["leakage"]["questions"] = {"unknown": "not known: because"}
    text = markdown(record)
    assert "- not known: because" in text and "question overlap" not in text
    record["systems"] = {"run": record["systems"]["run"]}
    assert not any(sheet.title.startswith("Difference") for sheet in sheets(record))
