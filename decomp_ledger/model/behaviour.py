"""Traces: what the decompositions of one torch do, as data. A trace is the graph that one sample gives. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.json_values import as_object, as_string, as_strings

__all__ = ["DYNAMIC", "Trace", "TraceSet", "Traces", "is_dynamic"]

# A call that starts with this is traced with dynamic shapes.
DYNAMIC = "dynamic"
_ERROR = "!"


@displayed
@attrs.frozen(repr=False)
class Trace:
    """What tracing one sample gave: a graph or an error; exactly one of the two is set.

    Attributes:
        digest: digest of the graph's canonical lines; equal data flow gives an equal digest.
        error: class of the exception, with a short reason that is the same in every process.
    """

    digest: str | None = None
    error: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse a trace that has both or neither."""
        if (self.digest is None) == (self.error is None):
            raise LedgerError("trace: it needs a digest or an error, not both")

    def to_json(self) -> Json:
        """Return it as one string; an error starts with `!`."""
        return self.digest if self.error is None else f"{_ERROR}{self.error}"

    @classmethod
    def from_json(cls, value: object) -> Trace:
        """Check and read what `to_json` gave.

        Raises:
            LedgerError: it is not a trace.
        """
        try:
            text = as_string(value)
        except UnusableValue as error:
            raise LedgerError(f"trace: {error}") from None
        return cls(error=text[len(_ERROR) :]) if text.startswith(_ERROR) else cls(digest=text)


@displayed
@attrs.frozen(repr=False)
class Traces:
    """The traces of one torch version.

    Attributes:
        torch: the version, such as `2.13.0`.
        of: op name -> the traces of its samples, each with the text of its call, in the order of the samples.
    """

    torch: str
    of: Mapping[str, tuple[tuple[str, Trace], ...]] = attrs.field(repr=lambda of: f"<{len(of)} ops>")

    def get(self, op: str) -> Mapping[str, Trace]:
        """Return the traces of an op by the text of the call; nothing for an op without samples.

        Compare versions by that text, never by position, because samples may be added later.
        """
        return dict(self.of.get(op, ()))

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data: op name -> call -> trace."""
        ops: dict[str, Json] = {op: {call: trace.to_json() for call, trace in each} for op, each in self.of.items()}
        return {"torch": self.torch, "ops": ops}

    @classmethod
    def from_json(cls, value: object) -> Traces:
        """Check and read plain data of any origin.

        Raises:
            LedgerError: it is not the traces of a torch.
        """
        try:
            fields = as_object(value)
            ops = {op: as_object(calls) for op, calls in as_object(fields.get("ops")).items()}
            torch = as_string(fields.get("torch"))
        except UnusableValue as error:
            raise LedgerError(f"traces: {error}; make them with `catalog capture`") from None
        return cls(
            torch,
            {op: tuple((call, Trace.from_json(item)) for call, item in calls.items()) for op, calls in ops.items()},
        )


@displayed
@attrs.frozen(repr=False)
class TraceSet:
    """The traces of one torch with the graphs that they name, as capturing gives them.

    Attributes:
        traces: the traces.
        graphs: digest -> the canonical lines of the graph, one for each node.
    """

    traces: Traces
    graphs: Mapping[str, tuple[str, ...]] = attrs.field(repr=lambda graphs: f"<{len(graphs)} graphs>")

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        graphs: dict[str, Json] = {digest: list(lines) for digest, lines in self.graphs.items()}
        return {**self.traces.to_json(), "graphs": graphs}

    @classmethod
    def from_json(cls, value: object) -> TraceSet:
        """Check and read plain data of any origin.

        Raises:
            LedgerError: it is not a set of traces, or a graph is missing.
        """
        traces = Traces.from_json(value)
        try:
            graphs = {digest: as_strings(lines) for digest, lines in as_object(as_object(value)["graphs"]).items()}
        except (UnusableValue, KeyError) as error:
            raise LedgerError(f"traces: the graphs are damaged: {error}; make them with `catalog capture`") from None
        named = {trace.digest for each in traces.of.values() for _, trace in each if trace.digest is not None}
        if missing := sorted(named - graphs.keys()):
            raise LedgerError(f"traces: the graph {missing[0]:.32} is missing; make them with `catalog capture`")
        return cls(traces, graphs)


def is_dynamic(call: str) -> bool:
    """Tell whether the text of a call asks for a trace with dynamic shapes."""
    return call.startswith(DYNAMIC)
