"""Standard output and error as the commands write to them: closed, full, left by the reader, or in a small encoding."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TextIO, cast

from decomp_ledger.errors import LedgerFileError

__all__ = ["drop", "encodable", "end_page", "guard", "output_is_gone", "page", "unguard"]


class _Guarded(io.TextIOBase):
    """A standard stream to which every text can be written.

    A character that the encoding lacks is written as its escape. What is written after the reader left, as `head`
    does, is dropped, so that the command still exits with its own status.

    Args:
        stream: the stream.
        required: raise LedgerFileError if it cannot be written for another reason, such as a full disk.
    """

    errors = "backslashreplace"

    def __init__(self, stream: TextIO, *, required: bool) -> None:
        self.stream = self.terminal = stream
        self.is_gone = False
        self.pager: subprocess.Popen[bytes] | None = None
        self._required = required

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding or "utf-8"

    def isatty(self) -> bool:
        return not self.is_gone and (self.pager is not None or self.stream.isatty())

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        shown = text if text.isascii() else text.encode(self.encoding, self.errors).decode(self.encoding)
        if text:  # a full disk refuses even nothing, which click writes to try a stream
            self._try(lambda: self.stream.write(shown))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.is_gone:
            return
        try:
            act()
        except BrokenPipeError:
            self._drop()
        except (OSError, ValueError) as error:  # ValueError: something closed it
            self._drop()
            if self._required:
                reason = getattr(error, "strerror", None) or error
                raise LedgerFileError(
                    f"standard output: it cannot be written: {reason}; free some space, or redirect it elsewhere"
                ) from None

    def _drop(self) -> None:
        """Write nothing more, nor what Python has buffered and would write at its exit."""
        self.is_gone = True
        drop(self.stream)


def guard() -> None:
    """Put the standard streams behind guards, unless they are. A process that starts without a stream has None."""
    _open_missing_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Guarded):
            setattr(sys, name, _Guarded(stream, required=name == "stdout"))


def unguard() -> None:
    """Put the standard streams back as Python made them, for a program that `run` runs."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _Guarded):
            setattr(sys, name, stream.stream)


def drop(stream: TextIO) -> None:
    """Let what Python has buffered for a stream, and would write at its exit, go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def page() -> bool:
    """Write to a pager from now on, if standard output is a terminal; return whether it does.

    The pager is `$DECOMP_LEDGER_PAGER`, `$PAGER` or less; "" and cat mean none. Less ends by itself if all fits on one
    screen.
    """
    out = sys.stdout
    if not isinstance(out, _Guarded) or out.pager is not None or not out.isatty():
        return False
    command = os.environ.get("DECOMP_LEDGER_PAGER", os.environ.get("PAGER", "less"))
    if command in ("", "cat") or (command == "less" and shutil.which("less") is None):
        return False
    environment = {"LESS": "FRX", "LV": "-c", **os.environ}
    # By the shell, as git does, because the variable may have options.
    out.pager = pager = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environment)
    pipe = cast("IO[bytes]", pager.stdin)
    out.terminal, out.stream = out.stream, io.TextIOWrapper(pipe, out.encoding, out.errors)
    return True


def end_page() -> None:
    """End the output to a pager, and wait until the reader leaves it."""
    out = sys.stdout
    if not isinstance(out, _Guarded) or out.pager is None:
        return
    pager, out.pager = out.pager, None
    with suppress(OSError, ValueError):
        out.stream.close()  # which flushes
    out.stream = out.terminal
    while pager.poll() is None:
        with suppress(KeyboardInterrupt):  # Ctrl-C is the pager's
            pager.wait()


def output_is_gone() -> bool:
    """Tell whether further output is dropped, because its reader closed the pipe, or it cannot be written."""
    return isinstance(sys.stdout, _Guarded) and sys.stdout.is_gone


def encodable(text: str, instead: str) -> str:
    """Return a text, or another one if standard output cannot encode it."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return instead
    return text


def _open_missing_descriptors() -> None:
    """Open the standard descriptors that were closed, or a file of ours would get one, and what a library prints."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # this takes the lowest number that is free
