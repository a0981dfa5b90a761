"""Tell what a dict of decompositions is, which an export is about to use: its difference from a table of torch's.

A dict has no rules. It does not tell why an op is missing: its maker left the op out, or the op was loaded later. Only
the callables of C++ kernels tell from which default table, and so at which moment, it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from decomp_ledger.log import provenance
from decomp_ledger.log.table_log import Wanted
from decomp_ledger.model import op_names
from decomp_ledger.model.events import OVERRIDE, PRESERVE
from decomp_ledger.pytorch import decompositions, internals
from decomp_ledger.pytorch.dispatcher import Defaults, dict_origin
from decomp_ledger.pytorch.mapping import LiveMapping

__all__ = ["Content", "content", "stale_ops"]


@attrs.frozen
class Content:
    """What a dict has, as its difference from a base.

    Attributes:
        base: `torch` or `empty`, the one that needs fewer changes.
        changes: what turns the base into the dict.
        entries: how many ops the dict has.
        later: the missing ops that torch's default table did not have yet when the dict was made from it.
        made: the line that made the table of torch's own that it was made from, as text; "" if that is not known.
    """

    base: str
    changes: Wanted
    entries: int
    later: tuple[str, ...]
    made: str = ""


def content(table: Mapping[Any, Any], defaults: Defaults) -> Content:
    """Return what a dict has.

    Keys that are not operators are left out, because torch ignores them.
    """
    by_name = {name: fn for op, fn in table.items() if (name := internals.operator_name(op)) is not None}
    given = {op: fn for op, fn in by_name.items() if not decompositions.is_default(op, fn, defaults)}
    missing = [op for op in defaults.by_name if op not in by_name]
    from_torch = len(given) + len(missing) <= len(by_name)
    overrides = given if from_torch else by_name
    changes: Wanted = [
        (op, OVERRIDE, decompositions.identify(op, decompositions.as_recorded(fn), defaults))
        for op, fn in sorted(overrides.items())
    ]
    if not from_torch:
        return Content("empty", changes, len(by_name), ())
    changes += [(op, PRESERVE, None) for op in sorted(missing)]
    origin = dict_origin(by_name.values())
    later = () if origin is None else tuple(sorted(op for op in missing if op not in origin.names))
    made = "" if origin is None or origin.line is None else provenance.line_text(origin.line)
    return Content("torch", changes, len(by_name), later, made)


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
