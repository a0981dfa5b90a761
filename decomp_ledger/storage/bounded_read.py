"""Read files and the answers of programs that may be larger than what anyone needs, such as /dev/zero."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from decomp_ledger.errors import UnusableValue

__all__ = ["answer_of", "read_bounded"]

_CHUNK = 1 << 16


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a small file.

    Args:
        path: the file.
        most: how many bytes it may have.

    Raises:
        OSError: it cannot be read.
        UnusableValue: it has more bytes.
    """
    with Path(path).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UnusableValue(f"it has more than {most} bytes; at most {most} can be read")
    return data


def answer_of(
    command: Sequence[str | bytes],
    most: int,
    seconds: float,
    text: bytes = b"",
    env: Mapping[str, str] | None = None,
    received: Callable[[bytearray], object] | None = None,
) -> tuple[int, bytes, bytes]:
    """Run a program; return its exit status, its output and its errors, both whole.

    The program and everything that it started are killed when it takes too long or prints too much.

    Args:
        command: the program and its arguments.
        most: how many bytes it may print.
        seconds: how long it may take.
        text: its standard input.
        env: its environment.
        received: called with its output so far, whenever there is more.

    Raises:
        OSError: it cannot be run.
        TimeoutError: it took too long.
        UnusableValue: it printed too much.
    """
    with tempfile.TemporaryFile() as given:  # not a pipe, which could fill up
        given.write(text)
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True
        )
    with process:
        try:
            output, errors = _read_both(process, most, time.monotonic() + seconds, received)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.wait(), output, errors


def _read_both(
    process: subprocess.Popen[bytes],
    most: int,
    deadline: float,
    received: Callable[[bytearray], object] | None,
) -> tuple[bytes, bytes]:
    found: dict[IO[bytes] | None, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in found:
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, found[pipe])
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("it timed out")
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
                if received is not None and key.fileobj is process.stdout:
                    received(key.data)
            if sum(map(len, found.values())) > most:
                raise UnusableValue(f"it printed more than {most} bytes; at most {most} can be read")
    return bytes(found[process.stdout]), bytes(found[process.stderr])
