"""Ways in which programs come from programs, and exports that fail in odd ways: generators for tests and torture.

Every program here is one graph or two, so that a search by the graph would find the history of another program.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import random
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from odd_exceptions import frames, odd_exception
from torch.export import ExportedProgram, export
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager

import decomp_ledger as dl
from decomp_ledger.pytorch import program_history

SILU = torch.ops.aten.silu.default


class Small(torch.nn.Module):
    """One op that is decomposed by Python."""

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.silu(x)


def exported() -> ExportedProgram:
    """Return a new program; all of them have equal graphs."""
    return export(Small(), (torch.ones(3),))


class Rebuilt(PassBase):
    """A pass that makes a new graph module, as those of ExecuTorch do; its `meta` is empty."""

    def call(self, graph_module: Any) -> PassResult:
        return PassResult(torch.fx.GraphModule(graph_module, copy.deepcopy(graph_module.graph)), True)


def retargeted(graph_module: Any) -> PassResult:
    """Be a pass that changes a graph in place."""
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and "sigmoid" in str(node.target):
            node.target = torch.ops.aten.tanh.default
    graph_module.recompile()
    return PassResult(graph_module, True)


class Wrapped(torch.nn.Module):
    """A module in a module. Not `Sequential`: its argument `input` gets another name when a graph is copied."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x)


def rooted(program: ExportedProgram, graph_module: Any) -> ExportedProgram:
    """Make a program of a graph module and of another program's parts, as `to_edge` of ExecuTorch does."""
    return ExportedProgram(
        root=graph_module,
        graph=graph_module.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=copy.deepcopy(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants=program.constants,
    )


def loaded(program: ExportedProgram) -> ExportedProgram:
    """Save a program, and load it."""
    file = io.BytesIO()
    torch.export.save(program, file)
    return torch.export.load(io.BytesIO(file.getvalue()))


# What keeps the history within a recording. Those of KEEP_ALWAYS keep it outside of recordings too.
KEEP_ALWAYS: dict[str, Callable[[ExportedProgram], ExportedProgram]] = {
    "itself": lambda program: program,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "_update with its own graph": lambda program: program._update(program.graph_module, program.graph_signature),
    "a pass in place": lambda program: (retargeted(program.graph_module), program)[1],
    "_transform_do_not_use": lambda program: program._transform_do_not_use(retargeted),
    "_transform_do_not_use with a new graph": lambda program: program._transform_do_not_use(Rebuilt()),
    "module() exported again": lambda program: export(program.module(), (torch.ones(3),), strict=False),
}
KEEP: dict[str, Callable[[ExportedProgram], ExportedProgram]] = {
    **KEEP_ALWAYS,
    "_update with a new graph": lambda program: program._update(
        torch.fx.GraphModule(program.graph_module, copy.deepcopy(program.graph)), program.graph_signature
    ),
    "a new program of a pass": lambda program: rooted(program, Rebuilt()(program.graph_module).graph_module),
    "a new program of passes": lambda program: rooted(
        program, PassManager([Rebuilt(), retargeted, Rebuilt()])(program.graph_module).graph_module
    ),
    "saved and loaded": loaded,
}
# Torch 2.6 makes a module without guards, and has no such option.
NO_GUARDS = {"check_guards": False} if "check_guards" in inspect.signature(ExportedProgram.module).parameters else {}
# What cannot be followed: the new program has no history, although its graph is the old one's.
LOSE: dict[str, Callable[[ExportedProgram], ExportedProgram]] = {
    "exported from the source": lambda program: exported(),
    "module() wrapped and exported": lambda program: export(
        Wrapped(program.module(**NO_GUARDS)), (torch.ones(3),), strict=False
    ),
    "its graph alone": lambda program: rooted(
        program, torch.fx.GraphModule(torch.nn.Module(), copy.deepcopy(program.graph))
    ),
    "saved as a stranger's": lambda program: _unstamped(program),
}


def _unstamped(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save.__wrapped__(program, file)  # torch's own, without the stamp
    return torch.export.load(io.BytesIO(file.getvalue()))


def stamp_of(program: ExportedProgram, **options: Any) -> tuple[dl.Stamp | None, bytes]:
    """Save a program; return its stamp, or None, and the file."""
    file = io.BytesIO()
    if program_history.history(program):
        dl.save(program, file, **options)
    else:
        torch.export.save(program, file)
    with contextlib.suppress(dl.StampError):
        return dl.read_stamp(file), file.getvalue()
    return None, file.getvalue()


def random_lives(rng: random.Random, folder: Path, steps: int) -> str:
    """Let programs of equal graphs live in two ledgers at once; return what a stamp has wrong, or ""."""
    names = ("acme", "umbrella")
    ledgers = {name: dl.Ledger(folder / f"{name}.db", actor=f"private-{name}") for name in names}
    tables = {name: ledgers[name].table("edge") for name in names}
    with dl.record(folder / "recording.db", name="public"):
        programs: list[tuple[ExportedProgram, tuple[str, ...]]] = [(exported(), ()) for _ in range(3)]
        for step in range(steps):
            program, history = rng.choice(programs)
            kind = rng.random()
            if kind < 0.4:
                name = rng.choice(names)
                with ledgers[name].because(f"private-{name}"):
                    tables[name].preserve(f"mylib::op{step}")
                    made = program.run_decompositions(tables[name].copy() if rng.random() < 0.2 else tables[name])
                history = (*history, name)
            elif kind < 0.9:
                made = rng.choice(list(KEEP.values()))(program)
            else:
                made, history = rng.choice(list(LOSE.values()))(program), ()
            programs.append((made, history))
            if wrong := _wrong_stamp(made, history, ledgers):
                return f"step {step}: {wrong}"
    for ledger in ledgers.values():
        ledger.close()
    return ""


def _wrong_stamp(program: ExportedProgram, history: tuple[str, ...], ledgers: dict[str, dl.Ledger]) -> str:
    stamp, content = stamp_of(program)
    ids = {ledger.id: name for name, ledger in ledgers.items()}
    found = () if stamp is None else tuple(ids[bundle.ledger] for bundle in stamp.bundles)
    if found != history:
        return f"the stamp has {found}, and the program went through {history}"
    strange = [name for name in ids.values() if name not in history and f"private-{name}".encode() in content]
    return f"the file names {strange}" if strange else ""


# Exceptions


STATES = ("fine", "closed", "read-only", "full", "removed", "locked")


def spoil(ledger: dl.Ledger, state: str) -> Any:
    """Bring a ledger into a state in which it may not be written; return what must be kept alive."""
    if state == "closed":
        ledger.close()
    if state == "read-only":
        ledger.database.connection.execute("PRAGMA query_only = ON")
    if state == "full":
        pages = ledger.database.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.database.connection.execute(f"PRAGMA max_page_count = {pages}")
        with contextlib.suppress(dl.LedgerError):
            for number in range(200):
                ledger.create_table("x" * 400 + str(number))
    if state == "removed":
        for file in Path(ledger.path).parent.glob(Path(ledger.path).name + "*"):
            file.unlink()
    if state == "locked":
        other = sqlite3.connect(ledger.path)
        other.execute("BEGIN IMMEDIATE")
        return other
    return None


def _arrives(error: BaseException, run: Callable[[], object]) -> str:
    """Tell what arrives when a function raises an exception through torch, which replaces some odd ones itself."""
    try:
        run()
    except BaseException as caught:
        if caught is not error:
            return f"another exception: {type.__dict__['__name__'].__get__(type(caught))}"
        return "the same" if "exploding" in frames(error) else f"the same, its traceback cut to {frames(error)}"
    return "nothing"


_armed: list[Any] = []  # the exception, and what happens before; not in a closure, whose values are recorded


def exploding(*args: Any) -> Any:
    """Be a decomposition that fails."""
    error, before = _armed
    before()
    raise error


def failing_export(seed: int, program: ExportedProgram, folder: Path) -> str:
    """Export with a decomposition that raises, while the ledger is in any state; return what is wrong, or ""."""
    rng = random.Random(seed)
    state, how = rng.choice(STATES), rng.choice(("table", "default", "plain"))
    on_error, strict = rng.choice(("warn", "raise")), rng.random() < 0.3
    case = f"{how}, {state}, on_error={on_error}, warnings {'are errors' if strict else 'are shown'}"
    alone, error = (odd_exception(random.Random(seed)) for _ in range(2))
    ledger, kept = dl.Ledger(folder / f"{seed}.db", timeout=0.05), list[Any]()

    def recorded() -> None:
        recording = dl.record(ledger, name="job", on_error=on_error)
        with contextlib.nullcontext() if how == "table" else recording, ledger.because("a reason"):
            table: Any = ledger.table("edge") if how == "table" else torch.export.default_decompositions()
            table[SILU] = exploding
            program.run_decompositions(dict(table) if how == "plain" else table)

    _armed[:] = [alone, lambda: None]
    expected = _arrives(alone, lambda: program.run_decompositions({SILU: exploding}))
    _armed[:] = [error, lambda: kept.append(spoil(ledger, state))]
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore", dl.RecordingWarning)
        found = _arrives(error, recorded)
        wrong = _wrong_record(ledger, case) if state == "fine" else ""
        for connection in filter(None, kept):
            connection.close()
        ledger.close()
    return wrong if found == expected else f"{case}: recorded, {found} arrives; unrecorded, {expected}"


def _wrong_record(ledger: dl.Ledger, case: str) -> str:
    bodies = [event.body for event in ledger.exports()]
    if len(bodies) != 1 or bodies[0].error is None or not ledger.verify().ok:  # type: ignore[attr-defined]
        return f"{case}: the export is not recorded as failed"
    return ""


def main(what: str, count: int, seed: int) -> None:
    """Print what is wrong, as a JSON list: of `count` lives of programs, or of failing exports."""
    warnings.simplefilter("ignore")
    program, wrong = exported(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            own = Path(folder, str(number))
            own.mkdir()
            if what == "lives":
                found = random_lives(random.Random(seed + number), own, steps=12)
            else:
                found = failing_export(seed + number, program, own)
            wrong += [f"[{number}] {found}"] if found else []
    print(json.dumps(wrong))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
