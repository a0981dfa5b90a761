"""Rules: what a table holds for each op, and the differences between two states. Pure."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import attrs

from decomp_ledger.errors import LedgerError
from decomp_ledger.model.canonical_json import Json, digest_of
from decomp_ledger.model.display import Row, displayed, guarded
from decomp_ledger.model.events import OVERRIDE, PRESERVE, RESET, Change
from decomp_ledger.model.line_diff import unified_diff

__all__ = ["TORCH_ORIGINS", "Rule", "RuleDiff", "Decomposition", "TableState", "changes_between", "diff", "fold"]

TORCH_ORIGINS = frozenset({"cia", "registry", "py_cia"})
ORIGINS = TORCH_ORIGINS | {"import", "opaque"}


@displayed
@attrs.frozen(repr=False)
class Decomposition:
    """The function that an override gives to an op, as data. Reading it never imports or runs the function.

    Attributes:
        origin: `cia`, `registry` or `py_cia` for torch's own decomposition of the op, `import` for a function that
            can be imported by module and qualname, `opaque` for a lambda, closure or partial.
        module: module of the function, if it has one.
        qualname: its qualified name there.
        digest: digest of its source, in hex; None for torch's own decomposition of the op.
        build: for torch's own decomposition of the op, the git version of the torch build that has it.
        source: the text of the source, where it is recorded: of functions outside torch. It counts for no comparison,
            because `digest` covers what the function does, and a comment does nothing.
        helpers: digest of its source with the functions of its package that it calls; None if it calls none.
    """

    origin: str
    module: str | None = None
    qualname: str | None = None
    digest: str | None = None
    build: str | None = None
    source: str | None = attrs.field(default=None, eq=False)
    helpers: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the fields that have a value, as plain data."""
        return {key: value for key, value in attrs.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: object) -> Decomposition:
        """Check and read plain data of any origin.

        Raises:
            LedgerError: it is not a decomposition.
        """
        names = {field.name for field in attrs.fields(cls)}
        if not isinstance(value, dict) or not all(
            key in names and isinstance(text, str) for key, text in value.items()
        ):
            raise LedgerError("decomposition: a field is unknown or its value is not a string; run verify")
        if value.get("origin") not in ORIGINS:
            raise LedgerError(f"decomposition: the origin is not one of {', '.join(sorted(ORIGINS))}; run verify")
        return cls(**value)

    def identity(self) -> str:
        """Return the digest of its fields, which events store."""
        return digest_of(self.to_json())

    def label(self) -> str:
        """Return a name for people: `mypkg.lower.gelu`, or `torch's own (cia)`."""
        if self.origin in TORCH_ORIGINS:
            # Its default table may leave it out, which the rule does not tell.
            return f"torch's own ({self.origin})"
        return ".".join(part for part in (self.module, self.qualname) if part) or self.origin


@displayed
@attrs.frozen(repr=False)
class Rule:
    """What a table holds for one op.

    Attributes:
        action: `preserve` or `override`.
        decomposition: for `override`, the decomposition; else None.
    """

    action: str
    decomposition: Decomposition | None = None

    def label(self) -> str:
        """Return it for people: `preserve`, or `override: mypkg.lower.gelu`."""
        return self.action if self.decomposition is None else f"{self.action}: {self.decomposition.label()}"

    def __attrs_post_init__(self) -> None:
        if self.action not in (PRESERVE, OVERRIDE) or (self.decomposition is None) != (self.action == PRESERVE):
            raise LedgerError(
                f"rule: {self.action!r} with decomposition {self.decomposition!r} is not possible; only `override` "
                "has a decomposition, and it must have one"
            )


@displayed
@attrs.frozen(repr=False)
class TableState:
    """A table at a version.

    Attributes:
        table: its name.
        version: the version.
        base: what ops without a rule follow: `torch` (torch's default table) or `empty`.
        rules: op name -> rule, for every op that has one.
        from_dict: whether it is the content of a dict that an export was given. Then its rules are not decisions: they
            tell which entries the dict had, and which ops of the base it lacked. What its maker would put into it on
            another torch is not known.
    """

    table: str
    version: int
    base: str
    rules: Mapping[str, Rule]
    from_dict: bool = attrs.field(default=False, eq=False, kw_only=True)

    @guarded
    def __repr__(self) -> str:
        first = ", ".join(f"{op} {rule.action}" for op, rule in itertools.islice(self.rules.items(), 3))
        more = f": {first}" + (f" and {len(self.rules) - 3} more" if len(self.rules) > 3 else "") if first else ""
        return f"<TableState {self.table}@{self.version}: base {self.base}, {len(self.rules)} rules{more}>"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each rule: its op, its action, and the name of the decomposition."""
        return [_rule_row(op, rule) for op, rule in self.rules.items()]


def _rule_row(op: str, rule: Rule) -> Row:
    decomposition = None if rule.decomposition is None else rule.decomposition.label()
    return {"op": op, "action": rule.action, "decomposition": decomposition}


def fold(rules: dict[str, Rule], changes: Iterable[Change], decompositions: Mapping[str, Decomposition]) -> None:
    """Apply an event's changes to rules, in place.

    Args:
        rules: op name -> rule.
        changes: the event's changes.
        decompositions: digest -> decomposition, for every digest in the changes.
    """
    for change in changes:
        if change.action == RESET:
            rules.pop(change.op, None)
        else:
            digest = change.decomposition
            rules[change.op] = Rule(change.action, None if digest is None else decompositions[digest])


@displayed
class RuleDiff(NamedTuple):
    """One op whose rule differs between two states.

    Attributes:
        op: name of the op.
        before: its rule in the first state, or None.
        after: its rule in the second state, or None.
    """

    op: str
    before: Rule | None
    after: Rule | None

    def _row(self) -> Row:
        digests = [None if each is None else each.digest for each in self.decompositions]
        labels = [None if rule is None else rule.label() for rule in (self.before, self.after)]
        return {
            "op": self.op,
            "before": labels[0],
            "after": labels[1],
            "digest_before": digests[0],
            "digest_after": digests[1],
        }

    @property
    def decompositions(self) -> tuple[Decomposition | None, Decomposition | None]:
        """What both rules override the op with; None for a rule that does not."""
        found = [None if rule is None else rule.decomposition for rule in (self.before, self.after)]
        return found[0], found[1]

    def source_diff(self, *, whole: bool = False) -> tuple[str, ...]:
        """Return the lines of a unified diff of the two sources; none if a source is not recorded.

        Args:
            whole: where only one rule has a decomposition, give its whole source, added or removed.
        """
        one, other = (None if each is None else each.source for each in self.decompositions)
        if whole and None in self.decompositions:
            one, other = one or "", other or ""
        if one is None or other is None:
            return ()
        old, new = (textwrap.dedent(source).splitlines() for source in (one, other))
        return unified_diff(old, new)


def diff(before: TableState, after: TableState) -> list[RuleDiff]:
    """Return the ops whose rules differ between two states, by name."""
    ops = before.rules.keys() | after.rules.keys()
    pairs = ((op, before.rules.get(op), after.rules.get(op)) for op in sorted(ops))
    return [RuleDiff(op, old, new) for op, old, new in pairs if old != new]


def changes_between(now: Mapping[str, Rule], then: Mapping[str, Rule]) -> list[tuple[str, str, Decomposition | None]]:
    """Return, by op name, the (op, action, decomposition) that turn the rules `now` into the rules `then`."""
    wanted: list[tuple[str, str, Decomposition | None]] = []
    for op in sorted(now.keys() | then.keys()):
        rule = then.get(op)
        if now.get(op) != rule:
            wanted.append((op, RESET, None) if rule is None else (op, rule.action, rule.decomposition))
    return wanted
