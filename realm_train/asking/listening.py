"""Where the page is served, and who can reach it. Nothing heavy is imported: a mistake is told at once."""

from __future__ import annotations

import ipaddress
import socket

from realm_train.errors import BadInput


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bracketed(host: str) -> str:
    """The host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one. Raises BadInput where it cannot, such as on a port in use."""
    if not 0 <= port <= 65535:
        raise BadInput(f"port: got {port}, expected 0 (any free one) to 65535")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        raise BadInput(
            f"host={host} port={port}: cannot listen there ({error.strerror}); take another port, or port=0 for any"
            " free one"
        ) from error


def address(listening: socket.socket, host: str) -> str:
    """Where a browser finds the page."""
    return f"http://{bracketed(host)}:{listening.getsockname()[1]}/"
