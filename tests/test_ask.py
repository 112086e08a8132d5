"""Asking in a terminal: what is shown adds up, programs can read it, and a session goes on until the input ends."""

import gc
import io
import json
import os
import pty
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from fake_answers import DOCUMENTS, responder
from rich.console import Console

from realm_train.ask import as_typed, in_terminal, main, named, nothing_collected
from realm_train.asking.answered import record
from realm_train.asking.terminal import BAR, bar, show
from realm_train.command import compose
from realm_train.errors import BadInput

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "Who first built the Eiffel Tower in Paris for the fair?"
SESSION = "from realm_train.asking.session import converse\nconverse(lambda question: print(f'answer to {question!r}'))"


def printed(answered, **console) -> str:
    out = io.StringIO()
    show(answered, Console(file=out, **console))
    return out.getvalue()


def test_null_and_passages_share_one_softmax_over_all_that_were_found():
    answered = responder(k=16)(QUESTION)
    expected = torch.tensor([0.0, *(shown.score for shown in answered.passages)]).softmax(0).tolist()
    assert [answered.p_null, *(shown.p for shown in answered.passages)] == pytest.approx(expected)
    assert answered.p_null + sum(shown.p for shown in answered.passages) == pytest.approx(1.0)


def test_the_answer_is_the_text_at_its_span():
    answered = responder()(QUESTION)
    source = answered.passages[answered.source()]
    assert source.text[slice(*source.span)] == answered.answer == "France" and source.span_p == answered.p
    read = [shown.span for shown in answered.passages]
    assert [span is not None for span in read] == [True, True, True, False, False], "three are read, five shown"


def test_how_many_passages_are_shown_changes_no_probability():
    few, all_of_them = (responder(k=k, considered=16)(QUESTION) for k in (1, 16))
    assert len(few.passages) < len(all_of_them.passages)
    assert few.p_null == all_of_them.p_null and few.passages[0] == all_of_them.passages[0]
    assert responder(k=1)(QUESTION).p_null != few.p_null  # or this proves nothing


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_passage_of_the_answer_is_shown_even_if_k_better_ones_are(k):
    answered, all_of_it = responder(k=k, last_wins=True)(QUESTION), responder(k=3, last_wins=True)(QUESTION)
    assert answered.answer == "Iron" and answered.passages[answered.source()].title == "Iron"
    best = all_of_it.passages[:k]
    assert answered.passages == (best if k == 3 else (*best, all_of_it.passages[2]))


def test_where_nothing_is_found_the_null_passage_has_it_all():
    answered = responder()("Xyzzy?")
    assert (answered.answer, answered.passages, answered.p_null, answered.source()) == (None, (), 1.0, None)
    assert "nothing was retrieved" in printed(answered)


def test_a_run_that_was_not_fine_tuned_guesses_and_says_so():
    answered = responder(tuned=False)(QUESTION)
    assert (answered.answer, answered.p, answered.guess) == (None, None, "a guess")
    assert all(shown.span is None for shown in answered.passages)
    for colour in ({}, {"force_terminal": True, "no_color": True}):
        text = printed(answered, width=200, **colour)
        assert "a guess  (a guess of the masked language model, which read no passage)" in text and "Paris" in text


@pytest.mark.parametrize("question", ["", " \n", "x" * 2001])
def test_a_question_that_is_none_is_refused(question):
    with pytest.raises(BadInput, match="question: got"):
        responder()(question)


def test_no_passages_cannot_be_shown():
    with pytest.raises(BadInput, match="k: got 0"):
        responder(k=0)


def test_json_is_the_promised_schema(capsys):
    in_terminal([responder(k=2)], question=QUESTION, as_json=True)
    answered = json.loads(capsys.readouterr().out)
    assert list(answered) == ["question", "run", "answer", "p", "guess", "p_null", "index_recall", "passages"]
    assert (answered["question"], answered["answer"], answered["guess"]) == (QUESTION, "France", None)
    assert answered["index_recall"] == 1.0 and 0 < answered["p_null"] < 1
    for shown in answered["passages"]:
        assert list(shown) == ["id", "title", "text", "score", "p", "span", "span_p"]
        assert shown["text"] == DOCUMENTS[shown["id"]]["text"]
        assert shown["text"][slice(*shown["span"])][0].isupper() and 0 < shown["span_p"] <= 1


def test_json_of_two_runs_is_one_object():
    one, other = responder()(QUESTION), responder("runs-b", last_wins=True)(QUESTION)
    both = record(one, other)
    assert both.pop("versus") == record(other) and both == record(one)
    assert both["answer"] != record(other)["answer"]


def test_what_is_piped_is_plain_and_a_passage_stays_on_one_line():
    answered = responder(recall=0.9712)(QUESTION)
    lines = printed(answered, width=20).splitlines()
    assert "\x1b" not in "".join(lines) and len(lines) == 2 + 2 * len(answered.passages) + 1
    assert lines[3] == f"   {answered.passages[0].text}".replace("of France.", "of [France].")
    assert lines[-1] == f"p(null) {answered.p_null:.3f}  the search finds 97.1% of what exact search finds"


def test_in_a_terminal_the_answer_is_highlighted_in_its_passage_alone():
    text = printed(responder(last_wins=True)(QUESTION), force_terminal=True, color_system="truecolor", width=100)
    assert "\x1b[1;30;43mIron\x1b[0m is a metal" in text and text.count("\x1b[1;30;43m") == 1
    assert "\x1b[1;4;33mFrance\x1b[0m. The Eiffel" in text, "what another passage would answer"
    assert "p(null)" in text


@pytest.mark.parametrize("console", [{}, {"force_terminal": True, "color_system": None}])
def test_a_passage_cannot_command_the_terminal(console):
    bad = [{"id": 0, "title": "Eiffel\x1b[2J", "text": "A tower\x1b]0;owned\x07 and \x9b31m \x08\rmore"}]
    text = printed(responder(documents=bad)("Eiffel\x1b[5m tower?"), **console)
    assert not {ord(letter) for letter in text} & {*range(10), *range(11, 32), *range(127, 160)}
    assert "more" in text


def test_a_bar_is_as_long_as_its_probability():
    assert bar(0.0).plain == " " * BAR and bar(1.0).plain == "█" * BAR and bar(0.5).plain == "█" * 6 + " " * 6
    lengths = [sum(" ▏▎▍▌▋▊▉█".index(letter) for letter in bar(p / 100).plain) for p in range(101)]
    assert lengths == [round(8 * BAR * p / 100) for p in range(101)]


@pytest.mark.parametrize(
    "question",
    [
        "What's the capital of France, and why?",
        "is 1+1=2 [really] {yes}?",
        "1984",
        "null",
        "~${HOME} ${oc.env:HOME} \\ 'quoted' \"twice\"",
        "who (else)\\'",
        "Ångström: qué?",
    ],
)
def test_a_question_arrives_as_it_was_typed(question):
    for words in (
        ["run=a", f"question={question}"],
        ["run=a", "--question", question],
        ["run=a", f"--question={question}"],
    ):
        assert compose("ask", *as_typed(words)).question == question


def test_other_words_and_quoted_questions_stay():
    assert as_typed(["run=a=b", "--json", "k=3", "--question"]) == ["run=a=b", "--json", "k=3", "question=''"]
    assert compose("ask", "run=a", *as_typed(["question='what, when'"])).question == "what, when"


def test_every_line_of_a_pipe_is_answered_and_a_bad_one_is_told(monkeypatch, capsys):
    lines = f"{QUESTION}\n\n   \n{'x' * 2001}\nWhere does the Nile flow?"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    in_terminal([responder()], question=None, as_json=True)
    out, err = capsys.readouterr()
    assert [json.loads(line)["question"] for line in out.splitlines()] == [QUESTION, "Where does the Nile flow?"]
    assert err == "error: question: got 2001 characters, expected 1 to 2000; ask a shorter one\n"


def test_a_prompt_has_history_and_ends_with_ctrl_d():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = ""
    for prompts, typed in enumerate([b"where is the Nile\n", b"\n", b"\x1b[A\n", b"\x04"], 1):
        while seen.count("? ") < prompts:
            seen += os.read(ours, 65536).decode()
        os.write(ours, typed)
    assert process.wait(timeout=20) == 0
    os.close(ours)
    assert "Error" not in seen
    assert seen.count("answer to 'where is the Nile'") == 2, "an empty line is no question, arrow up the one before"


class Trained:
    """As much of a trained run as the command asks for."""

    def __init__(self, name: str, tuned: bool) -> None:
        self.made = responder(name, tuned=tuned)
        self.stage, self.step, self.corpus = "open_qa" if tuned else "pretrain", 40, self.made.corpus
        self.considered = 4

    def retriever(self, name: str):
        return self.made.retriever

    def answerer(self):
        return self.made.answerer

    def closed_book(self):
        return self.made.closed_book


@pytest.fixture
def opened(monkeypatch) -> list[tuple]:
    """What the command opened; a run whose name ends in `untuned` was not fine-tuned."""
    calls = []

    def open_trained(run, *, stage, corpus, device, threads):
        calls.append((run, stage, corpus, device, threads))
        return Trained(run, tuned=not run.endswith("untuned"))

    monkeypatch.setitem(sys.modules, "realm_train.trained", types.SimpleNamespace(open_trained=open_trained))
    return calls


def test_the_command_answers_one_question(opened, capsys):
    main(compose("ask", "run=runs/a", *as_typed([f"question={QUESTION}"]), "threads=1"))
    out, err = capsys.readouterr()
    assert opened == [("runs/a", None, None, None, 1)]
    assert out.startswith(f"{QUESTION}  (a)\nFrance  p 0.500\n1. Paris  p(z|x) ")
    assert err == "a: open_qa, step 40; 16 passages\n"


def test_the_command_compares_two_runs_and_says_how_to_fine_tune(opened, capsys):
    main(compose("ask", "run=runs/a", "versus=runs/untuned", *as_typed([f"question={QUESTION}"])))
    out, err = capsys.readouterr()
    assert out.count(QUESTION) == 2 and "France  p 0.500" in out and "a guess of the masked language model" in out
    assert "python -m realm_train.train experiment=open_qa ckpt=runs/untuned questions=…" in err


def test_for_programs_nothing_but_json_is_said(opened, capsys):
    main(compose("ask", "run=runs/untuned", "json=true", *as_typed([f"question={QUESTION}"])))
    out, err = capsys.readouterr()
    assert json.loads(out)["guess"] == "a guess" and err == ""


def test_two_stages_of_one_run_are_compared(opened, capsys):
    main(compose("ask", "run=runs/a", "stage=ict", "versus_stage=pretrain", "question=Nile", "json=true"))
    assert [call[:2] for call in opened] == [("runs/a", "ict"), ("runs/a", "pretrain")]
    answered = json.loads(capsys.readouterr().out)
    assert (answered["run"], answered["versus"]["run"]) == ("runs/a ict", "runs/a pretrain")


def test_runs_have_the_shortest_names_that_tell_them_apart():
    assert named([("runs/a/", None)]) == ["a"]
    assert named([("runs/a", None), ("runs/b", None)]) == ["a", "b"]
    assert named([("x/a", None), ("y/a", "ict")]) == ["x/a", "y/a"]
    assert named([("x/a", None), ("x/a", "ict")]) == ["x/a newest", "x/a ict"]


def test_imports_are_not_searched_for_garbage_and_later_there_is_a_collector_again():
    with pytest.raises(BadInput), nothing_collected():
        assert not gc.isenabled()
        raise BadInput("not there")
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.unfreeze()


def test_json_is_no_page(opened):
    with pytest.raises(BadInput, match="json=true and web=true"):
        main(compose("ask", "run=runs/a", "json=true", "web=true"))
    assert opened == []
