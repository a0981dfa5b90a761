"""What a table says of each op, and how two such states differ. Pure: no file, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import attrs

from decomp_ledger.errors import LedgerError
from decomp_ledger.model.canonical_json import Json, digest_of
from decomp_ledger.model.events import OVERRIDE, PRESERVE, RESET, Change

__all__ = ["TORCH_ORIGINS", "Rule", "RuleDiff", "Decomposition", "TableState", "changes_between", "diff", "fold"]

TORCH_ORIGINS = frozenset({"cia", "registry", "py_cia"})
ORIGINS = TORCH_ORIGINS | {"import", "opaque"}


@attrs.frozen
class Decomposition:
    """What an op is replaced by, as data: never run, never imported for being read.

    Attributes:
        origin: `cia`, `registry`, `py_cia` (torch's own default for the op), `import` (found by module and
            qualname), or `opaque` (a lambda, closure or partial: its source is kept to be read).
        module: where it was defined, if anywhere.
        qualname: its name there.
        digest: digest of its source, in hex, for functions that are not torch's.
        helpers: digest of its source with that of the functions it calls, of those that call any of their package.
        build: for torch's own functions, the torch build that defines them.
        source: for `opaque` ones, the text.
    """

    origin: str
    module: str | None = None
    qualname: str | None = None
    digest: str | None = None
    build: str | None = None
    source: str | None = None
    helpers: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return its fields that have a value."""
        return {key: value for key, value in attrs.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: object) -> Decomposition:
        """Read one that may come from a file that somebody edited.

        Raises:
            LedgerError: it is none.
        """
        names = {field.name for field in attrs.fields(cls)}
        if not isinstance(value, dict) or not all(
            key in names and isinstance(text, str) for key, text in value.items()
        ):
            raise LedgerError("a stored decomposition has fields that it cannot have")
        if value.get("origin") not in ORIGINS:
            raise LedgerError("a stored decomposition has no known origin")
        return cls(**value)

    def identity(self) -> str:
        """Digest of what it is; two that are equal by it do the same."""
        return _identity(self)

    def label(self) -> str:
        """Name it for people: `mypkg.lower.gelu`, or torch's default and its origin."""
        if self.origin in TORCH_ORIGINS:
            return f"torch's default ({self.origin})"
        return ".".join(part for part in (self.module, self.qualname) if part) or self.origin


@lru_cache(maxsize=4096)
def _identity(decomposition: Decomposition) -> str:
    return digest_of(decomposition.to_json())


@attrs.frozen
class Rule:
    """The last thing said of an op.

    Attributes:
        action: `preserve` or `override`.
        decomposition: for `override`, the decomposition.
    """

    action: str
    decomposition: Decomposition | None = None


@attrs.frozen
class TableState:
    """A table at a version.

    Attributes:
        table: its name.
        version: the version.
        base: what it says of ops nobody mentioned: `torch` or `empty`.
        rules: op name -> the last thing said of it; an op nobody spoke of, or that was restored, is not in it.
    """

    table: str
    version: int
    base: str
    rules: Mapping[str, Rule]


def fold(rules: dict[str, Rule], changes: Iterable[Change], decompositions: Mapping[str, Decomposition]) -> None:
    """Apply an event's changes to what was said before, in place.

    Args:
        rules: op name -> intent.
        changes: the event's changes.
        decompositions: digest -> decomposition, for those that the changes name.
    """
    for change in changes:
        if change.action == RESET:
            rules.pop(change.op, None)
        elif change.action == OVERRIDE:
            assert change.decomposition is not None  # Change holds this
            rules[change.op] = Rule(OVERRIDE, decompositions[change.decomposition])
        else:
            rules[change.op] = Rule(PRESERVE)


class RuleDiff(NamedTuple):
    """One op of which two states say different things.

    Attributes:
        op: its name.
        before: what the first says, or None.
        after: what the second says, or None.
    """

    op: str
    before: Rule | None
    after: Rule | None


def diff(before: TableState, after: TableState) -> list[RuleDiff]:
    """Return the ops of which two states say different things, by name."""
    ops = before.rules.keys() | after.rules.keys()
    pairs = ((op, before.rules.get(op), after.rules.get(op)) for op in sorted(ops))
    return [RuleDiff(op, old, new) for op, old, new in pairs if old != new]


def changes_between(now: Mapping[str, Rule], then: Mapping[str, Rule]) -> list[tuple[str, str, Decomposition | None]]:
    """Return the (op, action, decomposition) that bring `now` to what was said `then`, by name."""
    wanted: list[tuple[str, str, Decomposition | None]] = []
    for op in sorted(now.keys() | then.keys()):
        rule = then.get(op)
        if now.get(op) != rule:
            wanted.append((op, RESET, None) if rule is None else (op, rule.action, rule.decomposition))
    return wanted
