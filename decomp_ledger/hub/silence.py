"""A connection of psycopg that ends when the server is silent for too long.

TCP notices a peer that is dead. It does not notice a proxy that takes every byte and never answers, and libpq waits for
that without end. So the time is measured here, from the last moment at which bytes could be read or sent.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import psycopg

__all__ = ["connection_class"]

_Result = TypeVar("_Result")


@cache
def connection_class() -> type[psycopg.Connection[Any]]:
    """Return the class, which is made when psycopg is first needed, because importing it takes time."""
    import psycopg

    class WatchedConnection(psycopg.Connection[Any]):
        """A connection that closes itself, and raises OperationalError, when the server is silent for too long.

        Attributes:
            most_silence: how many seconds are too long; None means no limit.
            silence: for how many seconds the server was silent, if that ended the connection; else None.
        """

        most_silence: float | None = None
        silence: float | None = None

        def wait(self, gen: Generator[Any, Any, _Result], *args: Any, **kwargs: Any) -> _Result:
            """Wait for the server, as every query, COPY, COMMIT and ROLLBACK does."""
            return super().wait(self._watched(gen), *args, **kwargs)

        def _watched(self, gen: Generator[Any, Any, _Result]) -> Generator[Any, Any, _Result]:
            """Pass on what `gen` waits for. It is resumed when that is there, and at short intervals with nothing."""
            try:
                wanted, heard = next(gen), time.monotonic()
                while True:
                    ready = yield wanted
                    if ready:
                        heard = time.monotonic()
                    elif self.most_silence is not None and (silence := time.monotonic() - heard) > self.most_silence:
                        self.silence = silence
                        self.close()
                        raise psycopg.OperationalError("the server is silent")
                    wanted = gen.send(ready)
            except StopIteration as end:
                result: _Result = end.value
                return result

    return WatchedConnection
