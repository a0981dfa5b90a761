"""Tell, without lowering, whether a lowering would change a program, and whether it was done before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch.export import ExportedProgram

from decomp_ledger.analysis.drift import IN_GRAPH, treatment
from decomp_ledger.errors import UnusableValue
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.arguments import shown
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Entry
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.model.materialize import materialize
from decomp_ledger.model.rules import Rule, TableState
from decomp_ledger.pytorch import graph_digest, internals, plain_dict
from decomp_ledger.pytorch.dispatcher import Defaults, dispatcher, resolve
from decomp_ledger.pytorch.entries import entry
from decomp_ledger.pytorch.table import DecompTable

__all__ = ["WouldChange", "would_change"]


@displayed
@attrs.frozen
class WouldChange:
    """What is known of a lowering before it is done. True if it would change the program.

    Attributes:
        changes: whether the graph would change: as it did before, else as the ops of the program tell.
        because: the reason.
        program: digest of the program's graph.
        snapshot: digest of the table in this torch.
        ops: for each op of the program that would not stay as it is: `in the table`, `always decomposed` or
            `functionalized`.
        earlier: the exports that lowered the same graph with the same table, oldest first.
        result: the digest of their result; None without such an export, or if their results differ.
    """

    changes: bool
    because: str
    program: str
    snapshot: str
    ops: Mapping[str, str]
    earlier: tuple[Event, ...]
    result: str | None

    def __bool__(self) -> bool:
        return self.changes

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data; of the earlier exports, the seqs."""
        return {
            "changes": self.changes,
            "because": self.because,
            "program": self.program,
            "snapshot": self.snapshot,
            "ops": dict(self.ops),
            "earlier": [event.seq for event in self.earlier],
            "result": self.result,
        }


def would_change(ledger: LedgerLog, program: Any, table: TableState | Mapping[Any, Any] | None) -> WouldChange:
    """Tell whether a lowering would change a program; see :meth:`decomp_ledger.Ledger.would_change`."""
    if not isinstance(program, ExportedProgram):
        raise UnusableValue(f"{shown(program)}: not a program; give an ExportedProgram, or the path of a .pt2")
    defaults = dispatcher.full()
    snapshot = materialize(_state(table, defaults), defaults.catalog)
    digest = graph_digest.graph_digest(program)
    ops = _affected(graph_digest.op_histogram(program), snapshot.ops, defaults)
    events = (each for each in ledger.events(kind=Exported.kind) if isinstance(each.body, Exported))
    earlier = tuple(each for each in events if _is_same(each.body, digest, snapshot.digest))
    results = {each.body.after for each in earlier if isinstance(each.body, Exported)}
    result = results.pop() if len(results) == 1 else None
    if result is not None:
        changes, because = result != digest, f"export:{earlier[-1].seq} lowered the same graph with the same table"
    elif ops:
        changes, because = True, "ops of the program are decomposed or replaced by their functional form"
    else:
        changes, because = False, "nothing decomposes or replaces an op of the program"
    return WouldChange(changes, because, digest, snapshot.digest, ops, earlier, result)


def _is_same(body: Any, program: str, snapshot: str) -> bool:
    return bool(body.error is None and body.after and body.before == program and body.snapshot == snapshot)


def _state(table: TableState | Mapping[Any, Any] | None, defaults: Defaults) -> TableState:
    if table is None:
        return TableState("torch", 0, "torch", {})
    if isinstance(table, TableState):
        return table
    if isinstance(table, DecompTable):
        return table.state
    if not isinstance(table, Mapping):
        raise UnusableValue(f"{shown(table)}: not a table; give a table, a dict, or a state spec such as 'edge@3'")
    found = plain_dict.content(dict(table), defaults)
    rules = {op: Rule(action, decomposition) for op, action, decomposition in found.changes}
    return TableState("a dict", 0, found.base, rules, from_dict=True)


def _affected(counts: Mapping[str, int], table: Mapping[str, str], defaults: Defaults) -> dict[str, str]:
    """Return the ops that an export does not leave as they are, with what it does with them."""
    found = {}
    for op in sorted(counts):
        live = resolve(op)
        if live is not None:
            fields = entry(op, live, defaults.table.get(live), digests=False)
            what = treatment(Entry.from_json(fields), in_table=op in table and not internals.mutates(live))
            if what not in (IN_GRAPH, None):
                found[op] = what
    return found
