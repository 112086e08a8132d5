"""A headless Chromium that tests type into, over its debugging pipe: no driver, no further package."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
]
KEYS = {"Enter": (13, "\r"), "ArrowUp": (38, ""), "ArrowDown": (40, ""), "/": (191, "/")}


def dumped(url: str, profile: Path) -> str:
    """The page's elements after its script has run, as HTML."""
    flags = [*FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
    done = subprocess.run([BINARY, *flags], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


class Page:
    """One tab."""

    def __init__(self, commands: int, events: int) -> None:
        self.commands, self.events, self.pending, self.session = commands, events, b"", None
        self.numbers = itertools.count(1)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict:
        """One command of the DevTools protocol, and its result."""
        message = {"id": next(self.numbers), "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self.receive()
            if reply.get("id") == message["id"]:
                assert "error" not in reply, reply
                return reply["result"]

    def receive(self) -> dict:
        """The next reply or event."""
        while b"\0" not in self.pending:
            arrived = os.read(self.events, 65536)
            assert arrived, "chromium has ended"
            self.pending += arrived
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        """Goes to an address, and waits for the whole page."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}\n{self.value('document.body.innerText')}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Types into what has the focus, in the place of what is selected."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """One key, down and up."""
        code, text = KEYS[key]
        both = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **both)
        self.call("Input.dispatchKeyEvent", type="keyUp", **both)


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser of its own with one tab; it is ended afterwards."""
    read, commands = os.pipe()
    events, write = os.pipe()
    flags = [*FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
    started = f'exec "$0" "$@" 3<&{read} 4>&{write}'  # Chromium reads commands from 3, and writes to 4
    process = subprocess.Popen(
        ["bash", "-c", started, BINARY, *flags],
        pass_fds=(read, write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read)
    os.close(write)
    try:
        yield Page(commands, events)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(commands)
        os.close(events)
