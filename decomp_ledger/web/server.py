"""Serve a ledger on the loopback address until the caller is interrupted."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import uvicorn

from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.storage.database import MEMORY, Database
from decomp_ledger.web.site import site_of

__all__ = ["serve", "serving"]

_ADDRESS = "127.0.0.1"
_PORTS = 65536
_POLL = 0.2  # seconds between two looks for Ctrl-C where a wait cannot be interrupted


def serve(ledger: LedgerLog, *, port: int, open: bool, ready: Callable[[str], object]) -> None:
    """Serve a ledger until KeyboardInterrupt; see `Ledger.browse`."""
    with serving(ledger, port=port) as (address, ended):
        ready(address)
        if open:
            webbrowser.open(address)
        try:
            while not ended.wait(_POLL):
                pass
        except KeyboardInterrupt:
            return
    raise LedgerError(f"{address}: the server ended by itself; start it again")


@contextmanager
def serving(ledger: LedgerLog, *, port: int = 0) -> Iterator[tuple[str, Event]]:
    """Serve a ledger while the block runs.

    Yields:
        The address of the first page, and an event that is set when the server ended by itself.
    """
    if ledger.path == MEMORY:
        raise UnusableValue("browse: a ledger in memory cannot be served; use a file")
    with _listening(port) as listener, _opened(ledger) as ledger_file, site_of(ledger, ledger_file) as application:
        # No log, because it would print addresses that strangers chose to the terminal.
        config = uvicorn.Config(
            application, log_config=None, access_log=False, ws="none", lifespan="on", timeout_graceful_shutdown=2
        )
        server, ended = uvicorn.Server(config), Event()
        # A thread of its own, because the caller's may have an event loop, as that of a notebook has.
        thread = Thread(target=_run, args=(server, listener, ended), name="decomp_ledger browse", daemon=True)
        thread.start()
        try:
            yield f"http://{_ADDRESS}:{listener.getsockname()[1]}/", ended
        finally:
            server.should_exit = True
            thread.join()


def _run(server: uvicorn.Server, listener: socket.socket, ended: Event) -> None:
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        ended.set()


@contextmanager
def _opened(ledger: LedgerLog) -> Iterator[Database]:
    """Open the file once more, because Datasette needs other settings of the connection."""
    opened = Database(ledger.path, read_only=True, with_views=True)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    if not 0 <= port < _PORTS:
        raise UnusableValue(f"port: {port} is not possible; give 1 to {_PORTS - 1}, or 0 for any free one")
    try:
        listener = socket.create_server((_ADDRESS, port))
    except OSError as error:
        raise LedgerError(f"port {port}: it cannot be used: {error.strerror}; give another one") from None
    with listener:
        yield listener
