"""Behaviour: whether a decomposition does the same in two torch versions, by the traces of its samples. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import attrs

from decomp_ledger.model import op_names
from decomp_ledger.model.behaviour import Trace, is_dynamic
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed, guarded
from decomp_ledger.model.line_diff import line_opcodes
from decomp_ledger.model.schemas import schema_arguments

__all__ = [
    "DIFFERS",
    "DIFFERS_DYNAMIC",
    "NOT_SAMPLED",
    "SAME",
    "UNKNOWN",
    "VERDICTS",
    "Behaviour",
    "DiffRow",
    "GraphOf",
    "SampleDifference",
    "TraceData",
    "change_text",
    "compare",
    "family",
    "fits",
    "graph_diff",
    "groups",
    "trace_text",
]

DIFFERS, DIFFERS_DYNAMIC, SAME, NOT_SAMPLED, UNKNOWN = "differs", "differs_dynamic", "same", "not_sampled", "unknown"
# What the traces tell of an op that torch's default decomposes in both states.
VERDICTS: Mapping[str, str] = {
    DIFFERS: "behaves differently",
    DIFFERS_DYNAMIC: "behaves the same with static shapes, differently with dynamic ones",
    SAME: "behaves the same on all samples",
    NOT_SAMPLED: "not sampled",
    UNKNOWN: "unknown, because a torch has no traces",
}

GraphOf: TypeAlias = Callable[[str], "tuple[str, ...] | None"]


def no_graph(digest: str) -> None:
    """Know no graph: the graphs of differences stay empty."""


@attrs.frozen
class TraceData:
    """What the traces of all torch versions share.

    Attributes:
        graph: returns the canonical lines of a trace's digest; None if they are not stored.
        without_samples: why an op has no samples, by op.
    """

    graph: GraphOf = no_graph
    without_samples: Mapping[str, str] = attrs.field(factory=dict)


@displayed
@attrs.define(frozen=True, slots=False)
class SampleDifference:
    """One sample on which an op behaves differently.

    Attributes:
        call: the text of the call.
        before: its trace in the first torch.
        after: its trace in the second torch.
        before_graph: the canonical lines of the first graph; empty after an error, or if they are not stored.
        after_graph: the same of the second graph.
    """

    call: str
    before: Trace
    after: Trace
    before_graph: tuple[str, ...] = attrs.field(default=(), repr=False)
    after_graph: tuple[str, ...] = attrs.field(default=(), repr=False)

    @cached_property
    def rows(self) -> tuple[DiffRow, ...]:
        """The two graphs side by side; nothing if one of them is not known."""
        return graph_diff(self.before_graph, self.after_graph) if self.before_graph and self.after_graph else ()

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "call": self.call,
            "before": _trace_json(self.before, self.before_graph),
            "after": _trace_json(self.after, self.after_graph),
        }


@displayed
@attrs.frozen
class Behaviour:
    """Whether one op behaves the same in two torch versions.

    Attributes:
        op: name of the op.
        verdict: one of `VERDICTS`.
        samples: the number of samples that both torch versions traced, or only one of them.
        differences: the samples on which it behaves differently, those with static shapes first, and of these the
            samples that have a graph in both.
        reason: why it is not sampled; else "".
    """

    op: str
    verdict: str
    samples: int = 0
    differences: tuple[SampleDifference, ...] = ()
    reason: str = ""

    @guarded
    def __repr__(self) -> str:
        of = f" on {len(self.differences)} of {self.samples} samples" if self.differences else ""
        return f"<Behaviour {self.op}: {VERDICTS[self.verdict]}{of}>"

    @property
    def differs(self) -> bool:
        """Whether the op behaves differently on any sample."""
        return bool(self.differences)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "op": self.op,
            "verdict": self.verdict,
            "samples": self.samples,
            "differences": [each.to_json() for each in self.differences],
            "reason": self.reason,
        }


def _trace_json(trace: Trace, graph: Sequence[str]) -> dict[str, Json]:
    return {"digest": trace.digest, "error": trace.error, "graph": list(graph)}


def trace_text(trace: Trace) -> str:
    """Return a trace in a few words: its digest, or `raises` and its error."""
    return f"raises {trace.error}" if trace.digest is None else trace.digest


def compare(
    op: str,
    before: Mapping[str, Trace],
    after: Mapping[str, Trace],
    data: TraceData,
    left_out: Collection[str] = (),
) -> Behaviour:
    """Compare the traces of one op's default decompositions, sample by sample.

    An error on both sides tells nothing, whatever its text is. An error on one side is a difference.

    Args:
        op: name of the op.
        before: call -> trace in the first torch.
        after: the same in the second torch.
        data: graphs, and the reasons why ops have no samples.
        left_out: calls that do not count, such as those with an argument that one torch does not have.
    """
    both = [(call, before[call], after[call]) for call in before if call in after and call not in left_out]
    decisive = [(call, old, new) for call, old, new in both if old.error is None or new.error is None]
    if not decisive:
        return Behaviour(op, NOT_SAMPLED, reason=_reason(before, after, both, data.without_samples.get(op, "")))
    found = [_difference(*each, data.graph) for each in decisive if each[1] != each[2]]
    found = [each for each in found if not _same_but_for_constants(each.before_graph, each.after_graph)]
    found.sort(key=_rank)
    verdict = SAME if not found else DIFFERS_DYNAMIC if is_dynamic(found[0].call) else DIFFERS
    return Behaviour(op, verdict, len(decisive), tuple(found))


def _rank(found: SampleDifference) -> tuple[bool, bool]:
    """Return a key that puts static shapes first, and two graphs before an error."""
    return is_dynamic(found.call), found.before.error is not None or found.after.error is not None


def _difference(call: str, old: Trace, new: Trace, graph: GraphOf) -> SampleDifference:
    before, after = (() if each.digest is None else graph(each.digest) or () for each in (old, new))
    return SampleDifference(call, old, new, before, after)


_CONSTANT = re.compile(r"(%\d+ = constant .*?)(: \w+\[[\d, ]*\])?$")


def _same_but_for_constants(before: Sequence[str], after: Sequence[str]) -> bool:
    """Tell whether two graphs differ only in that one has no dtypes of constants, as in torch 2.6 and older."""
    pairs = [(one, other) for one, other in zip(before, after, strict=False) if one != other]
    matches = [(_CONSTANT.match(one), _CONSTANT.match(other)) for one, other in pairs]
    return (
        bool(pairs)
        and len(before) == len(after)
        and all(
            one is not None and other is not None and one[1] == other[1] and None in (one[2], other[2])
            for one, other in matches
        )
    )


def _reason(
    before: Mapping[str, Trace],
    after: Mapping[str, Trace],
    both: Sequence[tuple[str, Trace, Trace]],
    reason: str,
) -> str:
    if both:
        return f"no sample can be traced: {both[0][2].error}"
    if before and after:
        return "the two torch versions have no sample in common"
    if before or after:
        return "only one of the two was traced on samples of it"
    return reason or "it has no sample"


def fits(call: str, schema: str) -> bool:
    """Tell whether an op of that schema can take the arguments of a call, by their number and their names."""
    names = [text.partition("=")[0].rpartition(" ")[2] for text in schema_arguments(schema)]
    positional = names[: names.index("*")] if "*" in names else names
    given = [_NAMED.match(text) for text in _arguments(call)]
    return given.count(None) <= len(positional) and {match[1] for match in given if match} <= set(names)


_NAMED = re.compile(r"(\w+)=")


def _arguments(call: str) -> list[str]:
    """Return the texts of a call's arguments, without a parser: its import would slow down every command."""
    parts, depth, quoted = [""], 0, False
    for character in call.partition("(")[2].rpartition(")")[0]:
        quoted ^= character in "'\""
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


# Two graphs side by side


@displayed
@attrs.frozen
class DiffRow:
    """One row of two graphs side by side.

    Attributes:
        before: a line of the first graph; "" if the second graph has a line that the first does not have.
        after: a line of the second graph, or "".
        same: whether the two lines do the same. The numbers of their nodes may differ.
    """

    before: str
    after: str
    same: bool


_NODE = re.compile(r"%\d+")


def graph_diff(before: Sequence[str], after: Sequence[str]) -> tuple[DiffRow, ...]:
    """Return two graphs side by side, in the order of their lines.

    Two lines do the same if they differ only in the numbers of nodes, and these numbers name nodes that do the same.
    """
    bare = [[_NODE.sub("%", line) for line in lines] for lines in (before, after)]
    pairs = _aligned(before, after, line_opcodes(*bare))
    numbers = {_defines(old): _defines(new) for old, new, equal in pairs if equal}
    known = set(numbers.values())
    rows = tuple(DiffRow(old, new, equal and _same_arguments(old, new, numbers, known)) for old, new, equal in pairs)
    if any(not row.same for row in rows):
        return rows
    return tuple(DiffRow(row.before, row.after, row.before == row.after) for row in rows)


def _aligned(
    before: Sequence[str], after: Sequence[str], opcodes: Sequence[tuple[str, int, int, int, int]]
) -> list[tuple[str, str, bool]]:
    """Return pairs of lines, each with whether the lines are equal but for numbers."""
    pairs: list[tuple[str, str, bool]] = []
    for tag, start, end, other_start, other_end in opcodes:
        height = max(end - start, other_end - other_start)
        old = [*before[start:end], *[""] * (height - (end - start))]
        new = [*after[other_start:other_end], *[""] * (height - (other_end - other_start))]
        pairs += zip(old, new, [tag == "equal"] * height, strict=True)
    return pairs


def _defines(line: str) -> str:
    return line.partition(" = ")[0]


def _same_arguments(old: str, new: str, numbers: Mapping[str, str], known: Collection[str]) -> bool:
    """Tell whether two lines read nodes that do the same; nodes without a counterpart may take each other's place."""
    arguments = (_NODE.findall(line.partition(" = ")[2] or line) for line in (old, new))
    return all(
        numbers[one] == other if one in numbers else other not in known for one, other in zip(*arguments, strict=True)
    )


_TARGET = re.compile(r"^(?:%\d+ = )?(.*?)\(")
_LONGEST = 5


def change_text(found: SampleDifference) -> str:
    """Return what a difference changed, in one line: `view -> _unsafe_view`, or the error on one side."""
    if found.after.error is not None:
        return f"traced -> raises {found.after.error}"
    if found.before.error is not None:
        return f"raises {found.before.error} -> traced"
    changed = [row for row in found.rows if not row.same]
    changed = [row for row in changed if not _names_results(row)] or changed
    if not changed:
        return "another graph"
    old, new = (
        Counter(_target(line) for row in changed if (line := getattr(row, side))) for side in ("before", "after")
    )
    if old != new:
        return f"{_listed(old - new)} -> {_listed(new - old)}"
    first = next((row for row in changed if row.before and row.after), changed[0])
    return " -> ".join(_short(line.partition(" = ")[2] or line or "nothing") for line in (first.before, first.after))


def _names_results(row: DiffRow) -> bool:
    return (row.before or row.after).startswith("return ")


def _target(line: str) -> str:
    match = _TARGET.match(line)
    return _short(match[1]) if match else _short(_NODE.sub("%", line.partition(" = ")[2] or line))


def _short(text: str) -> str:
    return text.replace("aten::", "")


def _listed(targets: Mapping[str, int]) -> str:
    texts = [name if count == 1 else f"{count} {name}" for name, count in targets.items()]
    more = f" and {len(texts) - _LONGEST} more" if len(texts) > _LONGEST else ""
    return ", ".join(texts[:_LONGEST]) + more or "nothing"


# Ops that changed together


def family(op: str) -> str:
    """Return the name that the functional, in-place and `out=` forms of an op share: `aten::frac` for `aten::frac_`."""
    namespace, name, _ = op_names.split(op)
    in_place = name.endswith("_") and not name.endswith("__")
    return f"{namespace}::{name[:-1] if in_place else name}"


def groups(found: Sequence[Behaviour]) -> list[list[Behaviour]]:
    """Group the ops of one family that changed in the same way, each group with its plainest op first."""
    together: dict[tuple[str, str, frozenset[str]], list[Behaviour]] = {}
    for each in found:
        together.setdefault((family(each.op), each.verdict, _changed_ops(each)), []).append(each)
    return [sorted(group, key=lambda each: _plainness(each.op)) for group in together.values()]


def _changed_ops(found: Behaviour) -> frozenset[str]:
    """Return what identifies a change: the ops that it removed and added, or its error."""
    first = found.differences[0]
    rows = [row for row in first.rows if not row.same]
    if not rows:
        return frozenset({f"{'!' if first.before.error else ''}{first.before.error or first.after.error}"})
    changed = [(sign, _target(line)) for row in rows for sign, line in (("-", row.before), ("+", row.after)) if line]
    wrappers = ("copy_", "return")
    return frozenset(f"{sign}{name}" for sign, name in changed if not name.startswith(wrappers))


def _plainness(op: str) -> tuple[bool, bool, int, str]:
    _, name, overload = op_names.split(op)
    return ("out" in overload or overload == "grad_input", name.endswith("_"), len(op), op)
