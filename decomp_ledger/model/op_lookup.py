"""Which ops a text means among the known ones, and which names are close to one that is not known. Pure.

Every text that a user gives for an op comes here: keys of tables, arguments of queries, options of commands.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator

from decomp_ledger.errors import InvalidName, UnknownOp
from decomp_ledger.model import op_names

__all__ = ["Lists", "did_you_mean", "ops_named", "suggestions"]

_MAX_SUGGESTIONS = 3
_CUTOFF = 0.8


class Lists(Collection[str]):
    """The names of several lists as one. A list is read only when a name is not in those before it."""

    def __init__(self, *lists: Collection[str]) -> None:
        self._lists = lists

    def __contains__(self, name: object) -> bool:
        return any(name in each for each in self._lists)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for each in self._lists for name in each))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def ops_named(text: str, known: Collection[str], loaded: Collection[str] | None = None) -> list[str]:
    """Return the stored names of the ops that a text means.

    A name means the op that has it. If no known op has it, it is the name of a family and means all its overloads:
    `aten.linear` and `aten::softmax`, which has no default overload. A name without a namespace is a higher-order
    operator, else a family of aten, else the only family of that name.

    Args:
        text: `aten::linear`, `aten.add.Tensor`, `torch.ops.aten.add`, `add.Tensor`, `linear`, `cond`.
        known: the names of the known ops.
        loaded: those of them whose libraries are loaded; all, if None. `mylib::f` is an op that may come with its
            library, and no family, if only a rule for `mylib::f.out` is known.

    Returns:
        At least one name. A name with a namespace may be that of an op that is not known.

    Raises:
        UnknownOp: the text has no namespace, or names a family, and no known op has that name.
        InvalidName: the text cannot name an op, or ops of several libraries have the name.
    """
    family = op_names.family(text)
    if family is None:
        return [op_names.normalize(text)]
    space, name, is_op = family
    if is_op and (op := op_names.normalize(text)) in known:
        return [op]
    if space:
        found = _overloads(space, name, loaded if is_op and loaded is not None else known)
        if found or is_op:
            return found or [op_names.normalize(text)]
        if (op := op_names.normalize(f"aten::{space}.{name}")) in known:  # `add.Tensor`
            return [op]
        raise UnknownOp(
            f"{text!r:.80}: no known op is of this family{did_you_mean(f'{space}::{name}', known)}; to name an op that "
            f"is loaded later, write '{space}::{name}' or '{space}::{name}.OVERLOAD'"
        )
    return _without_namespace(name, known)


def _without_namespace(name: str, known: Collection[str]) -> list[str]:
    if found := _overloads("aten", name, known):
        return found
    spaces = sorted({op_names.namespace(op) for op in known if op_names.split(op)[1] == name} - {""})
    if len(spaces) == 1:
        return _overloads(spaces[0], name, known)
    if spaces:
        each = ", ".join(f"{space}::{name}" for space in spaces[:5])
        raise InvalidName(f"{name!r:.80}: ops of several libraries have this name; give one of {each}")
    raise UnknownOp(
        f"{name!r:.80}: no known op has this name{did_you_mean(name, known)}; to name an op that is loaded later, "
        f"write 'NAMESPACE::{name:.80}', or 'higher_order.{name:.80}'"
    )


def _overloads(space: str, name: str, known: Iterable[str]) -> list[str]:
    whole, start = f"{space}::{name}", f"{space}::{name}."
    return sorted(op for op in known if op == whole or op.startswith(start))


def did_you_mean(op: str, known: Collection[str]) -> str:
    """Return the suggestions as the end of a sentence; "" if there are none."""
    near = suggestions(op, known)
    return f"; did you mean {', '.join(near)}?" if near else ""


def suggestions(op: str, known: Collection[str]) -> list[str]:
    """Return up to three known names that a name may be meant for.

    The overloads of its family come first, then ops of that name in other namespaces, then names that are spelled
    alike, those of its namespace first.

    Args:
        op: a stored name, or one without a namespace.
        known: the names of the known ops.
    """
    space, name, overload = op_names.split(op)
    family = [each for each in _overloads(space, name, known) if each != op] if space else []
    found = sorted(family, key=lambda each: (_distance(overload, op_names.split(each)[2]), each))
    if len(found) < _MAX_SUGGESTIONS:
        others = (each for each in known if op_names.split(each)[1] == name and each not in family and each != op)
        found += sorted(others, key=lambda each: (not op_names.is_aten(each), _is_variant(each), each))
    if not found:
        found = _spelled_alike(space, name, overload, known)
    return found[:_MAX_SUGGESTIONS]


def _spelled_alike(space: str, name: str, overload: str, known: Collection[str]) -> list[str]:
    rest = f"{name}.{overload}" if overload else name
    here = {op.rpartition("::")[2]: op for op in known if op_names.namespace(op) == space} if space else {}
    found = [here[each] for each in difflib.get_close_matches(rest, here, _MAX_SUGGESTIONS, _CUTOFF)]
    if not found:
        every: dict[str, str] = {}
        for op in known:
            if space and op_names.namespace(op) == space:
                continue  # a long namespace makes all its names look alike
            short = op if space else op.rpartition("::")[2]
            if short not in every or op_names.is_aten(op):
                every[short] = op
        wanted = f"{space}::{rest}" if space else rest
        found = [every[each] for each in difflib.get_close_matches(wanted, every, _MAX_SUGGESTIONS, _CUTOFF)]
    return found


def _distance(overload: str, other: str) -> tuple[float, bool]:
    """Return how far an overload is from another one; those that write into an argument are rarely meant."""
    return -difflib.SequenceMatcher(None, overload.lower(), other.lower()).ratio(), _is_variant(f"::.{other}")


def _is_variant(op: str) -> bool:
    """Tell whether an op is an overload that writes its result into an argument."""
    return "out" in op_names.split(op)[2].lower().split("_")
