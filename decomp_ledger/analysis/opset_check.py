"""The ops of a lowered program that a backend does not take, what made them, and what removes them. Pure."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from decomp_ledger.analysis.advice import Why
from decomp_ledger.analysis.outcome import facts, makers
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Row, columns_of, displayed, guarded, to_rows
from decomp_ledger.model.events import Emission, Exported
from decomp_ledger.model.opset import Opset

__all__ = ["OpsetCheck", "OutsideOp", "check_opset"]


@displayed
@attrs.frozen
class OutsideOp:
    """An op of a lowered program that is not in the opset.

    Attributes:
        op: the op.
        count: its nodes in the result.
        made_by: what made these nodes, a sentence each, the most nodes first; None if that is not known.
        decomposers: the ops whose decompositions made nodes of it.
        why: why the op is in the result, and what to write to decompose it.
    """

    op: str
    count: int
    made_by: tuple[str, ...] | None
    decomposers: tuple[str, ...]
    why: Why

    def _row(self) -> Row:
        answer = self.why.answer
        return {
            **columns_of(self, without=("why",)),
            "outcome": answer.outcome,
            "because": answer.because,
            "decompose": str(self.why.decompose),
        }

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "op": self.op,
            "count": self.count,
            "made_by": None if self.made_by is None else list[Json](self.made_by),
            "decomposers": list[Json](self.decomposers),
            "outcome": self.why.answer.outcome,
            "because": self.why.answer.because,
            "decompose": self.why.decompose.to_json(),
        }


@displayed
@attrs.frozen
class OpsetCheck:
    """A lowered program, compared with the ops that a backend takes.

    Attributes:
        name: the export.
        opset: the ops that it may have.
        ops: how many ops the result has.
        outside: those of them that are not in the opset, by name.
        not_judged: those of them that the opset is not about, by name.
    """

    name: str
    opset: Opset
    ops: int
    outside: tuple[OutsideOp, ...]
    not_judged: tuple[str, ...] = ()

    @guarded
    def __repr__(self) -> str:
        return f"<OpsetCheck of {self.name}: {len(self.outside)} of {self.ops} ops are not in {self.opset.name}>"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each op outside of the opset."""
        return to_rows(self.outside)

    @property
    def passed(self) -> bool:
        """Whether every op of the result that the opset is about is in it."""
        return not self.outside

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data; of the opset, its name, source and date."""
        return {
            "name": self.name,
            "opset": {"name": self.opset.name, "source": self.opset.source, "date": self.opset.date},
            "ops": self.ops,
            "passed": self.passed,
            "outside": [each.to_json() for each in self.outside],
            "not_judged": list[Json](self.not_judged),
        }


def check_opset(name: str, body: Exported, opset: Opset, why: Callable[[str], Why]) -> OpsetCheck:
    """Compare the result of an export with an opset.

    Args:
        name: the export.
        body: its body; it must not have failed.
        opset: the ops that the result may have.
        why: explains an op of the export.
    """
    outside = (
        OutsideOp(op, body.ops_after[op], _makers(op, body), _decomposers(op, body), why(op))
        for op in opset.outside(body.ops_after)
    )
    not_judged = tuple(sorted(op for op in body.ops_after if op not in opset.ops and not opset.judges(op)))
    return OpsetCheck(name, opset, len(body.ops_after), tuple(outside), not_judged)


def _makers(op: str, body: Exported) -> tuple[str, ...] | None:
    found = facts(op, body)
    if found.made_by is None:
        return None
    own = found.kept or 0
    rows = list(found.emitted)
    return (*makers([Emission(op, own, (), op)] if own else []), *makers(rows))


def _decomposers(op: str, body: Exported) -> tuple[str, ...]:
    return tuple(sorted({row.chain[-1] for row in facts(op, body).emitted if row.chain}))
