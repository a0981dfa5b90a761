"""What a table would be on another torch, and what the move there does to it. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

import attrs

from decomp_ledger.analysis.drift import (
    ALWAYS,
    DRIFT_KINDS,
    ENTERED,
    GONE,
    LEFT,
    NEVER_DECOMPOSED,
    WRAPPERS,
    Drift,
    DriftChange,
    NamedState,
    drift,
    fate,
    schema_step,
)
from decomp_ledger.errors import LedgerError
from decomp_ledger.model import op_names
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import PRESERVE
from decomp_ledger.model.materialize import Snapshot, own_origin
from decomp_ledger.model.rules import TORCH_ORIGINS, Rule

__all__ = [
    "FINDINGS",
    "OUTCOMES",
    "Finding",
    "UpgradeCheck",
    "RuleOutcome",
    "Upgrade",
    "check_upgrade",
    "upgrade",
    "successors",
]

OP_GONE, LOST, ELSEWHERE, SCHEMA_CHANGED = "op_gone", "lost", "elsewhere", "schema_changed"
IN_VAIN, DEFAULT_NOW = "in_vain", "default_now"
EFFECTIVE, PENDING, HOLDS = "effective", "pending", "holds"

# What the move does to an intent: what needs a decision first.
OUTCOMES: Mapping[str, str] = {
    OP_GONE: "the op is gone",
    LOST: "the decomposition is gone",
    ELSEWHERE: "gets another of torch's own decompositions",
    SCHEMA_CHANGED: "overrides an op whose schema changed",
    IN_VAIN: "cannot be kept: torch decomposes it always",
    DEFAULT_NOW: "is torch's default now",
    EFFECTIVE: "takes effect, and did not before",
    PENDING: "pending",
    HOLDS: "holds as before",
}
NOT_COMPARED = "not_compared"
# What stops a move: what weighs most first.
FINDINGS: Mapping[str, str] = {
    LOST: OUTCOMES[LOST],
    **{kind: title for kind, title in DRIFT_KINDS.items() if kind != WRAPPERS},
    NOT_COMPARED: "cannot be compared",
}
_RANK = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}


@attrs.frozen
class RuleOutcome:
    """What the move does to one intent.

    Attributes:
        op: its op.
        rule: what the table says of it.
        outcome: one of `OUTCOMES`.
        detail: more of it, in a few words.
        successors: for an op that is gone, the ops that may have taken its place, each with what tells.
    """

    op: str
    rule: Rule
    outcome: str
    detail: str = ""
    successors: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class Upgrade:
    """A table's state on another torch.

    Attributes:
        side: the state with the other torch's catalog.
        outcomes: for every intent, at least one; what needs a decision first.
        drift: how the table differs from the one it was; None if it has met no torch.
        foreign: ops of the old table that it says nothing of and the other catalog cannot have, as it knows no
            library of theirs.
        spaces: the namespaces that the other catalog, or torch itself, has.
    """

    side: NamedState
    outcomes: tuple[RuleOutcome, ...]
    drift: Drift | None
    foreign: tuple[str, ...]
    spaces: frozenset[str]

    @property
    def snapshot(self) -> Snapshot:
        """The table as it would be."""
        return self.side.snapshot

    def without_rule(self, kind: str) -> list[DriftChange]:
        """Return the changes of a kind to ops of the table that it says nothing of, foreign ones left out."""
        if self.drift is None:
            return []
        left_out = {*self.side.state.rules, *self.foreign}
        return [change for change in self.drift.of(kind, in_table=True) if change.op not in left_out]

    def now_kept(self) -> list[DriftChange]:
        """Return the ops that the table decomposed and would keep in the graph, without having said so."""
        return [change for change in self.without_rule(LEFT) if change.after in NEVER_DECOMPOSED]

    def now_decomposed(self) -> list[DriftChange]:
        """Return the ops that the table kept in the graph and would decompose, without having said so."""
        return [change for change in self.without_rule(ENTERED) if change.before in NEVER_DECOMPOSED]

    def gone(self) -> list[tuple[DriftChange, tuple[tuple[str, str], ...]]]:
        """Return the ops that the table decomposed and that are gone, each with its likely successors."""
        if self.drift is None:
            return []
        old, new = self.drift.before.catalog, self.drift.after.catalog
        return [(change, successors(change.op, old, new)) for change in self.without_rule(GONE)]


def upgrade(side: NamedState, met: NamedState | None, own: Collection[str] = ()) -> Upgrade:
    """Replay a table's state against another torch.

    Args:
        side: the state with the other torch's catalog.
        met: the same state with the catalog that it met last, or None if it has met none.
        own: namespaces that are torch's own, whether or not the other torch still has them.
    """
    judge = _Judge(side.catalog, None if met is None else met.catalog, side.state.base, own)
    said = side.state.rules
    outcomes = [found for op, rule in said.items() for found in judge.outcomes(op, rule)]
    table = () if met is None else met.snapshot.ops
    return Upgrade(
        side,
        tuple(sorted(outcomes, key=lambda found: (_RANK[found.outcome], found.op))),
        None if met is None else drift(met, side),
        tuple(sorted(op for op in table if op not in said and op_names.namespace(op) not in judge.spaces)),
        frozenset(judge.spaces),
    )


@attrs.frozen
class Finding:
    """One reason why a program may not be what it was, after the move.

    Attributes:
        op: the op.
        kind: one of `FINDINGS`.
        detail: more of it, in a few words; "" if the change tells it.
        change: what differs, if that is known.
    """

    op: str
    kind: str
    detail: str = ""
    change: DriftChange | None = None


@attrs.frozen
class UpgradeCheck:
    """Whether the programs that were exported with a table stay what they are on another torch.

    Attributes:
        used: the ops of these programs.
        findings: what speaks against it; nothing does, if there is none.
        kernels: used ops that C++ kernels decompose, of which is known only that they do.
        foreign: used ops that a catalog may lack though its torch has them: of libraries, and higher-order operators,
            which torch registers when a part of it is first imported.
    """

    used: frozenset[str]
    findings: tuple[Finding, ...]
    kernels: tuple[str, ...]
    foreign: tuple[str, ...]


def check_upgrade(found: Upgrade, used: Collection[str]) -> UpgradeCheck:
    """Judge whether a move changes what some programs are lowered to.

    Args:
        found: the move, of a table that has met a torch.
        used: the ops of the programs: before and after their exports, and those that fired in them.

    Raises:
        LedgerError: the table has met no torch.
    """
    if found.drift is None:
        name = found.side.name
        raise LedgerError(f"{name} has met no torch yet, so what the move changes is not known; export with it first")
    catalogs = found.drift.before.catalog.ops, found.drift.after.catalog.ops
    foreign = {op for op in used if "::" in op and op_names.namespace(op) not in found.spaces}
    foreign |= {op for op in used if "::" not in op and (op in catalogs[0]) != (op in catalogs[1])}
    touched = found.drift.only({*used} - foreign)
    findings = [Finding(each.op, each.kind, "", each) for each in touched.changes if each.kind != WRAPPERS]
    findings += [Finding(each.op, LOST, each.detail) for each in found.outcomes if each.outcome == LOST]
    told = {finding.op for finding in findings}
    # What has no namespace and is in no catalog is a plain Python function, such as getitem.
    neither = sorted(op for op in {*used} - foreign if "::" in op and all(op not in ops for ops in catalogs))
    for what, ops in (
        ("its source: a side does not have it", touched.no_source),
        ("its schema: a side does not have it", touched.no_schema),
        ("its source: it cannot be told from that of what makes it in-place, which changed", touched.unclear),
        ("neither torch has it", neither),
    ):
        findings += [Finding(op, NOT_COMPARED, what) for op in ops if op not in told]
    rank = {kind: number for number, kind in enumerate(FINDINGS)}
    return UpgradeCheck(
        frozenset(used),
        tuple(sorted(findings, key=lambda each: (rank[each.kind], each.op, each.detail))),
        touched.kernels,
        tuple(sorted(foreign)),
    )


class _Judge:
    """Tell what becomes of intents on another torch."""

    def __init__(self, now: Catalog, then: Catalog | None, base: str, own: Collection[str]) -> None:
        self.now = now
        self.then = then
        self.base = base
        self.spaces = {*map(op_names.namespace, now.ops), *own}
        self.functions = {(entry.module, entry.qualname) for entry in now.ops.values() if entry.module}

    def outcomes(self, op: str, rule: Rule) -> Iterator[RuleOutcome]:
        """Give all that becomes of one intent."""
        then, now = None if self.then is None else self.then.ops.get(op), self.now.ops.get(op)
        if now is None:
            yield self._without_op(op, rule, then)
            return
        found = False
        judged = self._preserve(op, then, now) if rule.action == PRESERVE else self._override(op, rule, then, now)
        for outcome, detail in judged:
            found = True
            yield RuleOutcome(op, rule, outcome, detail)
        if not found and self.then is not None and then is None:
            yield RuleOutcome(op, rule, EFFECTIVE, "the op was not loaded before")
        elif not found:
            yield RuleOutcome(op, rule, HOLDS)

    def _without_op(self, op: str, rule: Rule, then: Entry | None) -> RuleOutcome:
        if op_names.namespace(op) not in self.spaces:
            space = op_names.namespace(op)
            return RuleOutcome(
                op, rule, PENDING, f"until a library {space} is loaded, of which this catalog knows nothing"
            )
        if then is not None:
            assert self.then is not None  # it has the op
            return RuleOutcome(op, rule, OP_GONE, successors=successors(op, self.then, self.now))
        near = successors(op, self.then, self.now)
        if self.then is None:
            return RuleOutcome(op, rule, PENDING, "this torch has no such op", near)
        return RuleOutcome(op, rule, PENDING, "the op was not loaded before either", near)

    def _preserve(self, op: str, then: Entry | None, now: Entry) -> Iterator[tuple[str, str]]:
        after = self._fate(now)
        before = None if then is None else self._fate(then)
        same_before = self.then is not None and before == after
        if after in NEVER_DECOMPOSED and not same_before:
            yield DEFAULT_NOW, "torch's default table leaves it out" if self.base == "torch" else "the base is empty"
        elif after == ALWAYS and not same_before:
            yield IN_VAIN, now.unpreservable
        elif before in NEVER_DECOMPOSED and after not in NEVER_DECOMPOSED:
            yield EFFECTIVE, "torch's default table has it now"

    def _fate(self, entry: Entry) -> str | None:
        """Tell what becomes of an op of which nothing is said."""
        return fate(entry, in_table=entry.default and self.base == "torch")

    def _override(self, op: str, rule: Rule, then: Entry | None, now: Entry) -> Iterator[tuple[str, str]]:
        decomposition = rule.decomposition
        assert decomposition is not None  # an override has one
        if decomposition.origin in TORCH_ORIGINS:
            own = own_origin(decomposition, now, self.now.build.get("git"))
            if own is None:
                yield LOST, f"it was given torch's own ({decomposition.origin}), and this torch has none for it"
            elif own != decomposition.origin:
                yield ELSEWHERE, f"it was given torch's own ({decomposition.origin}), which is {own} in this torch"
            elif own == now.origin and self._is_default(now) and not (then is not None and self._is_default(then)):
                yield DEFAULT_NOW, f"torch's default table has the same ({now.origin})"
        else:
            place = decomposition.module, decomposition.qualname
            had = self.then is not None and any(place == (e.module, e.qualname) for e in self.then.ops.values())
            if had and place not in self.functions:
                yield LOST, f"this torch decomposes nothing with {decomposition.label()} any more"
            elif decomposition.digest is not None and decomposition.digest == now.digest and self._is_default(now):
                yield DEFAULT_NOW, "torch's default has the same source"
        if then is not None and then.schema and now.schema and then.schema != now.schema:
            yield SCHEMA_CHANGED, schema_step(then.schema, now.schema)

    def _is_default(self, entry: Entry) -> bool:
        return entry.default and self.base == "torch"


def successors(op: str, old: Catalog | None, new: Catalog) -> tuple[tuple[str, str], ...]:
    """Return up to three ops that may have taken the place of one that is gone, each with what tells.

    An overload of the same name comes first, then an op whose name has its own as a part (`qr`, `linalg_qr`), then
    one with a like name that came as this one went and takes the same arguments.
    """
    space, name, _ = op_names.split(op)
    gone = None if old is None else old.ops.get(op)
    shape = _shape(gone.schema) if gone is not None and gone.schema else None
    bare = name.strip("_")
    part = re.compile(rf"(^|_){re.escape(bare)}(_|$)")
    found: list[tuple[int, float, str, str]] = []
    for other, entry in new.ops.items():
        if op_names.namespace(other) != space:
            continue
        other_name = op_names.split(other)[1]
        same_shape = shape is not None and bool(entry.schema) and _shape(entry.schema) == shape
        if other_name == name:
            found.append((0 if same_shape else 1, -_likeness(op, other), other, "another overload of it"))
        elif len(bare) > 1 and bare in other_name and part.search(other_name):
            why = "its name, and the same arguments" if same_shape else "its name"
            found.append((1 if same_shape else 2, -_likeness(op, other), other, why))
        elif same_shape and old is not None and other not in old.ops and _likeness(op, other) > 0.7:
            found.append((3, -_likeness(op, other), other, "a like name, the same arguments, and new"))
    return tuple((other, why) for _, _, other, why in sorted(found)[:3])


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


@lru_cache(maxsize=8192)
def _shape(schema: str) -> tuple[tuple[str, ...], str]:
    """Return the types of a schema's arguments, and what it returns."""
    text, _, returns = schema.partition(" -> ")
    arguments = re.sub(r"\([a-z!|*> -]*\)", "", text.partition("(")[2][:-1])
    types = tuple(argument.partition(" ")[0] for argument in arguments.split(", ") if argument and argument != "*")
    return types, re.sub(r"(Tensor|int|bool|float|Scalar)(\([a-z]!?\))? \w+", r"\1", returns)
