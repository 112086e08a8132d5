"""The page and its JSON over HTTP, for this machine alone unless another host is asked for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from realm_train.asking.answered import Answered, Responder, record
from realm_train.asking.listening import bracketed, is_loopback
from realm_train.asking.look import SCRIPT
from realm_train.asking.page import page
from realm_train.errors import BadInput

SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
HEADERS = {  # only the page's own script may run, whatever a passage says
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'sha256-{SCRIPT_HASH}'; style-src 'unsafe-inline'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def application(responders: Sequence[Responder], *, remarks: Sequence[str] = (), host: str = "127.0.0.1") -> Starlette:
    """`/?question=…` as a page and `/api/ask?question=…` as JSON; on a loopback host requests under any other name are
    refused, so that no site of the web can have its name point here and read."""
    names = [responder.name for responder in responders]
    model = ThreadPoolExecutor(max_workers=1)  # one question after another, and torch's threads are made once

    async def answers(question: str) -> list[Answered]:
        def ask() -> list[Answered]:
            return [responder(question) for responder in responders]

        return await asyncio.get_running_loop().run_in_executor(model, ask)

    async def show(request: Request) -> Response:
        question = request.query_params.get("question")
        try:
            found = [] if question is None else await answers(question)
        except BadInput as mistake:
            return HTMLResponse(page(names, remarks=remarks, problem=str(mistake)), 400, headers=HEADERS)
        return HTMLResponse(page(names, answers=found, remarks=remarks), headers=HEADERS)

    async def api(request: Request) -> Response:
        try:
            return JSONResponse(record(*await answers(request.query_params.get("question", ""))), headers=HEADERS)
        except BadInput as mistake:
            return JSONResponse({"error": str(mistake)}, 400, headers=HEADERS)

    hosts = ["localhost", "127.0.0.1", "[::1]", bracketed(host)] if is_loopback(host) else ["*"]
    return Starlette(
        routes=[Route("/", show), Route("/api/ask", api)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
    )


def serve(app: Starlette, listening: socket.socket) -> None:
    """Answers until Ctrl-C."""
    settings = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2)
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        print()  # after the ^C
