"""Compare a plain dict of decompositions, which an export is about to use, with torch's default table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decomp_ledger.log.table_log import Wanted
from decomp_ledger.model import op_names
from decomp_ledger.model.events import OVERRIDE, PRESERVE
from decomp_ledger.pytorch import decompositions, internals
from decomp_ledger.pytorch.dispatcher import Defaults
from decomp_ledger.pytorch.mapping import LiveMapping

__all__ = ["changes_from_base", "stale_ops"]


def changes_from_base(table: Mapping[Any, Any], defaults: Defaults) -> tuple[str, Wanted]:
    """Return the base (`torch` or `empty`) and the changes that make a dict, with the base that needs fewer changes.

    Keys that are not operators are left out, because torch ignores them.
    """
    by_name = {name: fn for op, fn in table.items() if (name := internals.operator_name(op)) is not None}
    given = {op: fn for op, fn in by_name.items() if not decompositions.is_default(op, fn, defaults)}
    missing = [op for op in defaults.by_name if op not in by_name]
    from_torch = len(given) + len(missing) <= len(by_name)
    overrides = given if from_torch else by_name
    wanted: Wanted = [(op, OVERRIDE, decompositions.identify(op, fn, defaults)) for op, fn in sorted(overrides.items())]
    if from_torch:
        wanted += [(op, PRESERVE, None) for op in sorted(missing)]
    return ("torch" if from_torch else "empty"), wanted


def stale_ops(table: Mapping[Any, Any], defaults: Defaults) -> tuple[str, ...]:
    """Return the custom ops that a table of torch's own lacks, apparently because it was read before they were loaded.

    An op that was popped before the table was first read is among them, because torch forgets such pops. A plain dict
    has none, nor has a table that was not read yet, because that still takes in what is loaded, nor one of ours.
    """
    if isinstance(table, LiveMapping) or not internals.was_read_upstream(table):
        return ()
    popped = internals.ops_popped_upstream(table)
    return tuple(
        sorted(
            op
            for op, live in defaults.by_name.items()
            if not op_names.is_aten(op) and live not in popped and live not in table
        )
    )
