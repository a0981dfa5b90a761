"""Upgrade: what a table is on another torch, and what the move there does to its rules and its programs. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

import attrs

from decomp_ledger.analysis.behaviour import UNKNOWN, Behaviour, TraceData
from decomp_ledger.analysis.drift import (
    ALWAYS,
    DRIFT_KINDS,
    ENTERED,
    GONE,
    HELPERS,
    LEFT,
    MOVED,
    NEVER_DECOMPOSED,
    SCHEMA,
    SOURCE,
    WRAPPERS,
    Drift,
    DriftChange,
    NamedState,
    drift,
    schema_difference,
    treatment,
)
from decomp_ledger.errors import LedgerError
from decomp_ledger.model import op_names
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.display import Row, columns_of, displayed, guarded, to_rows
from decomp_ledger.model.materialize import Snapshot, own_origin
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, Rule, TableState

__all__ = [
    "FINDINGS",
    "RULE_EFFECTS",
    "Finding",
    "RuleEffect",
    "Upgrade",
    "UpgradeCheck",
    "check_upgrade",
    "successors",
    "upgrade",
]

OP_GONE, LOST, OWN_MOVED, SCHEMA_CHANGED = "op_gone", "lost", "own_moved", "schema_changed"
NOT_KEPT, DEFAULT_NOW = "not_kept", "default_now"
EFFECTIVE_NOW, PENDING, UNCHANGED = "effective_now", "pending", "unchanged"

# What the move does to a rule, and its title; what needs a decision comes first.
RULE_EFFECTS: Mapping[str, str] = {
    OP_GONE: "the op is gone",
    LOST: "the decomposition is gone",
    OWN_MOVED: "torch's own decomposition comes from elsewhere",
    SCHEMA_CHANGED: "overrides an op whose schema changed",
    NOT_KEPT: "has no effect, because torch always decomposes the op",
    DEFAULT_NOW: "the default now does the same",
    EFFECTIVE_NOW: "takes effect now",
    PENDING: "pending",
    UNCHANGED: "unchanged",
}
NOT_COMPARED = "not_compared"
# The kinds of finding and their titles; the strongest effect on exports comes first.
FINDINGS: Mapping[str, str] = {
    LOST: RULE_EFFECTS[LOST],
    **{kind: title for kind, title in DRIFT_KINDS.items() if kind != WRAPPERS},
    NOT_COMPARED: "could not be compared",
}
_EFFECT_RANK = {effect: rank for rank, effect in enumerate(RULE_EFFECTS)}
_NO_SCHEMA = "its schema, because a catalog does not have it"
_TEXT = (MOVED, SOURCE, HELPERS)
_NO_DATA = TraceData()
_FINDING_RANK = {kind: rank for rank, kind in enumerate(FINDINGS)}


@displayed
@attrs.frozen
class RuleEffect:
    """What the move does to one rule.

    Attributes:
        op: the op of the rule.
        rule: the rule.
        effect: one of `RULE_EFFECTS`.
        detail: a few words more, or "".
        successors: for an op that is gone, the ops that may replace it, each with the reason.
    """

    op: str
    rule: Rule
    effect: str
    detail: str = ""
    successors: tuple[tuple[str, str], ...] = ()

    def _row(self) -> Row:
        return {**columns_of(self), "successors": ", ".join(op for op, _ in self.successors)}


@displayed
@attrs.frozen
class Upgrade:
    """A table state on another torch.

    Attributes:
        after: the state on the other torch's catalog.
        effects: at least one for every rule; what needs a decision comes first.
        drift: what differs from the state on its last catalog; None if the table was never materialized.
        foreign: ops without a rule that the table had and the other catalog cannot have, because it was captured
            without their library.
        namespaces: the namespaces of the other catalog and of torch itself.
        used: the ops of the programs that were exported with the table; None if no export succeeded.
    """

    after: NamedState
    effects: tuple[RuleEffect, ...]
    drift: Drift | None
    foreign: tuple[str, ...]
    namespaces: frozenset[str]
    used: frozenset[str] | None = None

    @guarded
    def __repr__(self) -> str:
        torch = self.after.catalog.build.get("torch")
        changed = sum(each.effect != UNCHANGED for each in self.effects)
        return f"<Upgrade of {self.after.name} to torch {torch}: {len(self.effects)} rules, {changed} affected>"

    @property
    def snapshot(self) -> Snapshot:
        """The rules applied to the other torch's catalog."""
        return self.after.snapshot

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each effect on a rule; what needs a decision comes first."""
        return to_rows(self.effects)

    def without_rule(self, kind: str) -> list[DriftChange]:
        """Return the changes of a kind to ops of the table that have no rule, without foreign ops."""
        if self.drift is None:
            return []
        left_out = {*self.after.state.rules, *self.foreign}
        return [change for change in self.drift.of(kind, in_table=True) if change.op not in left_out]

    def now_kept(self) -> list[DriftChange]:
        """Return the ops without a rule that the table decomposed and would keep in the graph.

        Of a dict, these are ops that torch's default table has no longer; its maker decides whether it has them.
        """
        return [change for change in self.without_rule(LEFT) if change.after in NEVER_DECOMPOSED]

    def now_decomposed(self) -> list[DriftChange]:
        """Return the ops without a rule that the table kept in the graph and would decompose; of a dict, likewise."""
        return [change for change in self.without_rule(ENTERED) if change.before in NEVER_DECOMPOSED]

    def gone(self) -> list[tuple[DriftChange, tuple[tuple[str, str], ...]]]:
        """Return the ops without a rule that the table decomposed and that are gone, with their likely successors."""
        if self.drift is None:
            return []
        old, new = self.drift.before.catalog, self.drift.after.catalog
        return [(change, successors(change.op, old, new)) for change in self.without_rule(GONE)]


def upgrade(
    after: NamedState,
    before: NamedState | None,
    torch_namespaces: Collection[str] = (),
    data: TraceData = _NO_DATA,
) -> Upgrade:
    """Apply a table's rules to another torch's catalog, and compare the result with what the table was.

    Args:
        after: the state on the other torch's catalog.
        before: the same state on its last catalog; None if the table was never materialized.
        torch_namespaces: namespaces that belong to torch itself, even if the other torch has no op in them.
        data: what the traces of all torch versions share.
    """
    effects = _Effects(after, before, torch_namespaces)
    rules = after.state.rules
    found = [effect for op, rule in rules.items() for effect in effects.of(op, rule)]
    table = () if before is None else before.snapshot.ops
    foreign = (op for op in table if op not in rules and effects.is_foreign(op))
    return Upgrade(
        after,
        tuple(sorted(found, key=lambda each: (_EFFECT_RANK[each.effect], each.op))),
        None if before is None else drift(before, after, data),
        tuple(sorted(foreign)),
        frozenset(effects.namespaces),
    )


@displayed
@attrs.frozen
class Finding:
    """One thing that the move does to an op that the exports use: a reason why they may change, or only a note.

    Attributes:
        op: the op.
        kind: one of `FINDINGS`.
        detail: a few words more; "" if `change` has them.
        change: the difference, or None if it is not a single one.
        behaviour: what the traces of the op tell; None if torch's default does not decompose it in both states.
    """

    op: str
    kind: str
    detail: str = ""
    change: DriftChange | None = None
    behaviour: Behaviour | None = None

    def _row(self) -> Row:
        return {
            **columns_of(self, without=("change", "behaviour")),
            "before": None if self.change is None else self.change.before,
            "after": None if self.change is None else self.change.after,
            "verdict": None if self.behaviour is None else self.behaviour.verdict,
        }


@displayed
@attrs.frozen
class UpgradeCheck:
    """Whether programs that were exported with a table stay the same on another torch.

    Attributes:
        used: the ops of these programs.
        drift: the part of the drift that can affect them.
        findings: the reasons why they change: an op leaves, comes or behaves differently. None if they stay the same.
        notes: what is known to matter in no sample, or cannot be known: changed text of an op that behaves the same
            or that no sample reached, a changed schema. A stricter gate can look at these.
        kernels: used ops that C++ kernels decompose and that no sample reached. A catalog has no code of a kernel, so
            they were not compared.
        foreign: used ops that a catalog may lack although its torch can have them: ops of libraries, and higher-order
            operators, which torch registers when a part of it is first imported.
    """

    used: frozenset[str]
    drift: Drift
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    kernels: tuple[str, ...]
    foreign: tuple[str, ...]

    @guarded
    def __repr__(self) -> str:
        return f"<UpgradeCheck of {len(self.used)} ops: {len(self.findings)} findings, {len(self.notes)} notes>"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each finding."""
        return to_rows(self.findings)


def check_upgrade(found: Upgrade, used: Collection[str]) -> UpgradeCheck:
    """Decide whether a move can change what some programs are exported to.

    Args:
        found: the upgrade of a table that was materialized.
        used: the ops of the programs: those before and after their exports, and those that fired in them.

    Raises:
        LedgerError: the table was never materialized.
    """
    if found.drift is None:
        raise LedgerError(
            f"{found.after.name}: the table was never materialized, so no earlier torch is known; export with it first"
        )
    old, new = found.drift.before.catalog.ops, found.drift.after.catalog.ops
    foreign = {op for op in used if "::" in op and op_names.namespace(op) not in found.namespaces}
    foreign |= {*found.drift.not_judged}.intersection(used)
    foreign |= {op for op in used if "::" not in op and (op in old) != (op in new)}
    affected = found.drift.only({*used} - foreign)
    judged = [
        Finding(each.op, each.kind, "", each, affected.behaviour(each.op))
        for each in affected.changes
        if each.kind != WRAPPERS
    ]
    judged += [Finding(each.op, LOST, each.detail) for each in found.effects if each.effect == LOST]
    named = {each.op for each in judged}
    # An op without a namespace that is in no catalog is a Python function, such as getitem.
    neither = sorted(op for op in {*used} - foreign if "::" in op and op not in old and op not in new)
    for detail, ops in (
        ("its source, because a catalog does not have it", affected.no_source),
        (_NO_SCHEMA, affected.no_schema),
        ("its source, because the closure that makes it in-place changed too", affected.unclear),
        ("neither torch has it", neither),
    ):
        judged += [Finding(op, NOT_COMPARED, detail, None, affected.behaviour(op)) for op in ops if op not in named]
    judged.sort(key=lambda each: (_FINDING_RANK[each.kind], each.op, each.detail))
    return UpgradeCheck(
        frozenset(used),
        affected,
        tuple(each for each in judged if not _is_note(each, found.after.state)),
        tuple(each for each in judged if _is_note(each, found.after.state)),
        affected.kernels,
        tuple(sorted(foreign)),
    )


def _is_note(found: Finding, state: TableState) -> bool:
    """Decide whether something is only a note. Where traces are known, they judge; else the text does."""
    if state.from_dict and found.kind in (ENTERED, LEFT):
        return True  # torch's default table changed, and the maker of the dict may have chosen otherwise
    verdict = None if found.behaviour is None else found.behaviour.verdict
    if found.kind in _TEXT:
        # The change of behaviour is a finding of its own.
        return verdict not in (None, UNKNOWN)
    if found.kind == NOT_COMPARED:
        return verdict != UNKNOWN or found.detail == _NO_SCHEMA
    return found.kind == SCHEMA


class _Effects:
    """What a move between two catalogs does to rules."""

    def __init__(self, after: NamedState, before: NamedState | None, torch_namespaces: Collection[str]) -> None:
        self.after = after
        self.before = before
        self.new = after.catalog
        self.old = None if before is None else before.catalog
        self.base = after.state.base
        self.namespaces = {*map(op_names.namespace, self.new.ops), *torch_namespaces}
        self.functions = {(entry.module, entry.qualname) for entry in self.new.ops.values() if entry.module}

    def is_foreign(self, op: str) -> bool:
        """Tell whether the other catalog lacks an op because it was captured without the op's library."""
        if op in self.new.ops:
            return False
        known = self.before is not None and self.after.cannot_know(op, self.before)
        return known or op_names.namespace(op) not in self.namespaces

    def of(self, op: str, rule: Rule) -> Iterator[RuleEffect]:
        """Yield every effect on one rule."""
        before, after = None if self.old is None else self.old.ops.get(op), self.new.ops.get(op)
        if after is None:
            yield self._of_missing_op(op, rule, before)
            return
        if rule.decomposition is None:
            found = list(self._of_preserve(before, after))
        else:
            found = list(self._of_override(rule.decomposition, before, after))
        if not found and self.old is not None and before is None:
            found = [(EFFECTIVE_NOW, "the op was not loaded before")]
        for effect, detail in found or [(UNCHANGED, "")]:
            yield RuleEffect(op, rule, effect, detail)

    def _of_missing_op(self, op: str, rule: Rule, before: Entry | None) -> RuleEffect:
        if self.is_foreign(op):
            return RuleEffect(op, rule, PENDING, f"the catalog was captured without a library {op_names.namespace(op)}")
        likely = successors(op, self.old, self.new)
        if before is not None:
            return RuleEffect(op, rule, OP_GONE, successors=likely)
        detail = "this torch does not have the op" if self.old is None else "the op was not loaded before either"
        return RuleEffect(op, rule, PENDING, detail, likely)

    def _of_preserve(self, before: Entry | None, after: Entry) -> Iterator[tuple[str, str]]:
        new = self._treatment_without_rule(after)
        old = None if before is None else self._treatment_without_rule(before)
        unchanged = self.old is not None and old == new
        if new in NEVER_DECOMPOSED and not unchanged:
            yield DEFAULT_NOW, "torch's default table leaves it out" if self.base == "torch" else "the base is empty"
        elif new == ALWAYS and not unchanged:
            yield NOT_KEPT, after.unpreservable
        elif old in NEVER_DECOMPOSED and new not in NEVER_DECOMPOSED:
            yield EFFECTIVE_NOW, "torch's default table has it now"

    def _treatment_without_rule(self, entry: Entry) -> str | None:
        return treatment(entry, in_table=self._is_default(entry))

    def _of_override(
        self, decomposition: Decomposition, before: Entry | None, after: Entry
    ) -> Iterator[tuple[str, str]]:
        if decomposition.origin in TORCH_ORIGINS:
            yield from self._of_own(decomposition, before, after)
        else:
            function = decomposition.module, decomposition.qualname
            had = self.old is not None and any(function == (e.module, e.qualname) for e in self.old.ops.values())
            if had and function not in self.functions:
                yield LOST, f"this torch decomposes nothing with {decomposition.label()}"
            elif decomposition.digest is not None and decomposition.digest == after.digest and self._is_default(after):
                yield DEFAULT_NOW, "torch's default has the same source"
        if before is not None and before.schema and after.schema and before.schema != after.schema:
            yield SCHEMA_CHANGED, schema_difference(before.schema, after.schema)

    def _of_own(self, decomposition: Decomposition, before: Entry | None, after: Entry) -> Iterator[tuple[str, str]]:
        """Yield the effects on an override with one of torch's own decompositions."""
        own = own_origin(decomposition, after, self.new.build.get("git"))
        if own is None:
            yield LOST, f"torch's own ({decomposition.origin}) was recorded, and this torch has none for the op"
        elif own != decomposition.origin:
            yield OWN_MOVED, f"torch's own ({decomposition.origin}) was recorded; in this torch it is {own}"
        elif own == after.origin and self._is_default(after) and not (before is not None and self._is_default(before)):
            yield DEFAULT_NOW, f"torch's default table has the same ({after.origin})"

    def _is_default(self, entry: Entry) -> bool:
        return entry.default and self.base == "torch"


def successors(op: str, old: Catalog | None, new: Catalog) -> tuple[tuple[str, str], ...]:
    """Return up to three ops that may replace an op that is gone, each with the reason.

    Another overload of the same name comes first, then an op whose name contains the op's name (`qr`, `linalg_qr`),
    then an op with a similar name and the same argument types that is new.
    """
    namespace, name, _ = op_names.split(op)
    gone = None if old is None else old.ops.get(op)
    signature = _signature(gone.schema) if gone is not None and gone.schema else None
    bare = name.strip("_")
    part = re.compile(rf"(^|_){re.escape(bare)}(_|$)")
    found: list[tuple[int, float, str, str]] = []
    for other, entry in new.ops.items():
        other_namespace, other_name, _ = op_names.split(other)
        if other_namespace != namespace:
            continue
        if other_name == name:
            found.append((0 if _has(entry, signature) else 1, -_likeness(op, other), other, "another overload of it"))
        elif len(bare) > 1 and bare in other_name and part.search(other_name):
            same = _has(entry, signature)
            why = "its name and the same arguments" if same else "its name"
            found.append((1 if same else 2, -_likeness(op, other), other, why))
        elif old is not None and other not in old.ops and _has(entry, signature) and _likeness(op, other) > 0.7:
            found.append((3, -_likeness(op, other), other, "new, with a similar name and the same arguments"))
    return tuple((other, why) for _, _, other, why in sorted(found)[:3])


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


_Signature: TypeAlias = "tuple[tuple[str, ...], str]"
_ALIAS = re.compile(r"\([a-z!|*> -]*\)")
_NAMED_RETURN = re.compile(r"(Tensor|int|bool|float|Scalar)(\([a-z]!?\))? \w+")


def _has(entry: Entry, signature: _Signature | None) -> bool:
    return signature is not None and bool(entry.schema) and _signature(entry.schema) == signature


def _signature(schema: str) -> _Signature:
    """Return the types of a schema's arguments, and its return types."""
    text, _, returns = schema.partition(" -> ")
    arguments = _ALIAS.sub("", text.partition("(")[2][:-1])
    types = tuple(argument.partition(" ")[0] for argument in arguments.split(", ") if argument and argument != "*")
    return types, _NAMED_RETURN.sub(r"\1", returns)
