"""The report says what the run's files say, is one self-contained page, and is honest when nothing was learnt."""

import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_run import SENTENCES, fake_run
from rich.console import Console

from realm_train.errors import BadInput
from realm_train.evaluation.chart import Line, apart, chart, smooth, thinned, tick, ticks
from realm_train.evaluation.comparison import compare
from realm_train.evaluation.run import read_run
from realm_train.evaluation.sentences import blanked, find, highlighted, posterior
from realm_train.evaluation.summary import rise_error, summarise, utility_error, verdict
from realm_train.report import write_comparison, write_report

VOID = {"meta", "br"}


@pytest.fixture
def console():
    return Console(file=io.StringIO())


@pytest.fixture
def run(tmp_path):
    return fake_run(tmp_path / "runs" / "a")


class Strict(HTMLParser):
    """Fails on tags that are not closed in order; keeps text and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html):
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def edit(run, name, change):
    path = run / "heldout" / name
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_report_json_holds_what_the_files_say(run, console):
    write_report(run, console=console)
    report = json.loads((run / "report.json").read_text())
    before, after = (json.loads(path.read_text())["metrics"] for path in sorted((run / "heldout").iterdir()))
    assert report["seconds"] == {"passages": 21.5, "spans": 64.0, "ict": 190.0, "pretrain": 410.0, "total": 685.5}
    assert report["commit"].startswith("0123") and report["hardware"]["cores"] == 2
    assert (report["ict"]["accuracy"], report["ict"]["accuracy_on"]) == (0.61, "held-out documents")
    realm = report["realm"]
    assert (realm["loss_start"], realm["loss_end"]) == (before["loss"], after["loss"])
    assert (realm["utility_start"], realm["utility_end"]) == (before["utility"], after["utility"])
    assert (realm["loss_null_end"], realm["p_null_end"], realm["leaks"]) == (after["loss_null"], after["p_null"], 0)
    assert realm["recall@5"] == {"start": before["recall@5"], "end": after["recall@5"]}
    assert report["index"]["versions"] == 5 and report["index"]["max_age_steps"] == 118
    assert report["index"]["refresh_seconds"] == pytest.approx(15.5)


def test_leaks_are_summed_over_the_run(run):
    with (run / "metrics.jsonl").open("a") as file:
        for step in (500, 502):
            file.write(json.dumps({"step": step, "stage": "pretrain", "time": 1.8e9, "retrieval/leaks": 2}) + "\n")
    assert summarise(read_run(run))["realm"]["leaks"] == 4


def test_the_page_asks_nothing_of_the_network(run, console):
    write_report(run, console=console)
    html = (run / "report.html").read_text()
    page = parsed(html)
    assert not [
        attribute for attribute in page.attributes if attribute[1] in ("src", "href", "srcset", "data", "action")
    ]
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", html)
    assert "prefers-color-scheme:dark" in html and "@media print" in html and 'name="viewport"' in html


def test_the_page_shows_every_figure_and_sentence(run, console):
    write_report(run, console=console)
    html = (run / "report.html").read_text()
    assert html.count('<figure class="chart">') == 12
    assert html.count('<article class="card">') == len(SENTENCES) == 10
    text = "".join(parsed(html).text)
    assert "It learnt to look things up" in text
    assert "is set at elsinore <in denmark> & ends badly" in text, "a sentence is shown as it is, not read as HTML"
    for counted in ("corpus.skipped.duplicate", "41", "experiment: quickstart", "Some CPU"):
        assert counted in text


def test_what_stands_in_a_run_s_texts_cannot_become_code(run, console):
    def attack(record):
        for example in record["examples"]:
            example["title"] = example["masked"] = example["answer"] = "<script>alert(1)</script>[MASK]"
            for passage in example["passages"]:
                passage["title"] = passage["text"] = "\"><img src=x onerror='alert(1)'> script"
                passage["has_answer"] = True

    edit(run, "pretrain-000000.json", attack)
    edit(run, "pretrain-000400.json", attack)
    write_report(run, console=console)
    tags = {tag for tag, *_ in parsed((run / "report.html").read_text()).attributes}
    assert not tags & {"script", "img"}


def test_a_dead_retriever_is_called_one(tmp_path, console):
    run = fake_run(tmp_path / "dead", learnt=False)
    write_report(run, console=console)
    assert json.loads((run / "report.json").read_text())["verdict"] == "nothing"
    assert '<h1 class="nothing">The retriever learnt nothing' in (run / "report.html").read_text()


def test_verdicts(run):
    def judged(**metrics):
        edit(run, "pretrain-000400.json", lambda record: record["metrics"].update(metrics))
        return verdict(read_run(run))[0]

    assert judged() == "learnt"
    assert judged(loss=4.0, loss_null=3.9) == "nothing", "the passages harm"
    assert judged(loss=3.8, utility=-0.1) == "nothing"
    assert judged(utility=0.005) == "nothing", "it fell"
    assert judged(utility=0.02) == "unclear", "it rose by less than twice its standard error"
    assert judged(loss=math.nan) == "nothing"
    (run / "heldout" / "pretrain-000400.json").unlink()
    assert verdict(read_run(run))[0] == "unfinished"


def test_the_error_of_the_utility_is_that_of_a_mean_when_every_sentence_has_one_mask():
    gains = [0.1, 0.4, -0.2, 0.9, 0.3]
    record = {"loss_by_example": [1.0 - gain for gain in gains], "loss_null_by_example": [1.0] * 5}
    mean = sum(gains) / 5
    expected = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 4 / 5)
    assert utility_error(record) == pytest.approx(expected)
    doubled = record | {"masks_by_example": [2] * 5}
    assert utility_error(doubled) == pytest.approx(expected / 2)


@pytest.mark.parametrize(
    "missing", ["heldout", "provenance.json", "metrics.jsonl", "config.yaml", "index", "all but one"]
)
def test_a_run_in_progress_gives_a_report_of_what_there_is(run, console, missing):
    for path in sorted(run.rglob("*"), reverse=True):
        inside = path.relative_to(run).parts[0]
        if inside == missing or (missing == "all but one" and inside != "config.yaml"):
            path.rmdir() if path.is_dir() else path.unlink()
    report = write_report(run, console=console)
    assert (report["verdict"] == "learnt") == (missing not in ("heldout", "all but one"))
    assert ("ict" in report["seconds"]) == (missing != "all but one")
    parsed((run / "report.html").read_text())


def test_a_line_that_is_being_written_is_no_error_but_a_broken_one_is(run):
    path = run / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 1, "sta')
    assert len(read_run(run).events) == whole.count("\n")
    path.write_text("broken\n" + whole)
    with pytest.raises(BadInput, match=r"metrics.jsonl, line 1"):
        read_run(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match="expected a run"):
            read_run(folder)


def test_several_runs_give_mean_and_sample_deviation(tmp_path, console):
    folders = [fake_run(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    rows = write_comparison(folders, out=tmp_path / "out", console=console)
    values = rows["realm.utility_end"]["values"]
    mean = sum(values) / 3
    assert rows["realm.utility_end"]["mean"] == pytest.approx(mean)
    assert rows["realm.utility_end"]["sd"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2))
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["scalars"] == rows
    table = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert table[0] == "|  | a | b | c | mean ± sd |"
    assert {line.count("|") for line in table} == {6}
    assert not (folders[0] / "report.json").exists(), "a comparison leaves the runs alone"


def test_a_scalar_that_one_run_lacks_is_averaged_over_the_others():
    rows = compare([{"a": 1.0, "word": "x", "flag": True}, {"b": {"c": 2}}, {"a": 3.0}])
    assert rows["a"] == {"values": [1.0, None, 3.0], "mean": 2.0, "sd": pytest.approx(math.sqrt(2))}
    assert rows["b.c"] == {"values": [None, 2, None], "mean": 2.0, "sd": None}
    assert set(rows) == {"a", "b.c"}


def command(*arguments):
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", "realm_train.report", *map(str, arguments)], cwd=root, capture_output=True, text=True
    )


def test_the_command_reports_one_run_or_compares_several(run, tmp_path):
    done = command(f"run={run}")
    assert done.returncode == 0 and "report.html" in done.stdout, done.stderr
    other = fake_run(tmp_path / "runs" / "b", seed=1)
    done = command(run, other, f"out={tmp_path / 'both'}")
    assert done.returncode == 0 and (tmp_path / "both" / "comparison.md").exists(), done.stderr
    done = command(f"run={tmp_path}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "expected a run" in done.stderr


def test_the_posterior_is_prior_times_likelihood():
    passages = [{"p": 0.5, "log_likelihood": -1.0}, {"p": 0.0, "log_likelihood": 0.0}]
    got = posterior({"p_null": 0.5, "log_p_null": -2.0, "passages": passages})
    joint = [0.5 * math.exp(-2), 0.5 * math.exp(-1), 0.0]
    assert got == pytest.approx([value / sum(joint) for value in joint])
    tiny = posterior({"p_null": 0.5, "log_p_null": -2000.0, "passages": [{"p": 0.5, "log_likelihood": -2001.0}]})
    assert tiny[0] / tiny[1] == pytest.approx(math.e)


def test_answers_are_found_in_raw_text_from_decoded_word_pieces():
    def found(text, answer):
        return [text[start:end] for start, end in find(text, answer)]

    assert found("Beyoncé sang. BEYONCE left.", "beyonce") == ["Beyoncé", "BEYONCE"]
    assert found("in Saint-Denis (1990–98)", "saint - denis") == ["Saint-Denis"]
    assert found("the Parisian in Paris", "paris") == ["Paris"]
    assert found("İstanbul’s Hagia Sophia", "hagia sophia") == ["Hagia Sophia"]
    assert found("anything", "") == []
    assert highlighted("a <b> & Paris", "paris") == "a &lt;b&gt; &amp; <mark>Paris</mark>"


def test_a_run_of_masks_is_one_blank():
    assert blanked("a [MASK] [MASK] b [MASK] <c>").count('class="blank"') == 2
    assert "2 word pieces" in blanked("a [MASK] [MASK] b") and blanked("<c>") == "&lt;c&gt;"


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.13, 0.41) == [0.0, 0.2, 0.4]
    for low, high in ((0.0, 400.0), (5.411, 5.419), (-3.0, 1e6), (2.0, 2.0)):
        values = ticks(low, high)
        assert all(low - 1e-9 <= value <= high + 1e-9 for value in values) and 1 <= len(values) <= 8
        assert len({tick(value, values) for value in values}) == len(values), "no two ticks read alike"


def test_smoothing_keeps_a_constant_and_centres_a_line():
    assert smooth([(step, 2.0) for step in range(30)]) == [(step, pytest.approx(2.0)) for step in range(30)]
    inner = smooth([(step, float(step)) for step in range(30)])[5:25]
    assert inner == [(step, pytest.approx(step)) for step in range(5, 25)]
    assert smooth([]) == [] and smooth([(3, 1.0)]) == [(3, 1.0)]


def test_labels_keep_their_distance_and_stay_inside():
    assert apart([10.0, 11.0, 90.0], gap=20, low=0, high=100) == [10, 30, 90]
    assert apart([95.0, 96.0, 97.0], gap=20, low=0, high=100) == [60, 80, 100]


def test_thinning_keeps_both_ends():
    points = [(step, float(step)) for step in range(1000)]
    kept = thinned(points, 40)
    assert len(kept) == 40 and kept[0] == points[0] and kept[-1] == points[-1]


def test_a_chart_maps_the_largest_value_highest_and_nothing_to_nothing():
    assert chart("empty", [Line("a", [])]) == ""
    drawn = chart("one", [Line("a", [(0, 0.0), (10, 1.0), (20, 0.5)])])
    places = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', drawn)[1].split()]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert places[1][1] < places[2][1] < places[0][1], "up is more"
    assert places[2][1] == pytest.approx((places[0][1] + places[1][1]) / 2, abs=0.1)


def test_what_rose_is_judged_sentence_by_sentence():
    rng = np.random.default_rng(0)
    hard, masks = rng.normal(size=400), rng.integers(1, 4, size=400)
    gain, null = 0.3 * masks + 0.1 * rng.normal(size=400), 5 * masks
    before, after = (
        {
            "loss_by_example": (null - hard - g).tolist(),
            "loss_null_by_example": (1.0 * null).tolist(),
            "masks_by_example": masks.tolist(),
        }
        for g in (0 * gain, gain)
    )
    draws = rng.integers(400, size=(2000, 400))
    bootstrap = np.std(gain[draws].sum(1) / masks[draws].sum(1))
    assert rise_error(before, after) == pytest.approx(bootstrap, rel=0.1)
    assert utility_error(after) > 5 * rise_error(before, after)  # what makes a sentence easy or hard is in both
