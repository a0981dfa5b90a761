"""Sample calls of several ops, as the file samples.json has them and as callers give them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decomp_ledger.errors import SampleError, UnusableValue
from decomp_ledger.model import op_names
from decomp_ledger.model.json_values import as_object, as_strings
from decomp_ledger.model.limits import SAMPLE_CALLS
from decomp_ledger.model.samples import parse_call

__all__ = ["canonical_samples", "samples_from_json"]

_FORMAT = 1
_FORM = '{"format": 1, "samples": {"mylib::f": ["(f32[2, 3])"]}}'


def samples_from_json(value: object) -> dict[str, tuple[str, ...]]:
    """Check and read the sample calls of a file of any origin, in the form of the shipped samples.json.

    Returns:
        op name -> the canonical texts of its calls, each once. The reasons in `without` are left out.

    Raises:
        SampleError: it has another form, or a text is not a sample call.
        InvalidName: a text names no op.
    """
    try:
        fields = as_object(value)
        if unknown := sorted(fields.keys() - {"format", "samples", "without"}):
            raise UnusableValue(f"the field {unknown[0]!r:.40} is unknown")
        if fields.get("format") != _FORMAT or isinstance(fields["format"], bool):
            raise UnusableValue(f"its format is {fields.get('format')!r:.40}, not {_FORMAT}")
        texts = {op: as_strings(calls) for op, calls in as_object(fields.get("samples")).items()}
    except UnusableValue as error:
        raise SampleError(f"samples: {error}; write them like {_FORM}") from None
    return canonical_samples(texts)


def canonical_samples(samples: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return sample calls with the canonical names of their ops and the canonical texts of their calls, each once.

    Raises:
        SampleError: a text is not a sample call, or there are too many calls.
        InvalidName: a text names no op.
    """
    count = sum(map(len, samples.values()))
    if count > SAMPLE_CALLS:
        raise SampleError(f"samples: {count} calls; give at most {SAMPLE_CALLS}")
    found: dict[str, dict[str, None]] = {}
    for op, calls in samples.items():
        own = found.setdefault(op_names.normalize(op), {})
        try:
            own.update(dict.fromkeys(str(parse_call(call)) for call in calls))
        except SampleError as error:
            raise SampleError(f"{op}: {error}") from None
    return {op: tuple(calls) for op, calls in found.items()}
