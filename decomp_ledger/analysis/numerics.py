"""Numerics: whether decompositions compute what the ops' own kernels compute, as found by running both. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Row, displayed, guarded, to_rows

__all__ = [
    *("ACCEPTS", "ALIASING", "DTYPE", "INPUTS", "LAYOUT", "RAISES", "RESULTS", "SHAPE", "STRIDES", "VALUES"),
    *("COMPARED", "KEPT", "NO_KERNEL", "RANDOM", "REFUSED"),
    *("DIFFERS", "SAME", "SAME_SHAPES", "UNKNOWN"),
    *("NO_FUNCTION", "NOT_LOADED", "NOT_SAMPLED", "OWN_KERNEL"),
    *("NumericDifference", "NumericsCheck", "OpNumerics", "ProgramCheck", "SampleRun", "TensorFacts"),
    *("facts_differences", "number_text", "tolerance"),
]

# What differs between a kernel and a decomposition.
VALUES, DTYPE, SHAPE, STRIDES, LAYOUT = "values", "dtype", "shape", "strides", "layout"
ALIASING, INPUTS, RESULTS, RAISES, ACCEPTS = "aliasing", "inputs", "results", "raises", "accepts"
# What came of one sample call.
COMPARED, RANDOM, REFUSED, KEPT, NO_KERNEL = "compared", "random", "refused", "kept", "no kernel"
# The verdict on a decomposition.
DIFFERS, SAME, SAME_SHAPES, UNKNOWN = "differs", "same", "same shapes", "unknown"
# The verdict on one that was not run.
NOT_SAMPLED, NOT_LOADED, NO_FUNCTION, OWN_KERNEL = "not sampled", "not loaded", "no function", "own kernel"

# The tolerances (relative, absolute) with which torch tests its own decompositions: `dtype_precisions` and
# `op_assert_equal_tol_table` of test/test_decomp.py in pytorch/pytorch. Other dtypes must be equal.
_BY_DTYPE = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-4),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex32": (1e-3, 1e-5),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}
_BY_OP = {
    ("aten::native_layer_norm", "float32"): (1e-3, 1e-3),
    ("aten::native_layer_norm", "float64"): (1e-6, 1e-6),
    ("aten::native_layer_norm_backward", "float32"): (1e-3, 1e-3),
    ("aten::native_group_norm", "float32"): (1e-4, 5e-6),
    ("aten::grid_sampler_2d", "float32"): (7e-6, 3e-5),
    ("aten::mv", "float32"): (1e-5, 3e-5),
    ("aten::mv", "complex64"): (5e-5, 5e-5),
    ("aten::upsample_bicubic2d.vec", "float64"): (1e-5, 5e-4),
    ("aten::upsample_bicubic2d", "float64"): (1e-5, 5e-4),
    **{
        (op, dtype): (0.0, 1.0)
        for op in (
            *("aten::linspace", "aten::linspace.Tensor_Tensor"),
            *("aten::linspace.Tensor_Scalar", "aten::linspace.Scalar_Tensor"),
        )
        for dtype in ("int8", "uint8", "int16", "int32", "int64")
    },
}


def tolerance(dtype: str, op: str = "") -> tuple[float, float]:
    """Return the relative and the absolute tolerance for results of a dtype, such as `float32`.

    Args:
        dtype: its name in torch.
        op: the op, because torch allows some ops more.
    """
    return _BY_OP.get((op, dtype)) or _BY_DTYPE.get(dtype, (0.0, 0.0))


def number_text(value: float) -> str:
    """Return a number in few digits, for people."""
    return f"{value:.2g}"


@attrs.frozen
class TensorFacts:
    """What is known of a tensor besides its values.

    Attributes:
        dtype: its name in torch, such as `float32`.
        shape: its sizes.
        layout: its name in torch, such as `strided`.
        strides: its strides; None for another layout.
        shares: the tensors whose storage it shares, such as `input 0`.
    """

    dtype: str
    shape: tuple[int, ...]
    layout: str = "strided"
    strides: tuple[int, ...] | None = None
    shares: tuple[str, ...] = ()


@displayed
@attrs.frozen(repr=False)
class NumericDifference:
    """One respect in which a decomposition differs from the op's kernel.

    Attributes:
        kind: `values`, `dtype`, `shape`, `strides`, `layout`, `aliasing`, `inputs` (it leaves an input otherwise),
            `results` (their number or type), `raises` (what the kernel accepts), `accepts` (what the kernel refuses).
        where: which tensor: `result 0`, `input 1`; "" for the call as a whole.
        text: the difference, for people.
    """

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {"kind": self.kind, "where": self.where, "text": self.text}


def facts_differences(where: str, right: TensorFacts, given: TensorFacts) -> list[NumericDifference]:
    """Return how two tensors differ besides their values. Strides count where they tell elements apart."""
    pairs = (
        (DTYPE, "dtype", right.dtype, given.dtype),
        (SHAPE, "shape", str(list(right.shape)), str(list(given.shape))),
        (LAYOUT, "layout", right.layout, given.layout),
        (ALIASING, "shares memory", _with(right.shares), _with(given.shares)),
    )
    found = [
        NumericDifference(kind, where, f"{what} {other}, not {own}") for kind, what, own, other in pairs if own != other
    ]
    if (right.shape, right.layout) == (given.shape, given.layout) and _significant(right) != _significant(given):
        text = f"strides {list(given.strides or ())}, not {list(right.strides or ())}"
        found.append(NumericDifference(STRIDES, where, text))
    return found


def _significant(facts: TensorFacts) -> tuple[int, ...]:
    if facts.strides is None or 0 in facts.shape:
        return ()
    return tuple(stride for size, stride in zip(facts.shape, facts.strides, strict=True) if size > 1)


def _with(shares: tuple[str, ...]) -> str:
    return f"with {' and '.join(shares) or 'nothing'}"


@displayed
@attrs.frozen(repr=False)
class SampleRun:
    """A sample call, run by the kernel and by the decomposition.

    Attributes:
        call: the text of the call.
        values: what its tensors held: `filled` (as traces have them) or `signed` (random, of both signs, with zeros).
        outcome: `compared`; `random` (the kernel draws random numbers, or reads memory that nothing has written, so
            values were not compared); `refused` (by both); `kept` (the decomposition returned NotImplemented, so the op
            stays); `no kernel` (the kernel has no code for these dtypes on this device).
        differences: what differs.
        error: the largest absolute difference of a value; None if none was compared.
    """

    call: str
    values: str
    outcome: str
    differences: tuple[NumericDifference, ...] = ()
    error: float | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data; floats are text, because JSON has no infinity."""
        return {
            "call": self.call,
            "values": self.values,
            "outcome": self.outcome,
            "error": None if self.error is None else repr(self.error),
            "differences": [each.to_json() for each in self.differences],
        }


@displayed
@attrs.frozen(repr=False)
class OpNumerics:
    """A decomposition, compared with the kernel of its op.

    Attributes:
        op: name of the op.
        decomposition: name of the decomposition, for people.
        runs: the sample calls that were run.
        not_run: why none was run: `not sampled`, `not loaded` (the op), `no function` (that can be used here), `own
            kernel` (the decomposition is the kernel); "" if some were.
        reason: the reason in words, with what to do; else "".
    """

    op: str
    decomposition: str
    runs: tuple[SampleRun, ...] = ()
    not_run: str = ""
    reason: str = ""

    @guarded
    def __repr__(self) -> str:
        return f"<OpNumerics {self.op}: {self.verdict}, {len(self.runs)} runs>"

    def _row(self) -> Row:
        return {
            "op": self.op,
            "decomposition": self.decomposition,
            "verdict": self.verdict,
            "error": self.error,
            "runs": len(self.runs),
            "differing": len(self.differing),
            "kinds": ", ".join(self.kinds),
            "reason": self.reason,
        }

    @property
    def verdict(self) -> str:
        """What the runs tell.

        `differs`; `same`; `same shapes` (the op is random); `unknown` (no run could be compared); else `not_run`.
        """
        if self.not_run:
            return self.not_run
        outcomes = {run.outcome for run in self.runs}
        if self.differing:
            return DIFFERS
        if outcomes & {COMPARED, REFUSED}:
            return SAME
        return SAME_SHAPES if RANDOM in outcomes else UNKNOWN

    @property
    def differing(self) -> tuple[SampleRun, ...]:
        """The runs that differ."""
        return tuple(run for run in self.runs if run.differences)

    @property
    def error(self) -> float | None:
        """The largest absolute difference of a value, also within the tolerance; None if no value was compared."""
        return max((run.error for run in self.runs if run.error is not None), default=None)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the differences."""
        return tuple(dict.fromkeys(each.kind for run in self.runs for each in run.differences))

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data; of the runs, those that differ."""
        return {
            "op": self.op,
            "decomposition": self.decomposition,
            "verdict": self.verdict,
            "reason": self.reason,
            "runs": len(self.runs),
            "outcomes": dict(sorted(_counts(run.outcome for run in self.runs).items())),
            "error": None if self.error is None else repr(self.error),
            "differences": [run.to_json() for run in self.differing],
        }


@displayed
@attrs.frozen(repr=False)
class NumericsCheck:
    """The decompositions of a table, compared with the kernels of their ops.

    Attributes:
        name: what was checked: `edge@3`, or `torch's defaults`.
        torch: the version of torch that ran.
        ops: the result of each op, by name.
    """

    name: str
    torch: str
    ops: tuple[OpNumerics, ...]

    @guarded
    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        return f"<NumericsCheck of {self.name} in torch {self.torch}: {counts or 'no overrides'}>"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each op: its verdict, the largest error, and how many runs differ."""
        return to_rows(self.ops)

    @property
    def passed(self) -> bool:
        """Whether nothing that was run differs; see `failed` and `counts` for what was not run."""
        return not self.differing

    @property
    def differing(self) -> tuple[OpNumerics, ...]:
        """The ops whose decomposition differs from their kernel."""
        return self.of(DIFFERS)

    @property
    def failed(self) -> tuple[OpNumerics, ...]:
        """The overrides whose function cannot be used here, so that nothing is known of them."""
        return self.of(NO_FUNCTION)

    @property
    def counts(self) -> dict[str, int]:
        """How many ops have each verdict."""
        return _counts(each.verdict for each in self.ops)

    def of(self, verdict: str) -> tuple[OpNumerics, ...]:
        """Return the ops with a verdict."""
        return tuple(each for each in self.ops if each.verdict == verdict)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "torch": self.torch,
            "passed": self.passed,
            "counts": dict(self.counts),
            "ops": [each.to_json() for each in self.ops],
        }


def _counts(words: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return found


@displayed
@attrs.frozen(repr=False)
class ProgramCheck:
    """A program, run before and after it was lowered with a table.

    Attributes:
        name: the table.
        program: the file of the program, or what it is called.
        torch: the version of torch that ran.
        differences: how the results differ, also those of inputs and buffers that the program changes.
        error: the largest absolute difference of a value; None if none was compared.
        random: whether the program itself gives other values with other random numbers; then values were not
            compared.
        fired: the ops whose decompositions torch traced, in the order of their first trace.
        culprit: the first op whose decomposition makes the results differ; None if they agree or it is not known.
        reason: why no culprit was found although the results differ; else "".
        raised: the error of lowering or running the lowered program; "" if there was none.
    """

    name: str
    program: str
    torch: str
    differences: tuple[NumericDifference, ...]
    error: float | None
    random: bool
    fired: tuple[str, ...]
    culprit: str | None = None
    reason: str = ""
    raised: str = ""

    @guarded
    def __repr__(self) -> str:
        what = f"first of {self.culprit}" if self.culprit else self.reason
        return f"<ProgramCheck of {self.program} with {self.name}: {'same' if self.passed else f'differs, {what}'}>"

    @property
    def passed(self) -> bool:
        """Whether the program computes the same before and after."""
        return not self.differences

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "program": self.program,
            "torch": self.torch,
            "passed": self.passed,
            "random": self.random,
            "error": None if self.error is None else repr(self.error),
            "differences": [each.to_json() for each in self.differences],
            "fired": list[Json](self.fired),
            "culprit": self.culprit,
            "reason": self.reason,
            "raised": self.raised,
        }
