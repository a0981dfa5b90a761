"""Outcome: what happened to an op in an export, decided here alone, from recorded facts. Pure.

`decide` takes the facts of one op in one export; `expect` says what a table would do with an op, where no export shows
it. Every answer of the product (`explain`, `show`, `blame`, `diff`, JSON, Python) comes from these two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import ALWAYS, MUTATES, OVERRIDE, PRESERVE, VIEWS, Emission, Event, Exported, Passed
from decomp_ledger.model.materialize import DEFAULT, choose
from decomp_ledger.model.op_lookup import did_you_mean
from decomp_ledger.model.rules import Rule, TableState

__all__ = [
    *("DECOMPOSED", "EARLY", "EARLY_KERNELS", "EMITTED", "FAILED", "FUNCTIONALIZED", "KEPT", "KEPT_STALE"),
    *("NOT_IN_PROGRAM", "OpFacts", "Outcome", "PENDING", "REMOVED", "UNKNOWN"),
    *(
        "decide",
        "expect",
        "facts",
        "failure",
        "is_early",
        "kind_of",
        "makers",
        "ops_of",
        "origin_text",
        "outcomes",
        "preservable",
        "stand_in",
        "without_effect",
    ),
]

DECOMPOSED, KEPT, FUNCTIONALIZED, PENDING = "decomposed", "kept", "functionalized", "pending"
EMITTED, REMOVED, FAILED, UNKNOWN = "emitted", "removed", "failed", "unknown"
NOT_IN_PROGRAM, KEPT_STALE = "not in the program", "kept (stale table)"

_ORIGINS = {
    "cia": "its C++ CompositeImplicitAutograd kernel",
    "py_cia": "its Python CompositeImplicitAutograd kernel",
    "registry": "a Python function in torch's registry",
}
# Ops of torch with a kernel for Autograd in Python, which computes by other ops and runs before torch looks into the
# table. CIA ops are not listed, because torch replaces their kernels before an export. A torch that does not decompose
# an op has no such kernel. `tests/torch/test_outcomes.py` compares the list with the torch that runs.
EARLY_KERNELS = frozenset(
    {"aten::cudnn_batch_norm", "aten::hardshrink", "aten::miopen_batch_norm", "aten::multi_margin_loss"}
    | {"aten::multilabel_margin_loss_forward", "aten::softshrink", "aten::upsample_bicubic2d"}
    | {"aten::upsample_bilinear2d"}
)
EARLY = "its Python kernel for Autograd"
# The namespace in which ExecuTorch hides ops of aten from a lowering: `EDGE_DO_NOT_DECOMP::linear` is `aten::linear`.
_HIDDEN = "EDGE_DO_NOT_DECOMP::"
_OLDER = "recorded by an older version"
_MUTATES = "the op changes its argument, so torch replaces it by its functional form before it looks into the table"
_NAMED = 3  # makers that a sentence names


@displayed
@attrs.frozen(repr=False)
class Outcome:
    """What happened to an op, or what would happen to it, and why.

    Attributes:
        word: `decomposed`, `kept`, `kept (stale table)`, `emitted` (a decomposition or torch made it), `functionalized`
            (replaced by its functional form), `removed` (nothing of the result comes from it), `not in the program`,
            `failed` (the export did), `pending` (the op is not loaded), or `unknown`.
        because: the reason, one sentence.
    """

    word: str
    because: str

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {"outcome": self.word, "because": self.because}


@attrs.frozen
class OpFacts:
    """What an export recorded of one op.

    Attributes:
        op: the op.
        before: its nodes in the program, those of subgraphs included.
        after: its nodes in the result.
        fired: how often its decomposition was traced and gave a result.
        declined: how often its decomposition returned NotImplemented; None if that is not known.
        made_by: what made its nodes in the result; None if that is not known.
        made: the nodes of other ops that torch made when it ran this op of the program.
        kind: `mutates`, `views`, `always` or empty; None if that is not known.
        early: a kernel that runs before the table; empty if none is known.
        stale: whether the table lacks the op only because it was read too early, or the dict because it was made so.
        early_dict: whether the table was a dict that was made before the op was loaded.
        error: the class of the exception with which the export failed; None if it did not fail.
        raised: the decompositions in which that was raised, outermost first; None if that is not known.
        readable: whether both graphs could be read, where there are two.
    """

    op: str
    before: int
    after: int
    fired: int
    declined: int | None
    made_by: tuple[Emission, ...] | None
    made: tuple[Emission, ...]
    kind: str | None
    early: str
    stale: bool
    early_dict: bool
    error: str | None
    raised: tuple[str, ...] | None
    readable: bool

    @property
    def kept(self) -> int | None:
        """How many nodes of the result are the program's own; None if that is not known."""
        if self.made_by is None:
            return None
        bare = [row for row in self.made_by if row.chain == ()]
        own = sum(row.count for row in bare if row.source == self.op)
        # Of a node that torch ran within a subgraph, it tells the operator that has the subgraph.
        unclear = sum(
            row.count for row in bare if row.source is None or ("::" not in row.source and row.source != self.op)
        )
        if self.kind == VIEWS:  # functionalization makes views again, wherever it needs them
            unclear = self.after - own
        return own + max(0, min(unclear, self.before - own))

    @property
    def emitted(self) -> tuple[Emission, ...]:
        """What made the nodes that are not the program's own."""
        rest = (row for row in self.made_by or () if row.chain != () or row.source != self.op)
        return tuple(rest) if self.after > (self.kept or 0) else ()


# What happened


def ops_of(body: Exported) -> list[str]:
    """Return the ops of an export: those of the program, those of the result, and those whose decomposition ran."""
    return sorted({*body.ops_before, *body.ops_after, *body.fired, *(body.declined or ()), *(body.raised or ())})


def stand_in(op: str, body: Exported) -> str | None:
    """Return the name under which ExecuTorch hid an op of aten from an export; None if it did not."""
    hidden = _HIDDEN + op.removeprefix("aten::")
    return hidden if op_names.is_aten(op) and hidden in {*body.ops_before, *body.ops_after} else None


def facts(op: str, body: Exported, entry: Entry | None = None, *, last: Event | None = None) -> OpFacts:
    """Collect what an export recorded of one op.

    Args:
        op: the op.
        body: the export.
        entry: the op's entry in the export's catalog, for what an older event lacks.
        last: the event that last changed the op's rule; None if it never had one.
    """
    rows = body.emitted
    if body.kinds is not None:
        kind: str | None = body.kinds.get(op, "")
    else:
        kind = kind_of(entry) if entry is not None and (entry.schema or entry.origin) else None
    return OpFacts(
        op=op,
        before=body.ops_before.get(op, 0),
        after=body.ops_after.get(op, 0),
        fired=body.fired.get(op, 0),
        declined=None if body.declined is None else body.declined.get(op, 0),
        made_by=None if rows is None else tuple(row for row in rows if row.op == op),
        made=() if rows is None else tuple(row for row in rows if row.source == op and row.op != op),
        kind=kind,
        early=(body.early or {}).get(op, EARLY if entry is not None and is_early(op, entry) else ""),
        stale=op in body.stale,
        early_dict=last is not None and isinstance(last.body, Passed) and op in last.body.later,
        error=None if body.error is None else body.error[0],
        raised=body.raised,
        readable=bool((body.before or body.ops_before) and (body.error is not None or body.after or body.ops_after)),
    )


def decide(found: OpFacts, expected: Outcome) -> Outcome:
    """Decide what happened to an op in an export.

    Args:
        found: the facts.
        expected: what the table would do with the op; it explains an outcome, and never decides it.
    """
    if found.error is not None:
        return _failed(found, expected)
    if not found.readable and not found.fired:
        return Outcome(UNKNOWN, "a graph of the export could not be read")
    kept = found.kept
    if kept is None and found.before and found.after:
        if found.fired:
            return Outcome(UNKNOWN, f"it was {_OLDER}, which does not tell what made the nodes of the result")
        kept = found.after
    if kept:
        return _kept(found, expected, kept)
    if found.after and not found.before:
        return Outcome(EMITTED, f"the program does not have the op; {_made_by(found)}{_stays(expected)}")
    if found.fired and not (found.before and found.kind == MUTATES):
        return _decomposed(found, expected)
    if found.before:
        return _vanished(found, expected)
    if found.declined:
        return Outcome(REMOVED, f"its decomposition {_declined(found)}, and torch then removed it")
    return Outcome(
        NOT_IN_PROGRAM,
        f"neither the program nor its result has the op; otherwise it would be {expected.word}, "
        f"because {expected.because}",
    )


def _failed(found: OpFacts, expected: Outcome) -> Outcome:
    chain = found.raised
    if chain and chain[-1] == found.op:
        within = f", within the decomposition of {_chain(chain[:-1])}" if len(chain) > 1 else ""
        return Outcome(FAILED, f"its decomposition raised {found.error}{within}; {expected.because}")
    where = f"the export failed with {found.error}{_place(chain)}"
    if chain is None:
        where += f"; in which decomposition is unknown, because it was {_OLDER}"
    if found.before or found.fired or found.declined or found.op in (chain or ()):
        return Outcome(FAILED, f"{where}, so it has no result")
    return Outcome(
        NOT_IN_PROGRAM,
        f"the program does not have the op, and its export failed; otherwise it would be {expected.word}, "
        f"because {expected.because}",
    )


def _kept(found: OpFacts, expected: Outcome, kept: int) -> Outcome:
    if found.stale and found.early_dict:
        why = expected.because
    elif found.stale:
        why = (
            "the table was torch's own and was read before the op was loaded, and torch then never decomposes it "
            "(or the op was removed before that read, which such a table does not record)"
        )
    elif found.declined:
        why = f"its decomposition {_declined(found)}, which leaves the op"
    elif expected.word == KEPT:
        why = expected.because
    else:
        why = f"torch did not trace it as an op to decompose, although {expected.because}"
    if found.fired and found.made_by is not None:
        why += f"; its decomposition fired {_times(found.fired)} elsewhere"
    if kept < found.before:
        why += f"; {found.before - kept} of {found.before} did not stay"
    if found.emitted:
        why += f"; {_made_by(found)}"
    return Outcome(KEPT_STALE if found.stale else KEPT, why)


def _decomposed(found: OpFacts, expected: Outcome) -> Outcome:
    nested = "" if found.before else ", within the decompositions of other ops"
    fired = f"fired {_times(found.fired)}{nested}"
    why = f"{expected.because}; that {fired}" if expected.word == DECOMPOSED else f"its decomposition {fired}"
    if found.declined:
        why += f", and {_declined(found)}"
    return Outcome(DECOMPOSED, f"{why}; {_made_by(found)}" if found.after else why)


def _vanished(found: OpFacts, expected: Outcome) -> Outcome:
    """Decide about an op of the program that is not in the result, though no decomposition of the table replaced it."""
    if found.kind == MUTATES:
        made = f"; that made {_ops(found.made)}" if found.made else ""
        fired = f"; its decomposition fired {_times(found.fired)} elsewhere" if found.fired else ""
        return Outcome(FUNCTIONALIZED, _MUTATES + made + fired)
    if found.kind == ALWAYS:
        return Outcome(DECOMPOSED, f"torch always decomposes it, whatever the table has{_into(found)}")
    if found.early:
        return Outcome(DECOMPOSED, f"{found.early} runs before torch looks into the table{_into(found)}")
    if found.made:
        what = "torch put its subgraph in its place" if "::" not in found.op else "torch itself replaced it"
        return Outcome(DECOMPOSED, f"{what}, before it looked into the table{_into(found)}")
    if found.declined is None:
        return Outcome(UNKNOWN, f"the result does not have it; what replaced it is unknown, because it was {_OLDER}")
    return Outcome(
        REMOVED,
        "no decomposition of it ran, and no node of the result comes from it, because it was unused or does nothing",
    )


def _into(found: OpFacts) -> str:
    text = f"; that made {_ops(found.made)}" if found.made else ""
    return f"{text}; {_made_by(found)}" if found.after else text


def _stays(expected: Outcome) -> str:
    return f"; it stays in the graph, because {expected.because}" if expected.word == KEPT else ""


def _declined(found: OpFacts) -> str:
    return f"returned NotImplemented {_times(found.declined or 0)}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _chain(chain: Iterable[str]) -> str:
    return " > ".join(chain)


def _ops(rows: Iterable[Emission]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.op] = counts.get(row.op, 0) + row.count
    return _some([f"{count} {op}" for op, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))])


def _made_by(found: OpFacts) -> str:
    if found.made_by is None:
        return f"what made its {_nodes(found.after)} is unknown, because it was {_OLDER}"
    return _some(makers(found.emitted))


def makers(rows: Iterable[Emission]) -> list[str]:
    """Return what made nodes, as sentences, the most nodes first."""
    ordered = sorted(rows, key=lambda row: (-row.count, row.chain or (), row.source or ""))
    return [f"{_maker(row)} made {_nodes(row.count)} of it" for row in ordered]


def _maker(row: Emission) -> str:
    if row.chain:
        within = f" (within {_chain(row.chain[:-1])})" if len(row.chain) > 1 else ""
        return f"the decomposition of {row.chain[-1]}{within}"
    if row.chain is None:
        return "an unknown decomposition"
    if row.source == row.op:
        return "the program"
    return "torch itself" if row.source is None else f"torch itself, when it ran {row.source},"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more


def failure(body: Exported) -> str:
    """Return where a failed export failed, in words: ` in the decomposition of aten::gelu`; empty if unknown."""
    return _place(body.raised)


def _place(raised: tuple[str, ...] | None) -> str:
    if raised is None:
        return ""
    return f" in the decomposition of {_chain(raised)}" if raised else " outside of any decomposition"


# What a table would do


def kind_of(entry: Entry) -> str:
    """Return the kind of an op by its entry: `mutates`, `views`, `always` or empty; see `model.events.Exported`."""
    if entry.origin in ("cia", "py_cia") and entry.unpreservable:
        return ALWAYS
    arguments, _, results = entry.schema.partition("->")
    if "!" in arguments:
        return MUTATES
    return VIEWS if re.search(r"Tensor\([a-z]", results) else ""


def expect(op: str, state: TableState, catalog: Catalog | None, *, last: Event | None = None) -> Outcome:
    """Return what a table would do with an op: `decomposed`, `kept`, `functionalized`, `pending` or `unknown`.

    Args:
        op: the op's name.
        state: the table's state.
        catalog: what torch offers, with schemas; None if that is not known.
        last: the event that last changed the op's rule; None if it never had one.
    """
    rule = state.rules.get(op)
    if catalog is None:
        return _without_catalog(op, state, rule, last)
    entry = catalog.ops.get(op)
    if entry is not None:
        return _with_catalog(op, state, rule, entry, last)
    waiting = "" if rule is None else f"; the rule '{rule.action}', set{_by(last)}, waits for it"
    near = "" if rule is not None or last is not None else did_you_mean(op, catalog.ops)
    return Outcome(PENDING, f"the op was not loaded in this torch{waiting}{near}")


def _by(last: Event | None) -> str:
    return "" if last is None else f" by event #{last.seq}"


def _by_rule(op: str, rule: Rule, last: Event | None) -> Outcome:
    if last is not None and isinstance(last.body, Passed):
        return _by_dict(op, rule, last, last.body)
    if rule.decomposition is None:
        return Outcome(KEPT, f"it was preserved{_by(last)}")
    return Outcome(DECOMPOSED, f"it was overridden with {rule.decomposition.label()}{_by(last)}")


def is_early(op: str, entry: Entry) -> bool:
    """Return whether a kernel of torch in Python computes an op of a program before torch looks into the table."""
    return op in EARLY_KERNELS and entry.origin is not None


def _by_dict(op: str, rule: Rule, event: Event, body: Passed) -> Outcome:
    by = f" by {body.caller}" if body.caller else ""
    where = f" at {event.call_site}" if event.call_site is not None else ""
    made = f" made from the table of {body.made} and" if body.made else ""
    passed = f"the dict that was{made} passed{by}{where} (event #{event.seq})"
    if rule.decomposition is not None:
        return Outcome(DECOMPOSED, f"{passed} has {rule.decomposition.label()} for it")
    if op in body.later:
        return Outcome(KEPT, f"it is missing from {passed}, which was made before the op was loaded")
    return Outcome(KEPT, f"it is missing from {passed}")


def _without_rule(state: TableState) -> str:
    """Return why a table that does not hold an op keeps it, although it has no rule for it."""
    if state.from_dict:
        also = " nor does torch's default table" if state.base == "torch" else ""
        return f"the dict that was passed does not have it{',' if also else ''}{also}"
    if state.base == "torch":
        return "torch's default table leaves it out"
    return "the table's base is empty, and the op has no rule"


def _without_catalog(op: str, state: TableState, rule: Rule | None, last: Event | None) -> Outcome:
    if rule is not None:
        return _by_rule(op, rule, last)
    if state.base == "empty":
        return Outcome(KEPT, _without_rule(state))
    return Outcome(PENDING, "the op has no rule, so it follows torch's default, which is unknown")


def _with_catalog(op: str, state: TableState, rule: Rule | None, entry: Entry, last: Event | None) -> Outcome:
    kind = kind_of(entry)
    is_idle = rule is not None and not state.from_dict
    nothing = f"; the rule '{rule.action}', set{_by(last)}, does nothing" if is_idle and rule is not None else ""
    if kind == MUTATES:
        return Outcome(FUNCTIONALIZED, _MUTATES + nothing)
    if kind == ALWAYS:
        return Outcome(DECOMPOSED, f"torch cannot keep it ({entry.unpreservable}), whatever the table has{nothing}")
    if is_early(op, entry):
        return Outcome(DECOMPOSED, f"{EARLY} runs before torch looks into the table{nothing}")
    choice = choose(None if rule is None else rule.action, state.base, loaded=True, default=entry.default)
    if rule is not None and choice == OVERRIDE:
        return _by_rule(op, rule, last)
    if choice == DEFAULT:
        return Outcome(DECOMPOSED, f"torch's default has it: {origin_text(op, entry)}")
    if rule is not None:
        return _by_rule(op, rule, last)
    if entry.origin is None:
        return Outcome(KEPT, "nothing decomposes it")
    return Outcome(KEPT, _without_rule(state))


def origin_text(op: str, entry: Entry) -> str:
    """Return what decomposes an op; of a kernel that a library registered, where it did."""
    if entry.origin == "cia" and (entry.registered or not op_names.is_torchs(op)):
        file = entry.registered.rpartition(":")[0]
        in_python = file.endswith(".py") or file.startswith("<")
        kind = " Python" if in_python else " C++" if file else ""
        where = f", registered by the library at {entry.registered}" if file else ""
        return f"its{kind} CompositeImplicitAutograd kernel{where}"
    return _ORIGINS.get(str(entry.origin), str(entry.origin))


def preservable(op: str, entry: Entry | None, found: OpFacts | None = None) -> str:
    """Return whether torch can keep an op in a graph: `yes`, `no: ` with the reason, or `unknown`.

    Args:
        op: the op's name.
        entry: its entry, with its schema; None if the op is not loaded.
        found: what an export shows of it.
    """
    if found is not None and found.kept and found.error is None:
        return "yes"
    if entry is None:
        return "unknown"
    kind = kind_of(entry)
    if kind == ALWAYS:
        return f"no: {entry.unpreservable}"
    if kind == MUTATES:
        return "no: it changes its argument, so its functional form takes its place"
    if is_early(op, entry) or (found is not None and found.early):
        return f"no: {EARLY if found is None or not found.early else found.early} runs before the table"
    return "yes"


# All ops of an export


def outcomes(
    body: Exported, state: TableState, catalog: Catalog | None, blame: Mapping[str, Event]
) -> dict[str, Outcome]:
    """Return what happened to each op of an export.

    Args:
        body: the export.
        state: the state of the table that was used.
        catalog: the catalog that the export names; with schemas for an event of schema 1.
        blame: op -> the event that made its rule.
    """
    entries: Mapping[str, Entry] = {} if catalog is None else catalog.ops
    found = {}
    for op in ops_of(body):
        expected = expect(op, state, catalog, last=blame.get(op))
        found[op] = decide(facts(op, body, entries.get(op), last=blame.get(op)), expected)
    return found


def without_effect(body: Exported, state: TableState) -> list[str]:
    """Return the ops whose override replaced nothing, and the preserved ops that the result does not have.

    A failed export has no result, so it shows the effect of no rule. A dict has no rules.
    """
    if body.error is not None or state.from_dict:
        return []
    used: Mapping[str, Mapping[str, int]] = {OVERRIDE: body.fired, PRESERVE: body.ops_after}
    return sorted(op for op, rule in state.rules.items() if op not in used[rule.action])
