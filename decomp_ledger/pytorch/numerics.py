"""Run decompositions and the kernels of their ops on real values, and compare what they give.

Each sample call runs twice: with the values that traces have, and with random values of both signs. A kernel that
refuses the latter only refuses these values, which a decomposition cannot see, so that is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from decomp_ledger.analysis.numerics import (
    ACCEPTS,
    COMPARED,
    INPUTS,
    KEPT,
    NO_FUNCTION,
    NO_KERNEL,
    NOT_LOADED,
    NOT_SAMPLED,
    OWN_KERNEL,
    RAISES,
    RANDOM,
    REFUSED,
    RESULTS,
    VALUES,
    NumericDifference,
    NumericsCheck,
    OpNumerics,
    SampleRun,
    TensorFacts,
    facts_differences,
    number_text,
    tolerance,
)
from decomp_ledger.errors import LedgerError
from decomp_ledger.model.behaviour import DYNAMIC
from decomp_ledger.model.events import OVERRIDE
from decomp_ledger.model.rules import TableState
from decomp_ledger.model.safe_text import class_name, describe, safe_repr
from decomp_ledger.model.samples import SampleCall, TorchConstant, parse_call, tensors_of
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.decompositions import load_function
from decomp_ledger.pytorch.dispatcher import dispatcher, resolve
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors
from decomp_ledger.pytorch.traces import plain_state

__all__ = ["Compared", "Ran", "check_op", "checked_defaults", "checked_overrides", "compare_results", "error_text",
           "overrides_of"]  # fmt: skip

Progress = Callable[[int, int], object]
FILLED, SIGNED = "filled", "signed"
_SEED = 20
_ZERO_EVERY = 7  # elements: what an op does at zero often differs from what it does next to it
_WHOLE = ("b8", "u8", "i8", "i16", "i32", "i64")  # dtypes that keep their values
_HALF = ("f16", "bf16")
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_HALF_TOLERANCE = 1e-7  # as `op_assert_ref` of torch's test_decomp.py allows
# Their results are memory as it was, which no two calls agree on.
_UNINITIALIZED = frozenset(
    f"aten::{family}"
    for family in (
        *("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"),
        *("resize", "resize_", "resize_as", "resize_as_"),
    )
)


class Ran(NamedTuple):
    """What one call did.

    Attributes:
        results: its results, without the lists around them.
        inputs: its tensors as they are afterwards.
        drew: whether it drew random numbers.
        error: what it raised; then it has no results.
    """

    results: Sequence[Any]
    inputs: Sequence[torch.Tensor]
    drew: bool = False
    error: Exception | None = None


class Compared(NamedTuple):
    """How results differ, and the largest absolute difference of a value (None if none was compared)."""

    differences: list[NumericDifference]
    error: float | None

    @property
    def has_values(self) -> bool:
        """Whether values differ."""
        return any(each.kind in (VALUES, INPUTS) for each in self.differences)


# Whole tables


def overrides_of(
    state: TableState, provided: Mapping[str, Sequence[Any]], trust: Sequence[str]
) -> tuple[dict[str, Any], dict[str, LedgerError]]:
    """Load the functions of the overrides of a state.

    Args:
        state: the rules, which may come from a stranger's file.
        provided: op -> functions that the caller supplied for it.
        trust: modules that may be imported.

    Returns:
        op -> its function, and op -> why it cannot be loaded.
    """
    defaults = dispatcher.full()
    found: dict[str, Any] = {}
    failed: dict[str, LedgerError] = {}
    for op, rule in sorted(state.rules.items()):
        if rule.action == OVERRIDE and rule.decomposition is not None:
            try:
                found[op] = load_function(op, rule.decomposition, defaults, provided.get(op, ()), trust)
            except LedgerError as error:
                failed[op] = error
    return found, failed


def checked_overrides(
    name: str,
    state: TableState,
    functions: Mapping[str, Any],
    failed: Mapping[str, LedgerError],
    samples: Mapping[str, Sequence[str]],
    progress: Progress,
) -> NumericsCheck:
    """Compare each override of a state with the kernel of its op.

    Args:
        name: what people call the state.
        state: the rules.
        functions: op -> the function of its override.
        failed: op -> why its function cannot be loaded.
        samples: op -> texts of sample calls.
        progress: it is called with the number of ops done and of all.
    """
    rules = ((op, rule.decomposition) for op, rule in sorted(state.rules.items()) if rule.action == OVERRIDE)
    labels = {op: "" if decomposition is None else decomposition.label() for op, decomposition in rules}

    def check(op: str) -> OpNumerics:
        if op in failed:
            return OpNumerics(op, labels[op], (), NO_FUNCTION, str(failed[op]).removeprefix(f"{op}: "))
        return check_op(op, functions.get(op), labels[op], samples.get(op, ()))

    return NumericsCheck(name, str(torch.__version__), tuple(map(check, _counted(labels, progress))))


def checked_defaults(samples: Mapping[str, Sequence[str]], progress: Progress) -> NumericsCheck:
    """Compare torch's own default decompositions with the kernels of their ops; see :func:`checked_overrides`."""
    defaults = dispatcher.full()

    def check(op: str) -> OpNumerics:
        label = f"torch's default ({defaults.entry(op, defaults.by_name[op]).origin})"
        return check_op(op, defaults.get(op), label, samples.get(op, ()))

    ops = tuple(map(check, _counted(sorted(defaults.by_name), progress)))
    return NumericsCheck("torch's defaults", str(torch.__version__), ops)


def _counted(ops: Collection[str], progress: Progress) -> Iterator[str]:
    for number, op in enumerate(ops):
        progress(number, len(ops))
        yield op
    progress(len(ops), len(ops))


# One op


def check_op(op: str, decomposition: Any, label: str, calls: Sequence[str]) -> OpNumerics:
    """Compare a decomposition with the kernel of its op.

    Args:
        op: name of the op.
        decomposition: what a table holds for it.
        label: its name, for people.
        calls: texts of sample calls.

    Raises:
        SampleError: a text is not a sample call.
    """
    live = resolve(op)
    if live is None:
        return OpNumerics(op, label, (), NOT_LOADED, "the op is not loaded; import its library first, or trust it")
    if internals.op_of_cia_partial(decomposition) is live:
        return OpNumerics(op, label, (), OWN_KERNEL, "its decomposition is its own C++ kernel")
    if not calls:
        return OpNumerics(op, label, (), NOT_SAMPLED, "this op has no sample call; give some")
    static = {text for text in calls if not text.startswith(DYNAMIC)}
    chosen = [text for text in calls if text in static or text.removeprefix(DYNAMIC) not in static]
    return OpNumerics(op, label, tuple(run for text in chosen for run in _runs(op, live, decomposition, text)))


def _runs(op: str, live: Any, decomposition: Any, text: str) -> Iterator[SampleRun]:
    call = parse_call(text)
    yield _compared_run(op, live, decomposition, call, FILLED)
    if any(tensor.dtype not in _WHOLE and tensor.values is None for tensor in tensors_of(call)):
        run = _compared_run(op, live, decomposition, call, SIGNED)
        if run.outcome not in (REFUSED, NO_KERNEL) and [each.kind for each in run.differences] != [ACCEPTS]:
            yield run


def _compared_run(op: str, live: Any, decomposition: Any, call: SampleCall, values: str) -> SampleRun:
    kernel, other = _ran(live, call, values), _ran(decomposition, call, values)
    text = str(call)
    if isinstance(kernel.error, NotImplementedError):
        return SampleRun(text, values, NO_KERNEL)
    if kernel.error is not None:
        accepts = NumericDifference(ACCEPTS, "", f"gives a result, the kernel raises {error_text(kernel.error)}")
        return SampleRun(text, values, REFUSED, () if other.error is not None else (accepts,))
    if other.error is not None:
        raised = NumericDifference(RAISES, "", f"raises {error_text(other.error)}")
        return SampleRun(text, values, COMPARED, (raised,))
    if other.results and other.results[0] is NotImplemented:
        return SampleRun(text, values, KEPT)
    random = kernel.drew or op.partition(".")[0] in _UNINITIALIZED
    found = compare_results(kernel, other, op=op, values=not random)
    if found.has_values and compare_results(kernel, _ran(live, call, values), op=op).has_values:
        # The kernel disagrees with itself: it reads memory that nothing has written.
        random, found = True, compare_results(kernel, other, op=op, values=False)
    if any(tensor.dtype in _HALF for tensor in tensors_of(call)) and found.has_values:
        found = compare_results(kernel, other, op=op, truth=_ran(live, call, values, exact=True))
    return SampleRun(text, values, RANDOM if random else COMPARED, tuple(found.differences), found.error)


def _ran(fn: Any, call: SampleCall, values: str, *, exact: bool = False) -> Ran:
    """Run a function on a sample call: on the same values and random numbers each time; if `exact`, in float64."""
    with plain_state():
        tensors = build_tensors(call)
        if values == SIGNED:
            _fill_signed(call, tensors)
        if exact:
            call = _in_float64(call)
            tensors = [each.to(torch.float64) if each.is_floating_point() else each for each in tensors]
        args, kwargs = build_arguments(call, [*tensors])
        torch.default_generator.manual_seed(_SEED)
        before = torch.get_rng_state()
        try:
            results = _leaves(fn(*args, **kwargs))
        except Exception as error:  # whatever it does
            return Ran([], tensors, error=error)
        return Ran(results, tensors, drew=not torch.equal(before, torch.get_rng_state()))


def _in_float64(value: Any) -> Any:
    """Return a sample call, or one of its arguments, with float64 in the place of its floating dtypes."""
    if isinstance(value, SampleCall):
        kwargs = {name: _in_float64(item) for name, item in value.kwargs.items()}
        return SampleCall(_in_float64(value.args), kwargs)
    if isinstance(value, tuple):
        return tuple(map(_in_float64, value))
    is_float = isinstance(value, TorchConstant) and value.name in _FLOATS
    return TorchConstant("float64") if is_float else value


def _fill_signed(call: SampleCall, tensors: Sequence[torch.Tensor]) -> None:
    """Fill tensors with random numbers around zero, and some zeros; not integers, which may be indices."""
    generator = torch.Generator().manual_seed(_SEED)
    for sample, tensor in zip(tensors_of(call), tensors, strict=True):
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        if sample.values is None and count and (tensor.is_floating_point() or tensor.is_complex()):
            dtype = torch.complex128 if tensor.is_complex() else torch.float64
            numbers = 2 * torch.randn(count, generator=generator, dtype=dtype)
            numbers[_ZERO_EVERY - 1 :: _ZERO_EVERY] = 0
            tensor.as_strided((count,), (1,), 0).copy_(numbers)


def error_text(error: Exception) -> str:
    """Return the class of an error and the first line of its message."""
    kind, message = describe(error)
    lines = message.strip().splitlines()
    return f"{kind}: {lines[0]:.120}" if lines else kind


# Results


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, (list, tuple)) else [value]


def compare_results(right: Ran, given: Ran, *, op: str = "", values: bool = True, truth: Ran | None = None) -> Compared:
    """Compare what two calls gave, and how each left its inputs.

    Args:
        right: the call that is right, of a kernel.
        given: the call to compare.
        op: the op whose tolerance counts.
        values: whether to compare values.
        truth: the first call in float64, for results of less precision: values that are as close to these as those of
            the first call do not differ. Torch tests its own decompositions in float16 and bfloat16 in this way.
    """
    if len(right.results) != len(given.results):
        text = f"the number of results is {len(given.results)}, not {len(right.results)}"
        return Compared([NumericDifference(RESULTS, "", text)], None)
    exact: Ran = Ran((), ()) if truth is None else truth
    found: list[NumericDifference] = []
    errors: list[float] = []
    for number, pair in enumerate(zip(right.results, given.results, strict=True)):
        facts = [_facts(one, ran, number) for one, ran in zip(pair, (right, given), strict=True)]
        known = exact.results[number] if number < len(exact.results) else None
        differences, error = _compare(f"result {number}", pair, facts, known, op=op, values=values)
        found += differences
        errors += [] if error is None else [error]
    for number, pair in enumerate(zip(right.inputs, given.inputs, strict=True)):
        facts = [_facts(one, None, 0) for one in pair]
        known = exact.inputs[number] if exact.results else None
        differences, _ = _compare(f"input {number}", pair, facts, known, op=op, values=values)
        found += [NumericDifference(INPUTS, each.where, f"afterwards {each.text}") for each in differences]
    return Compared(found, max(errors, default=None))


def _facts(value: Any, ran: Ran | None, number: int) -> TensorFacts | None:
    """Return what is known of the result of a call with that number; None if it is not a tensor."""
    if not isinstance(value, torch.Tensor):
        return None
    dense = value.layout == torch.strided
    others: list[tuple[str, Any]] = []
    if ran is not None and dense:
        others += [(f"input {each}", tensor) for each, tensor in enumerate(ran.inputs)]
        others += [(f"result {each}", tensor) for each, tensor in enumerate(ran.results[:number])]
    shares = tuple(name for name, tensor in others if _share_storage(value, tensor))
    dtype, layout = (str(each).removeprefix("torch.") for each in (value.dtype, value.layout))
    return TensorFacts(dtype, tuple(value.shape), layout, tuple(value.stride()) if dense else None, shares)


def _share_storage(one: torch.Tensor, other: Any) -> bool:
    if not isinstance(other, torch.Tensor) or other.layout != torch.strided:
        return False
    # An empty storage has no address.
    address = one.untyped_storage().data_ptr()
    return bool(address and address == other.untyped_storage().data_ptr())


def _compare(
    where: str, pair: tuple[Any, Any], facts: Sequence[TensorFacts | None], truth: Any, *, op: str, values: bool
) -> Compared:
    own, others = facts
    if own is None or others is None:
        return _compare_plain(where, *pair, values=values)
    found = facts_differences(where, own, others)
    if own.shape != others.shape or not values:
        return Compared(found, None)
    relative, absolute = tolerance(own.dtype, op)
    error, fits = _largest_error(*pair, relative, absolute)
    if not fits and isinstance(truth, torch.Tensor) and truth.shape == own.shape:
        allowed = _largest_error(truth, pair[0], 0.0, 0.0)[0] + _HALF_TOLERANCE
        fits = _largest_error(truth, pair[1], 0.0, 0.0)[0] <= allowed
    if not fits:
        text = f"values differ by up to {number_text(error)}; {own.dtype} allows {relative:g} * |x| + {absolute:g}"
        found.append(NumericDifference(VALUES, where, text))
    return Compared(found, error)


def _compare_plain(where: str, right: Any, given: Any, *, values: bool) -> Compared:
    """Compare two results that are not both tensors."""
    if type(right) is not type(given):
        text = f"a {class_name(given)}, not a {class_name(right)}"
        return Compared([NumericDifference(RESULTS, where, text)], None)
    both_nan = isinstance(right, float) and math.isnan(right) and math.isnan(given)
    if not values or both_nan or right == given:
        return Compared([], None)
    text = f"{safe_repr(given, 40)}, not {safe_repr(right, 40)}"
    return Compared([NumericDifference(VALUES, where, text)], None)


def _largest_error(right: torch.Tensor, given: torch.Tensor, relative: float, absolute: float) -> tuple[float, bool]:
    """Return the largest difference of two elements, and whether all are within the tolerance; NaN equals NaN."""
    if not right.numel():
        return 0.0, True
    one, other = _wide(right), _wide(given)
    difference = (one - other).abs().to(torch.float64)
    same = (one == other) | (one.isnan() & other.isnan())
    difference = torch.where(same, 0.0, torch.nan_to_num(difference, math.inf, math.inf))
    allowed = absolute + relative * torch.where(one.isfinite(), one.abs().to(torch.float64), 0.0)
    return float(difference.max()), bool((difference <= allowed).all())


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values of a tensor in the widest dtype of their kind."""
    plain = tensor.detach().cpu()
    if plain.is_quantized:
        plain = plain.dequantize()
    elif plain.layout != torch.strided:
        plain = plain.to_dense()
    if plain.is_complex():
        return plain.resolve_conj().to(torch.complex128)
    return plain.to(torch.float64 if plain.is_floating_point() else torch.int64)
