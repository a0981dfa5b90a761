"""Read files and the answers of programs that may be larger than what anyone needs, such as /dev/zero."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import attrs

from decomp_ledger.errors import UnusableValue

__all__ = ["Answer", "answer_of", "answers_of", "read_bounded"]

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


@attrs.frozen
class Answer:
    """What a program printed until its end.

    Attributes:
        status: its exit status.
        output: its output.
        errors: its error output.
    """

    status: int
    output: bytes
    errors: bytes


def answer_of(
    command: Sequence[str | bytes],
    most: int,
    seconds: float,
    text: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> tuple[int, bytes, bytes]:
    """Run a program; return its exit status, its output and its errors, both whole; see `answers_of`."""
    (answer,) = answers_of(command, [text], most, seconds, env)
    return answer.status, answer.output, answer.errors


def answers_of(
    command: Sequence[str | bytes],
    texts: Sequence[bytes],
    most: int,
    seconds: float,
    env: Mapping[str, str] | None = None,
    received: Callable[[int, bytearray], object] | None = None,
) -> list[Answer]:
    """Run a program once for each text, all at the same time; return their answers, whole and in order.

    The programs and everything that they started are killed when they take too long or print too much.

    Args:
        command: the program and its arguments.
        texts: what each run has as its standard input.
        most: how many bytes each may print.
        seconds: how long all may take.
        env: their environment.
        received: called with the number of a run and its output so far, whenever there is more.

    Raises:
        OSError: it cannot be run.
        TimeoutError: it took too long.
        UnusableValue: it printed too much.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        processes = [stack.enter_context(_started(command, text, env)) for text in texts]
        printed = _read_all(processes, most, deadline, received)
        return [Answer(each.wait(), *both) for each, both in zip(processes, printed, strict=True)]


@contextmanager
def _started(
    command: Sequence[str | bytes], text: bytes, env: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program; kill it and everything that it started if the block raises."""
    with tempfile.TemporaryFile() as given:  # not a pipe, which could fill up
        given.write(text)
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True
        )
    with process:
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _read_all(
    processes: Sequence[subprocess.Popen[bytes]],
    most: int,
    deadline: float,
    received: Callable[[int, bytearray], object] | None,
) -> list[tuple[bytes, bytes]]:
    found = [(bytearray(), bytearray()) for _ in processes]
    with selectors.DefaultSelector() as selector:
        for number, process in enumerate(processes):
            for place, pipe in enumerate((process.stdout, process.stderr)):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, (number, place))
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("it timed out")
            for key, _ in ready:
                number, place = key.data
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                found[number][place].extend(chunk)
                if received is not None and place == 0:
                    received(number, found[number][0])
                if sum(map(len, found[number])) > most:
                    raise UnusableValue(f"it printed more than {most} bytes; at most {most} can be read")
    return [(bytes(output), bytes(errors)) for output, errors in found]
