"""The page of answers: what it shows, that no passage can become code in it, and that it stays on this machine."""

import base64
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from html import unescape

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import chromium
import uvicorn
from fake_answers import DOCUMENTS, responder
from starlette.testclient import TestClient
from test_ask import QUESTION, ROOT
from test_report import parsed

from realm_train.ask import on_page
from realm_train.asking.answered import Shown, record
from realm_train.asking.listening import address, is_loopback, listen
from realm_train.asking.page import AROUND, excerpt, page
from realm_train.asking.server import application
from realm_train.command import compose
from realm_train.errors import BadInput

ATTACK = "\"><script>document.title='owned'</script><img src=x onerror='owned()'></p>"


def client(*responders, host="127.0.0.1", asked_as=None):
    app = application(responders or [responder()], host=host)
    return TestClient(app, base_url=f"http://{asked_as or 'localhost'}:8765")


@contextmanager
def served(*responders):
    """The address of a page that is really served."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(responders), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield address(listening, "127.0.0.1")
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def words_of(html):
    return " ".join(" ".join(parsed_page(html).text).split())


def parsed_page(html):
    """Strict about the elements; the script and the input are looked at elsewhere."""
    return parsed(re.sub(r"<input[^>]*>|<script>.*</script>", "", html, flags=re.DOTALL))


def test_the_page_answers_without_a_script():
    answered = responder()(QUESTION)
    html = client().get("/", params={"question": QUESTION}).text
    text = words_of(html)
    assert f"<mark>{answered.answer}</mark>" in html and "France p 50%" in text
    for shown in answered.passages:
        assert shown.title in text and f"p(z|x) = {shown.p:.3f}, score {shown.score:.2f}" in html
        assert f'class="prior" style="width:{100 * shown.p:.1f}%"' in html
    assert f'title="p(z|x) = {answered.p_null:.3f}"' in html and "p(null)" in text
    assert (
        html.count(" open>") == 1
        and f'name="question" aria-label="question" placeholder="Ask the corpus" value="{QUESTION}"' in html
    )


def test_the_first_page_only_asks():
    html = client().get("/").text
    assert "<form" in html and "<article" not in html and "autofocus" in html
    parsed_page(html)


def test_the_page_asks_nothing_of_any_other_machine():
    html = client(responder(), responder("runs-b")).get("/", params={"question": QUESTION}).text
    outside = [value for _, name, value in parsed_page(html).attributes if name in ("src", "href", "srcset", "data")]
    assert outside == [] and not re.search(r"https?://|url\(|@import|<link|<iframe", html)
    assert "prefers-color-scheme:dark" in html and 'name="viewport"' in html


def test_text_cannot_become_code():
    documents = [{"id": 0, "title": ATTACK, "text": f"Tower {ATTACK} Tower"}]
    answers = [responder(ATTACK, documents=documents)(f"Tower {ATTACK}") for _ in range(2)]
    html = page([ATTACK, ATTACK], answers=answers, remarks=[ATTACK], problem=ATTACK)
    assert {tag for tag, *_ in parsed_page(html).attributes}.isdisjoint({"script", "img"})
    assert html.count("<script>") == 1 and "<img" not in html
    assert ATTACK in unescape(re.search(r"<title>(.*?)</title>", html)[1])
    assert words_of(html).count("document.title='owned'") >= 8, "all of it is shown as text"


def test_only_the_page_s_own_script_may_run():
    reply = client().get("/", params={"question": ATTACK})
    policy = reply.headers["content-security-policy"]
    script = re.search(r"<script>(.*)</script>", reply.text, flags=re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none';")


def test_json_over_http_is_that_of_the_terminal():
    one, other = responder(), responder("runs-b", last_wins=True)
    reply = client(one, other).get("/api/ask", params={"question": QUESTION})
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == json.loads(json.dumps(record(one(QUESTION), other(QUESTION))))


@pytest.mark.parametrize("question", ["", "  ", "x" * 2001])
def test_a_question_that_is_none_is_told(question):
    reply = client().get("/api/ask", params={"question": question})
    assert reply.status_code == 400 and "expected 1 to 2000" in reply.json()["error"]
    shown = client().get("/", params={"question": question})
    assert shown.status_code == 400 and "expected 1 to 2000" in words_of(shown.text) and "<form" in shown.text
    assert client().get("/api/ask").status_code == 400


def test_two_runs_stand_side_by_side():
    runs = responder("runs-a"), responder("runs-b", last_wins=True, k=2), responder("runs-c", tuned=False)
    text = words_of(client(*runs[:2]).get("/", params={"question": QUESTION}).text)
    assert "The answers differ; 3 of 5 passages are found by both." in text
    assert text.index("runs-a France p 50%") < text.index("runs-b Iron p 50%")
    text = words_of(client(runs[0], runs[0]).get("/", params={"question": QUESTION}).text)
    assert "The answers agree; 5 of 5 passages" in text
    text = words_of(client(runs[0], runs[2]).get("/", params={"question": QUESTION}).text)
    assert "a guess of the masked language model" in text and "answers agree" not in text and "differ" not in text


def test_an_inexact_search_is_said():
    assert "finds 97.1% of what exact" in client(responder(recall=0.9712)).get("/", params={"question": "Nile"}).text
    assert "of what exact" not in client().get("/", params={"question": "Nile"}).text


@pytest.mark.parametrize("at", [0, 40, 400, 1990])
@pytest.mark.parametrize("letter", ["word ", "字"])
def test_an_excerpt_holds_the_answer_and_is_short(letter, at):
    text = (letter * 2000)[:2000]
    text = f"{text[:at]}ANSWER{text[at:]}"
    shown = Shown(id=0, title="", text=text, score=0.0, p=0.5, span=(at, at + 6), span_p=0.5)
    said = excerpt(shown)
    assert "<mark>ANSWER</mark>" in said and len(said) < AROUND + 40
    assert said.startswith("… ") == (at > 90) and said.endswith(" …") == (at < 1990)
    assert re.sub(r"^… | …$|</?mark>", "", said) in text


def test_it_listens_on_this_machine_alone_unless_told_otherwise():
    assert is_loopback(compose("ask", "run=a").host)
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", ""))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_a_name_that_only_points_here_is_refused(host):
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert client(host=host, asked_as=name).get("/").status_code == 200
    for name in ("attacker.example", "localhost.attacker.example"):
        assert client(host=host, asked_as=name).get("/api/ask?question=Nile").status_code == 400
    assert client(host="0.0.0.0", asked_as="node17.cluster").get("/").status_code == 200


def test_a_port_in_use_is_one_clear_error_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "realm_train.trained", None)  # an import of it would fail
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port={port}: cannot listen there .*in use.*; take another port"):
            on_page(compose("ask", "run=a", "web=true", f"port={port}"))
    for port in (65536, -1):  # which the system would take for 0 and 65535
        with pytest.raises(BadInput, match=f"port: got {port}, expected 0"):
            listen("127.0.0.1", port)
    with pytest.raises(BadInput, match="host=no.such.host.invalid port=0: cannot listen there"):
        listen("no.such.host.invalid", 0)


def test_ctrl_c_ends_the_server_without_an_error():
    code = (
        "from starlette.applications import Starlette\n"
        "from realm_train.asking import listening, server\n"
        "with listening.listen('127.0.0.1', 0) as open:\n"
        "    print(listening.address(open, '127.0.0.1'), flush=True)\n"
        "    server.serve(Starlette(), open)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    url = process.stdout.readline().strip()
    end = time.monotonic() + 20
    while time.monotonic() < end:  # until it answers, if only with 404
        try:
            urllib.request.urlopen(url)
        except urllib.error.HTTPError:
            break
        except OSError:
            time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out.strip(), err) == (0, "", "")


def test_many_questions_at_once_are_answered_one_after_another():
    made = responder()
    retriever, inside, most = made.retriever, 0, 0

    def slowly(questions, k):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        return retriever(questions, k)

    slowly.recall, made.retriever = 1.0, slowly
    with served(made) as url:
        asking = [
            threading.Thread(target=lambda: urllib.request.urlopen(f"{url}?question=Nile").read()) for _ in "1234"
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    assert most == 1


needs_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="chromium is not installed")


@needs_chromium
def test_in_a_browser_questions_are_typed_and_answered(tmp_path):
    answer = "document.querySelector('.answered .answer-line').firstChild.data"
    attack = [*DOCUMENTS, {"id": 99, "title": ATTACK, "text": f"Zeppelin {ATTACK}"}]
    with served(responder(documents=attack)) as url, chromium.browser(tmp_path) as tab:
        tab.open(url)
        assert tab.value("document.activeElement.name") == "question", "one can type at once"
        tab.type(QUESTION)
        tab.press("Enter")
        tab.wait("document.querySelectorAll('.answered').length === 1")
        assert tab.value(answer) == "France"
        assert tab.value("document.querySelector('.source-of details[open] p mark').innerText") == "France"
        assert tab.value("document.querySelectorAll('.answered li').length") == 6, "five passages and p(null)"
        widths = tab.value("[...document.querySelectorAll('.prior')].slice(0, 5).map(bar => bar.offsetWidth)")
        assert widths == sorted(widths, reverse=True) and widths[0] > 2 * widths[1]
        assert tab.value("location.search") == f"?question={urllib.parse.quote(QUESTION, safe='')}"

        tab.type("where is the Zeppelin")  # what was asked is selected, so it is replaced
        tab.press("Enter")
        tab.wait("document.querySelectorAll('.answered').length === 2")
        assert tab.value("document.querySelector('.answered h2').innerText") == "where is the Zeppelin"
        assert ATTACK in tab.value("document.querySelector('.answered').textContent")
        assert tab.value("document.title").startswith("where is") and not tab.value("document.querySelector('img')")

        tab.press("ArrowUp")
        tab.press("ArrowUp")
        assert tab.value("document.querySelector('input').value") == QUESTION
        tab.value("document.querySelector('input').blur()")
        tab.press("/")
        assert tab.value("document.activeElement.name + document.activeElement.value") == f"question{QUESTION}"

        tab.value("document.querySelector('input').removeAttribute('maxlength')")
        tab.value("document.querySelector('input').value = 'x'.repeat(2001)")
        tab.press("Enter")
        tab.wait("document.querySelector('.problem')?.innerText.includes('expected 1 to 2000')")
        assert tab.value("document.querySelectorAll('.answered').length") == 2, "what was answered stays"


@needs_chromium
def test_a_browser_shows_two_runs_beside_each_other(tmp_path):
    with served(responder(), responder("runs-b", last_wins=True)) as url:
        html = chromium.dumped(f"{url}?question={urllib.parse.quote(QUESTION)}", tmp_path)
    sides = re.findall(r"<section><h4>(.*?)</h4><p class=\"answer-line\">(.*?)<small>", html)
    assert sides == [("runs-a", "France"), ("runs-b", "Iron")]
    assert html.count("<mark>France</mark>") >= 2 and "The answers differ; 5 of 5 passages" in html


@needs_chromium
def test_a_server_that_has_ended_is_told(tmp_path):
    with chromium.browser(tmp_path) as tab:
        with served(responder()) as url:
            tab.open(url)
        tab.type("Nile")
        tab.press("Enter")
        tab.wait("document.querySelector('.problem')?.innerText === 'The server does not answer. Is it still running?'")


def test_another_host_than_loopback_is_warned_of(monkeypatch, capsys):
    from realm_train.asking import server

    ended = []
    monkeypatch.setattr("realm_train.ask.open_runs", lambda cfg: ([responder()], []))
    monkeypatch.setattr(server, "serve", lambda app, listening: ended.append(listening.getsockname()[1]))
    on_page(compose("ask", "run=a", "web=true", "host=0.0.0.0", "port=0"))
    out, err = capsys.readouterr()
    assert out == f"http://0.0.0.0:{ended[0]}/  (Ctrl-C ends)\n" and err.startswith("warning: host=0.0.0.0")
    on_page(compose("ask", "run=a", "web=true", "port=0", "question=Nile and Cairo"))
    out, err = capsys.readouterr()
    assert out == f"http://127.0.0.1:{ended[1]}/?question=Nile%20and%20Cairo  (Ctrl-C ends)\n" and err == ""


def test_the_socket_of_a_loopback_host_is_on_loopback():
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1" and listening.family == socket.AF_INET
        assert address(listening, "::1").startswith("http://[::1]:")
