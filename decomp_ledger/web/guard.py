"""Answer only the browser of this machine: refuse other hosts, other sites and everything but reading."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

__all__ = ["guarded", "refusal"]

_Message: TypeAlias = MutableMapping[str, Any]
_App: TypeAlias = Callable[[Any, Any, Callable[[_Message], Awaitable[None]]], Awaitable[None]]

# A page of another site could give its own name the address 127.0.0.1, and would then read what is served there.
_HOSTS = {"127.0.0.1", "localhost"}
_HEADERS = {
    b"content-security-policy": (
        b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
        b"frame-ancestors 'none'"
    ),
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


def guarded(app: _App) -> _App:
    """Return an application that answers only what `refusal` lets pass, and forbids pages to load anything."""

    async def answer(scope: Any, receive: Any, send: Callable[[_Message], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in _HEADERS]
                message = {**message, "headers": [*kept, *_HEADERS.items()]}
            await send(message)

        refused = refusal(scope)
        if refused is None:
            await app(scope, receive, send_with_headers)
            return
        status, text = refused
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send_with_headers({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    return answer


def refusal(scope: Any) -> tuple[int, str] | None:
    """Return the status and the text with which a request is refused, or None."""
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if scope["method"] not in ("GET", "HEAD"):
        return 405, "only GET and HEAD are answered: the ledger is served for reading only\n"
    if _host(headers.get(b"host", "")) not in _HOSTS:
        return 421, "only requests to 127.0.0.1 and localhost are answered\n"
    # A link to a page may come from anywhere. Images, scripts and frames of other sites may not ask.
    site, mode = headers.get(b"sec-fetch-site", "none"), headers.get(b"sec-fetch-mode", "navigate")
    if site not in ("none", "same-origin") and mode != "navigate":
        return 403, "only pages of this server may load from it\n"
    return None


def _host(header: str) -> str | None:
    """Return the host of a header, without its port: the port of a tunnel is another one."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
