"""Choose sample calls for every op that some shipped torch decomposes by default or that is core, in samples.json.

    scripts/make-samples [--candidates FILE] [--only REGEX]

Candidates come, in this order, from the supplement (supplement.json, written by hand), from the inputs of torch's own
tests (OpInfo), from what these call inside and in their backward, from the schemas, and from changes of one argument
of these. Of the candidates of an op, those are chosen whose graphs differ most: another branch gives other nodes.
Collecting them takes some minutes; --candidates keeps them in FILE for the next run.

Run it with the newest torch that tests use, in an environment with numpy. Ops that this torch lacks have the samples
of the supplement alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import from_schema
import op_info
import torch

from decomp_ledger import catalogs
from decomp_ledger.model.behaviour import is_dynamic
from decomp_ledger.model.samples import SampleCall, parse_call, tensors_of
from decomp_ledger.pytorch import schema_samples
from decomp_ledger.pytorch.entries import own_decompositions
from decomp_ledger.pytorch.internals import find_operator, upstream_table
from decomp_ledger.pytorch.traces import trace_or_error

FOLDER = Path(__file__).parent
TARGET = FOLDER.parents[1] / "decomp_ledger" / "catalogs" / "samples.json"
# Samples of one op, if the supplement has fewer; of an op that changes an argument; candidates that are kept and tried.
MAX_SAMPLES, MAX_OF_MUTATING, MAX_KEPT, MAX_TRIED = 5, 2, 48, 36
# An op whose calls may end the process, or whose results depend on the build, so that nothing is tried for it.
NOT_TRIED = re.compile(
    r"^(quantized|profiler|sparse|prepacked|_test|mkldnn|inductor|_native_aot)::|_distributed|c10d|"
    r"_use_cudnn_|_nnpack_available|is_vulkan_available"
)


@functools.cache
def wanted() -> dict[str, str]:
    """Return the ops of all shipped default tables and the core ops of aten, each with its newest schema."""
    found: dict[str, str] = {}
    for version in catalogs.available():
        entries = catalogs.released(version).ops
        core = [op for op, entry in entries.items() if "core" in entry.tags and op.startswith("aten::")]
        found.update((op, entries[op].schema) for op in (*catalogs.released(version).defaults, *core))
    return dict(sorted(found.items()))


def operator(name: str) -> Any | None:
    """Return the operator of that name in this torch, or None."""
    qualified, _, overload = name.partition(".")
    return find_operator(qualified, overload)


def decompositions() -> dict[str, Any]:
    """Return the decompositions of this torch by op: those of its default table, others that it has, else core ops."""
    found = {op.name(): decomposition for op, decomposition in upstream_table().items()}
    for name in wanted():
        if name not in found and (op := operator(name)) is not None:
            known = own_decompositions(op)
            if known:
                found[name] = next(iter(known.values()))
            elif torch.Tag.core in op.tags:
                found[name] = op
    return found


def collect() -> dict[str, list[str]]:
    """Return candidate calls from OpInfo by op, as text."""
    names = {name for name in wanted() if operator(name) is not None}
    functional = {base for name in names for base in _functional_names(name)}
    overloads = defaultdict(list)
    for name in sorted({*names, *functional}):
        overloads[name.partition("::")[2].partition(".")[0]].append(name)
    found: dict[str, dict[str, None]] = defaultdict(dict)

    def keep(name: str, call: SampleCall | None) -> None:
        text = from_schema.canonical(call) if call is not None and from_schema.fits(operator(name), call) else None
        if text is not None and len(text) < 300 and len(found[name]) < MAX_KEPT:
            found[name][text] = None

    for number, (bases, function, samples) in enumerate(op_info.inputs_by_op()):
        print(f"\r{number} {sorted(bases)[0]:50.50}", end="", file=sys.stderr)
        for sample in samples:
            call = from_schema.sample_of((sample.input, *sample.args), sample.kwargs)
            for name in (name for base in bases for name in overloads.get(base, ())):
                if call is not None and from_schema.works(operator(name), call):
                    keep(name, call)
        for sample in samples[:12]:
            for name, (args, kwargs) in op_info.calls_inside(function, sample):
                if name in names or name in functional:
                    keep(name, from_schema.sample_of(args, kwargs))
    return {name: [*texts] for name, texts in sorted(found.items())}


def _functional_names(name: str) -> Iterator[str]:
    """Yield the names of ops that may be the functional form of one that changes an argument."""
    family, _, overload = name.partition(".")
    if family.endswith("_") and not family.endswith("__"):
        yield f"{family[:-1]}.{overload}".rstrip(".")
    if "out" in overload or overload == "grad_input":
        parts = [part for part in overload.split("_") if part not in ("out", "grad", "input")]
        yield f"{family}.{'_'.join(parts)}".rstrip(".")
        yield family
        for other in ("Tensor", "default"):
            yield f"{family}.{other}"
        packet = getattr(torch.ops.aten, family.partition("::")[2], None)
        for each in packet.overloads() if packet is not None else ():
            yield f"{family}.{each}".removesuffix(".default")


def candidates(name: str, op: Any, collected: dict[str, list[str]], written: list[str]) -> Iterator[str]:
    """Yield the candidate calls of an op as text, the supplement's first; a call may come twice."""
    yield from written
    # From short to long: the long ones have more arguments.
    known = sorted(collected.get(name, ()), key=len)
    known = known[:: max(1, len(known) // MAX_TRIED * 2)][: MAX_TRIED // 2]
    yield from known
    derived = []
    for base in _functional_names(name):
        functional = operator(base)
        if functional is None or base == name:
            continue
        for text in (*written_by_op().get(base, ()), *sorted(collected.get(base, ()), key=len)[:6]):
            call = _derived(op, functional, parse_call(text))
            if call is not None:
                derived.append(call)
    yield from derived
    bases = [*written, *known[:3], *derived[:2]]
    if not bases:
        for functional_base in _functional_names(name):
            functional = operator(functional_base)
            for call in schema_samples.made(functional) if functional is not None else ():
                if from_schema.works(functional, call) and (text := _derived(op, functional, call)):
                    bases.append(text)
                    yield text
        for call in schema_samples.made(op):
            if (text := from_schema.canonical(call)) and from_schema.works(op, call):
                bases.append(text)
                yield text
    if not _mutates(op):
        for text in bases[:4]:
            if text.startswith("("):
                for call in from_schema.varied(op, parse_call(text)):
                    if (changed := from_schema.canonical(call)) and from_schema.works(op, call):
                        yield changed


def _derived(op: Any, functional: Any, call: SampleCall) -> str | None:
    """Return the call of an op that changes an argument, from a call of its functional form."""
    try:
        if any(argument.is_out for argument in op._schema.arguments):
            made = from_schema.with_outputs(op, functional, call)
        else:
            made = call
    except Exception:  # the functional form refuses the call
        return None
    return from_schema.canonical(made) if made is not None and from_schema.works(op, made) else None


def _mutates(op: Any) -> bool:
    return bool(op._schema.is_mutable)


def signature(lines: Iterable[str]) -> str:
    """Return what tells the branch that a trace took: its ops and flags, without shapes, dtypes and numbers."""
    text = "\n".join(re.sub(r": [^:'\"]*$", "", line) for line in lines)
    text = re.sub(r"\b(b8|u8|i8|i16|i32|i64|b?f16|f32|f64|c32|c64|c128)\b", "T", text)
    text = re.sub(r"(?<![%x\w])-?\d+(\.\d+)?(e-?\d+)?", "#", text)
    return re.sub(r"\[#(, #)*\]", "[#]", text)


def choose(job: Job) -> Chosen:
    """Return an op with its chosen samples, and an error if no candidate gave a graph."""
    name, written = job
    op, decomposition = operator(name), DECOMPOSITIONS.get(name)
    if op is None or decomposition is None or (NOT_TRIED.search(name) and not written):
        return name, written, "" if written else "not tried"
    limit = MAX_OF_MUTATING if _mutates(op) else MAX_SAMPLES
    chosen: list[str] = [*written]
    graphs, errors = {}, {}
    seen: set[str] = set()
    for text in written:
        lines = trace_or_error(decomposition, text)
        graphs[text] = lines
        seen.add(lines if isinstance(lines, str) else signature(lines))
    others: list[str] = []
    for tried, text in enumerate(dict.fromkeys(candidates(name, op, COLLECTED, written))):
        if tried > MAX_TRIED or (len(chosen) >= limit and len(chosen) > len(written)):
            break
        if text in graphs:
            continue
        lines = trace_or_error(decomposition, text)
        if isinstance(lines, str):
            errors[text] = lines
            continue
        graphs[text] = lines
        if signature(lines) not in seen and len(chosen) < limit:
            chosen.append(text)
            seen.add(signature(lines))
        else:
            others.append(text)
    digests = {str(graphs[text]) for text in chosen}
    for text in sorted(others, key=_preference):
        if len(chosen) >= 2:
            break
        if str(graphs[text]) not in digests:
            chosen.append(text)
            digests.add(str(graphs[text]))
    good = [text for text in chosen if not isinstance(graphs[text], str)]
    if not good and errors and not written:
        return name, [*errors][:1], next(iter(errors.values()))
    if not _mutates(op) and not any(is_dynamic(text) for text in chosen):
        chosen += _dynamic(decomposition, [*good, *others])
    return name, chosen, ""


def choose_all(jobs: list[Job], processes: int) -> Iterator[Chosen]:
    """Yield what `choose` returns for each job, from forked processes; an op may end its process."""
    waiting = [*reversed(jobs)]
    busy: dict[Connection, Job] = {}
    while waiting or busy:
        while waiting and len(busy) < processes:
            _give(_new_worker(), busy, waiting)
        for connection in wait([*busy]):
            job = busy.pop(connection)
            try:
                yield connection.recv()
            except EOFError:
                yield job[0], job[1], "" if job[1] else "a call of it ends the process"
                continue
            if waiting:
                _give(connection, busy, waiting)
            else:
                connection.send(None)


def _give(connection: Connection, busy: dict[Connection, Job], waiting: list[Job]) -> None:
    busy[connection] = waiting.pop()
    connection.send(busy[connection])


def _new_worker() -> Connection:
    ours, theirs = multiprocessing.Pipe()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    while (job := theirs.recv()) is not None:
        theirs.send(choose(job))
    os._exit(0)


def _preference(text: str) -> tuple[bool, int]:
    """Sort other dtypes than float32 first, then short calls."""
    return (not re.search(r"\b(bf16|i64|f64|c64|b8)\b", text), len(text))


def _dynamic(decomposition: Any, texts: list[str]) -> list[str]:
    """Return the first call with a tensor of several elements that can be traced with dynamic shapes, as such."""
    for text in texts[:4]:
        call = parse_call(text)
        if any(max(tensor.shape, default=0) > 1 for tensor in tensors_of(call)):
            changed = str(SampleCall(call.args, call.kwargs, True))
            if not isinstance(trace_or_error(decomposition, changed), str):
                return [changed]
    return []


def written_by_op() -> dict[str, list[str]]:
    """Return the calls of the supplement by op."""
    return SUPPLEMENT["samples"]  # type: ignore[no-any-return]


def write(samples: dict[str, list[str]], without: dict[str, str]) -> None:
    """Write samples.json: one line a call, so that a change can be reviewed."""
    value = {"format": 1, "samples": dict(sorted(samples.items())), "without": dict(sorted(without.items()))}
    TARGET.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def reason(name: str, schema: str, error: str) -> str:
    """Return why an op has no sample."""
    for pattern, text in SUPPLEMENT["without"].items():
        if re.search(pattern, name):
            return str(text)
    if "__torch__" in schema:
        return "it takes an object of TorchScript, which no text can give"
    return error or "no candidate call was accepted"


# The name of an op with its samples of the supplement; the same with all its samples, and with an error if none works.
Job = tuple[str, list[str]]
Chosen = tuple[str, list[str], str]
SUPPLEMENT: dict[str, Any] = json.loads((FOLDER / "supplement.json").read_text("utf-8"))
COLLECTED: dict[str, list[str]] = {}
DECOMPOSITIONS: dict[str, Any] = {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=Path, metavar="FILE", help="read the collected candidates, or write them")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--only", metavar="REGEX", help="choose again for these ops, and keep the others")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.candidates and arguments.candidates.exists():
        COLLECTED.update(json.loads(arguments.candidates.read_text("utf-8")))
    else:
        COLLECTED.update(collect())
        if arguments.candidates:
            arguments.candidates.write_text(json.dumps(COLLECTED), encoding="utf-8")
    DECOMPOSITIONS.update(decompositions())
    schemas = wanted()
    jobs = [(name, written_by_op().get(name, [])) for name in schemas]
    samples: dict[str, list[str]] = {}
    without: dict[str, str] = {}
    if arguments.only:
        jobs = [job for job in jobs if re.search(arguments.only, job[0])]
        chosen_again = {name for name, _ in jobs}
        samples.update((op, [*calls]) for op, calls in catalogs.samples().items() if op not in chosen_again)
        without.update((op, why) for op, why in catalogs.without_samples().items() if op not in chosen_again)
    for number, (name, chosen, error) in enumerate(choose_all(jobs, arguments.processes)):
        print(f"\r{number} of {len(jobs)} {name:50.50}", end="", file=sys.stderr)
        if chosen:
            samples[name] = chosen
        else:
            without[name] = reason(name, schemas[name], error)
    write(samples, without)
    print(f"\n{len(samples)} ops with {sum(map(len, samples.values()))} samples, {len(without)} without")
    return 0


if __name__ == "__main__":
    sys.exit(main())
