"""`python -m realm_train.ask run=… question="…"`: what a run answers, and the passages that the answer comes from."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig
from rich.console import Console

from realm_train.asking.listening import address, is_loopback, listen
from realm_train.asking.session import converse
from realm_train.command import command, quoted
from realm_train.errors import BadInput


@command("ask")
def main(cfg: DictConfig) -> None:
    """Answers one question, or all that come: in the terminal, or with `web` on a page."""
    if cfg.web and cfg.json:
        raise BadInput("got json=true and web=true, expected one; the page's /api/ask?question=… answers in JSON")
    if cfg.web:
        on_page(cfg)
        return
    responders, remarks = open_runs(cfg)
    if not cfg.json:
        print(*remarks, sep="\n", file=sys.stderr)
    in_terminal(responders, question=None if cfg.question is None else str(cfg.question), as_json=cfg.json)


def in_terminal(responders: Sequence, *, question: str | None, as_json: bool) -> None:
    """Prints the answers to one question, or to every line of standard input."""
    from realm_train.asking.answered import record
    from realm_train.asking.terminal import show

    console = Console()

    def answer(question: str) -> None:
        answers = [responder(question) for responder in responders]
        if as_json:
            print(json.dumps(record(*answers), ensure_ascii=False, allow_nan=False), flush=True)
            return
        for answered in answers:
            show(answered, console)
            console.print()

    if question is None:
        converse(answer)
    else:
        answer(question)


def on_page(cfg: DictConfig) -> None:
    """Serves the page until Ctrl-C."""
    with listen(cfg.host, cfg.port) as listening:  # before anything is loaded: a port in use is told at once
        responders, remarks = open_runs(cfg)
        server = web_server()
        if not is_loopback(cfg.host):
            print(
                f"warning: host={cfg.host} is no loopback address: whoever reaches this machine can ask and read the"
                " corpus; there is no password",
                file=sys.stderr,
            )
        first = "" if cfg.question is None else f"?question={quote(str(cfg.question))}"
        print(f"{address(listening, cfg.host)}{first}  (Ctrl-C ends)", flush=True)
        server.serve(server.application(responders, remarks=remarks, host=cfg.host), listening)


def web_server() -> ModuleType:
    """The module that needs a web library."""
    try:
        from realm_train.asking import server
    except ImportError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise BadInput("web=true: needs starlette and uvicorn; pip install -e '.[web]'") from error
    return server


def open_runs(cfg: DictConfig) -> tuple[list, list[str]]:
    """One responder for the run, another for the one to compare with, and what is to be said of each."""
    wanted = [(cfg.run, cfg.stage)]
    if cfg.versus is not None or cfg.versus_stage is not None:
        wanted.append((cfg.versus or cfg.run, cfg.versus_stage))
    with nothing_collected():
        opened = [open_run(cfg, run, stage, name) for (run, stage), name in zip(wanted, named(wanted), strict=True)]
    return [responder for responder, _ in opened], [remark for _, remark in opened]


def open_run(cfg: DictConfig, run: str, stage: str | None, name: str) -> tuple[Any, str]:
    """The responder of one run, and what is to be said of it."""
    from realm_train.asking.answered import Responder
    from realm_train.trained import open_trained

    trained = open_trained(run, stage=stage, corpus=cfg.corpus, device=cfg.device, threads=cfg.threads)
    answerer = trained.answerer()
    responder = Responder(
        name=name,
        corpus=trained.corpus,
        retriever=trained.retriever(name=name),
        answerer=answerer,
        closed_book=None if answerer else trained.closed_book(),
        k=cfg.k,
        considered=trained.considered,
    )
    remark = f"{name}: {trained.stage}, step {trained.step}; {trained.corpus.count:,} passages"
    return responder, remark if answerer else f"{remark}; {untuned(run)}"


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Leaves the garbage collector out, and what was made meanwhile for good: imports make many objects that stay, and
    to look through them again and again is a third of the time until the first answer."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def named(wanted: Sequence[tuple[str, str | None]]) -> list[str]:
    """The shortest names that tell the runs apart: folder, path, or path and stage."""
    for names in ([Path(run).name for run, _ in wanted], [str(run) for run, _ in wanted]):
        if len({*names}) == len(names):
            return names
    return [f"{run} {stage or 'newest'}" for run, stage in wanted]


def untuned(run: str) -> str:
    """What a run without a span reader can do, and how it gets one."""
    return (
        "not fine-tuned, so it finds passages but reads no answer from them; fine-tune it with"
        f" python -m realm_train.train experiment=open_qa ckpt={run} questions=…"
    )


def as_typed(argv: Sequence[str]) -> list[str]:
    """The words of a command line with the question quoted for Hydra, in whose grammar commas, brackets, equals and
    apostrophes mean something, and ${…} to OmegaConf; a question that is quoted already stays."""
    words, typed = list(argv), []
    while words:
        name, equals, question = words.pop(0).partition("=")
        if name not in ("question", "--question"):
            typed.append(f"{name}{equals}{question}")
            continue
        if not equals and words:
            question = words.pop(0)
        is_quoted = len(question) > 1 and question[0] == question[-1] and question[0] in "'\""
        typed.append("question=" + (question if is_quoted else quoted(question.replace("${", r"\${"))))
    return typed


if __name__ == "__main__":
    sys.argv[1:] = as_typed(sys.argv[1:])
    main()
