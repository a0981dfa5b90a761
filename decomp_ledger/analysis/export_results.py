"""What became of the results of exports: equal graphs, and the files that they were saved into. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Row, displayed, guarded, row_of
from decomp_ledger.model.events import Event, Exported, Saved

__all__ = ["ExportResult", "export_results"]


@displayed
@attrs.frozen(repr=False)
class ExportResult:
    """One export, and what the ledger tells of its result.

    Attributes:
        event: the `exported` event.
        same_graph_as: the seq of the first earlier export that gave the same graph; None if none did. Values of
            parameters and buffers are not compared, because a ledger has no digests of them.
        saved: the `saved` events of its result, oldest first.
    """

    event: Event
    same_graph_as: int | None = None
    saved: tuple[Event, ...] = ()

    @guarded
    def __repr__(self) -> str:
        same = "" if self.same_graph_as is None else f", same graph as export:{self.same_graph_as}"
        return f"<ExportResult export:{self.event.seq}{same}, saved as {', '.join(self.files) or 'nothing'}>"

    def _row(self) -> Row:
        return {**row_of(self.event), "same_graph_as": self.same_graph_as, "saved": ", ".join(self.files)}

    @property
    def files(self) -> tuple[str, ...]:
        """The files that its result was saved into, each once; where the program wrote the bytes itself, the format."""
        bodies = (event.body for event in self.saved if isinstance(event.body, Saved))
        return tuple(dict.fromkeys(body.path or f"({body.format})" for body in bodies))

    def to_json(self) -> dict[str, Json]:
        """Return the facts beyond the event, as plain data."""
        saved: list[Json] = [
            {
                "seq": event.seq,
                "path": event.body.path,
                "format": event.body.format,
                "size": event.body.size,
                "sha256": event.body.sha256,
                "stamped": event.body.stamped,
            }
            for event in self.saved
            if isinstance(event.body, Saved)
        ]
        return {"same_graph_as": self.same_graph_as, "saved": saved}


def export_results(exports: Iterable[Event], saved: Iterable[Event]) -> list[ExportResult]:
    """Return what became of each export.

    Args:
        exports: the `exported` events of a ledger from its first one on, oldest first.
        saved: its `saved` events, oldest first.
    """
    files: dict[int, list[Event]] = {}
    for event in saved:
        if isinstance(event.body, Saved):
            files.setdefault(event.body.export, []).append(event)
    first: dict[str, int] = {}
    found = []
    for event in exports:
        graph = event.body.after if isinstance(event.body, Exported) else None
        same = event.seq if graph is None else first.setdefault(graph, event.seq)
        found.append(ExportResult(event, None if same == event.seq else same, tuple(files.get(event.seq, ()))))
    return found
