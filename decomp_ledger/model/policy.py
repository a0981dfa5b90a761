"""Policies: what every table and every export of a project must hold to, as values. Pure.

`analysis/gate.py` judges tables and exports by them; `log/table_log.py` refuses changes by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import attrs

from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import one_or_more, shown
from decomp_ledger.model.canonical_json import Json, check_text
from decomp_ledger.model.display import displayed

__all__ = ["Policy", "matching", "policy_from_settings", "single_op"]


def _texts(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Mapping) else one_or_more(value)


@displayed
@attrs.frozen(kw_only=True, repr=False)
class Policy:
    """What the tables and the exports of a project must hold to; what is not given is not judged.

    An op is given by its name in any form. A name without an overload means all overloads of it, `aten::linear.default`
    the default one alone, and a name without a namespace an op of aten or a higher-order operator. In a pattern, `*`
    stands for any characters: `quantized::*`.

    Attributes:
        keep: ops that stay in the graph: no table overrides them, no export decomposed them.
        no_override: ops that no table overrides.
        require_reason: whether each rule has a reason.
        actors: who may change tables: names with `*`, such as `*@example.org>`.
        clean_tags: whether a table is tagged only in a git tree without changes that are not committed.
        no_failed_exports: whether the newest export of each program succeeded.
        no_stale_exports: whether the newest export of each program had no stale table, which lacks ops because it was
            made or read before they were loaded.
        no_outdated_exports: whether each program was exported again after the last change to its table.
        opset: the opset that has each op of each result: the name of a shipped one, or a file.
        enforce: whether a change that breaks a policy raises `PolicyError`, and is not made. In a recording it only
            warns, because a recording changes nothing that a program does.
    """

    keep: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    no_override: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    require_reason: bool = False
    actors: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    clean_tags: bool = False
    no_failed_exports: bool = False
    no_stale_exports: bool = False
    no_outdated_exports: bool = False
    opset: str | None = None
    enforce: bool = False

    def __attrs_post_init__(self) -> None:
        for name, check in _CHECKS.items():
            check(name, getattr(self, name))

    def __bool__(self) -> bool:
        """Whether there is anything to judge."""
        return attrs.evolve(self, enforce=False) != Policy()

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data: what is given, by name."""
        given = {field.name: getattr(self, field.name) for field in attrs.fields(Policy)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}


def policy_from_settings(values: object) -> Policy:
    """Return the policy that a project's settings hold.

    Args:
        values: the table of the settings: name -> value.

    Raises:
        UnusableValue: a name is unknown, or a value is not one that it can have. The message names it.
    """
    if not isinstance(values, Mapping):
        raise UnusableValue(f"policy is {shown(values)}; write it as [tool.decomp-ledger.policy]")
    unknown = [name for name in values if name not in _CHECKS]
    if unknown:
        *names, last = _CHECKS
        raise UnusableValue(f"{shown(unknown[0])} is unknown; the keys are {', '.join(names)} and {last}")
    for name, value in values.items():
        if name in ("keep", "no_override", "actors") and not isinstance(value, list):
            raise _wrong(name, value, "a list of texts")
    return Policy(**values)


def matching(patterns: Iterable[str], name: str, *, ops: bool = True) -> str | None:
    """Return the first pattern that matches a name; None if none does.

    Args:
        patterns: of a policy.
        name: the name of an op, or of an actor.
        ops: whether the patterns are of ops.
    """
    read = _op_pattern if ops else _glob
    return next((each for each in patterns if read(each)(name)), None)


def single_op(pattern: str) -> bool:
    """Tell whether a pattern names one op or one family."""
    return "*" not in pattern


# Reading patterns costs 10 us each, and a policy is asked for every change.
@lru_cache(maxsize=1024)
def _op_pattern(text: str) -> Callable[[str], object]:
    if "*" in text:
        if "::" not in text and text != "*":
            raise UnusableValue(f"{shown(text)}: it matches no op; write the namespace with ::, such as 'quantized::*'")
        return _glob(text)
    family = op_names.family(text)
    if family is None or text.endswith(".default"):
        return op_names.normalize(text).__eq__
    space, name, _ = family
    every = rf"{re.escape(space)}::{re.escape(name)}" if space else rf"(aten::)?{re.escape(name)}"
    return re.compile(rf"{every}(\.\w+)?", re.ASCII).fullmatch


def _glob(text: str) -> Callable[[str], object]:
    return partial(_is_like, text.split("*"))


def _is_like(parts: Sequence[str], name: str) -> bool:
    """Tell whether a name is these parts with any characters between them.

    Not fnmatch, in which the brackets of `dependabot[bot]` mean something; nor a regular expression, which took 11 s
    for a name of 10 KB and three stars, and a name may be a stranger's.
    """
    first, *others = parts
    if not others:
        return name == first
    *middle, last = others
    at, end = len(first), len(name) - len(last)
    for part in middle:  # the first place of each is as good as any later one
        at = name.find(part, at, end) + len(part) if at <= end else -1
        if at < len(part):
            return False
    return at <= end and name.startswith(first) and name.endswith(last)


def _check_ops(name: str, value: tuple[Any, ...]) -> None:
    _check_texts(name, value)
    for text in value:
        try:
            _op_pattern(text)
        except LedgerError as error:
            raise UnusableValue(f"{name}: {error}") from None


def _check_texts(name: str, value: tuple[Any, ...]) -> None:
    for text in value:
        if not isinstance(text, str) or not text:
            raise _wrong(name, text, "texts")
        check_text(text, name)


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")


def _check_opset(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise _wrong(name, value, "the name of an opset, such as 'core-aten', or a file")


def _wrong(name: str, value: object, instead: str) -> UnusableValue:
    return UnusableValue(f"{name} is {shown(value)}; give {instead}")


# Each key of a policy, and what its value can be.
_CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "keep": _check_ops,
    "no_override": _check_ops,
    "require_reason": _check_flag,
    "actors": _check_texts,
    "clean_tags": _check_flag,
    "no_failed_exports": _check_flag,
    "no_stale_exports": _check_flag,
    "no_outdated_exports": _check_flag,
    "opset": _check_opset,
    "enforce": _check_flag,
}
