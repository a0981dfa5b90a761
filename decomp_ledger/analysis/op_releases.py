"""One op through all releases of torch: what each does with it by default. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs

from decomp_ledger.analysis.behaviour import VERDICTS, TraceData
from decomp_ledger.analysis.drift import IN_TABLE, NamedState, behaviour_of, treatment
from decomp_ledger.analysis.idle import mutates
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Row, displayed, guarded, to_rows

__all__ = ["OpRelease", "OpReleases", "op_releases"]


@displayed
@attrs.frozen
class OpRelease:
    """One op in one release of torch.

    Attributes:
        torch: the version.
        treatment: what an export does with the op by default: `in the table`, `always decomposed`, `functionalized` or
            `kept in graphs`; None if this torch does not have the op.
        origin: where its decomposition comes from, in the table or not: `cia`, `py_cia`, `registry`, or None.
        function: `module.qualname` of a decomposition in Python, or "".
        unpreservable: why torch cannot keep a composite op in a graph; "" if it can.
        schema: the op's schema, or "".
        behaviour: how its default decomposition behaves compared with the release before, one of `VERDICTS`; "" if not
            both decompose it by default.
    """

    torch: str
    treatment: str | None
    origin: str | None = None
    function: str = ""
    unpreservable: str = ""
    schema: str = ""
    behaviour: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


@displayed
@attrs.frozen
class OpReleases:
    """One op in all releases whose catalogs are shipped, oldest first.

    Attributes:
        op: the op.
        releases: one for each version.
    """

    op: str
    releases: tuple[OpRelease, ...]

    @guarded
    def __repr__(self) -> str:
        return f"<OpReleases of {self.op}: {'; '.join(self.steps)}>"

    @property
    def steps(self) -> tuple[str, ...]:
        """What changed, a sentence for each run of releases that treat the op alike: `in the table until 2.7.1`."""
        runs: list[list[OpRelease]] = []
        for each in self.releases:
            if runs and runs[-1][0].treatment == each.treatment:
                runs[-1].append(each)
            else:
                runs.append([each])
        return tuple(_step(run, first=run is runs[0], last=run is runs[-1]) for run in runs)

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each release, oldest first."""
        return [{"op": self.op, **row} for row in to_rows(self.releases)]

    def _row(self) -> Row:
        return {"op": self.op, "steps": "; ".join(self.steps)}

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {"op": self.op, "steps": list(self.steps), "releases": [each.to_json() for each in self.releases]}


def _step(run: Sequence[OpRelease], *, first: bool, last: bool) -> str:
    what = run[0].treatment or "not in torch"
    what = "in the default table" if what == IN_TABLE else what
    if first and last:
        return f"{what} in all releases from {run[0].torch} to {run[-1].torch}"
    if first:
        return f"{what} until {run[-1].torch}"
    if last:
        return f"{what} since {run[0].torch}"
    return f"{what} in {run[0].torch}" if len(run) == 1 else f"{what} from {run[0].torch} to {run[-1].torch}"


def op_releases(op: str, states: Sequence[NamedState], data: TraceData) -> OpReleases:
    """Return what each release does with an op by default.

    Args:
        op: the op's name.
        states: torch's default table in each release, oldest first; the name of each is the version.
        data: what the traces of all releases share.
    """
    behaviours = [""] + [_behaviour(op, one, other, data) for one, other in pairwise(states)]
    found = (_release(op, state, behaviour) for state, behaviour in zip(states, behaviours, strict=True))
    return OpReleases(op, tuple(found))


def _release(op: str, state: NamedState, behaviour: str) -> OpRelease:
    entry = state.catalog.ops.get(op)
    if entry is None:
        return OpRelease(state.name, None)
    return OpRelease(
        state.name,
        # Export replaces an op that changes its argument before it asks the table.
        treatment(entry, in_table=entry.default and not mutates(entry)),
        entry.origin,
        f"{entry.module}.{entry.qualname}" if entry.module else "",
        entry.unpreservable if entry.origin in ("cia", "py_cia") else "",
        entry.schema,
        behaviour,
    )


def _behaviour(op: str, before: NamedState, after: NamedState, data: TraceData) -> str:
    entries = [state.catalog.ops.get(op) for state in (before, after)]
    if not all(entry is not None and entry.default for entry in entries):
        return ""
    return VERDICTS[behaviour_of(op, before, after, data).verdict]
