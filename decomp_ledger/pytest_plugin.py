"""The recordings that the pytest plugin makes: each test has its own, named by the test's id.

`pytest_decomp_ledger.py`, next to the package, is what pytest imports. It imports this module once a run asks for it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import click

from decomp_ledger import queries
from decomp_ledger.analysis.advice import Why
from decomp_ledger.analysis.outcome import DECOMPOSED, EMITTED, KEPT, KEPT_STALE, NOT_IN_PROGRAM
from decomp_ledger.cli.explain_commands import explanation_lines
from decomp_ledger.cli.output import LedgerOption, at_text, count, event_lines, printable
from decomp_ledger.cli.run_command import last_seq
from decomp_ledger.errors import InvalidName, UnknownOp, UnusableValue
from decomp_ledger.ledger import Ledger, record
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model.arguments import shown
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.model.op_names import check_label
from decomp_ledger.model.state_specs import not_an_export
from decomp_ledger.pytorch.program_history import history
from decomp_ledger.queries import State
from decomp_ledger.storage.file_checks import absolute

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

__all__ = ["PytestSession", "RecordedTest", "recording_name"]

_MAX_NAME = 150  # characters of a recording's name; a table's name has the rest
_DIGEST = 8
_MAX_OPS = 10  # that a message about two graphs explains


def recording_name(test: str) -> str:
    """Return the name of a test's recording: its id, with `/` for `::`.

    An id that has other characters than a name may have, or is too long, ends with a digest, so that no two ids of a
    run have one name.

    Args:
        test: its id, such as `tests/test_export.py::test_llama[2]`.
    """
    plain = test.replace("::", "/")
    name = "".join(c if c.isprintable() and c not in "@:~" else "_" for c in plain).strip()
    try:
        if name == plain and len(name) <= _MAX_NAME:
            return check_label(name, "a test")
    except InvalidName:
        pass
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{name[: _MAX_NAME - _DIGEST - 1]}-{digest}"


class PytestSession:
    """The recordings of one run of pytest, or of one worker of pytest-xdist.

    Actor and trusted modules are those that the project says, as for `decomp-ledger run`.

    Args:
        path: the ledger; None for one in memory.

    Attributes:
        path: its absolute name, or None.
        ledger: the ledger.

    Raises:
        LedgerFileError: the file is not a ledger, or cannot be written.
        UnusableValue: the settings of the project cannot be used.
    """

    def __init__(self, path: str | None) -> None:
        found = project_settings()
        option = LedgerOption(":memory:" if path is None else absolute(path), True, found.actor, found.trust)
        self.path = None if path is None else option.path
        self._shown = path
        self._after = 0 if self.path is None else last_seq(option)
        self.ledger = Ledger(option.path, actor=option.actor_or(None), trust=option.trust, lazy=True)
        self._names: set[str] = set()

    def begin(self, test: str) -> RecordedTest:
        """Begin to record a test.

        Args:
            test: its id.
        """
        return RecordedTest(self.ledger, test)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    # Hooks of pytest. In a run with pytest-xdist, it calls them in the process that the user started.

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Remember which tests ran."""
        self._names.add(recording_name(nodeid))

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say in one line what was recorded."""
        terminalreporter.write_line(f"decomp-ledger: {printable(self.summary())}")

    def summary(self) -> str:
        """Return how much the tests recorded, in one line; those that crashed included."""
        tables, tests, exports, failed = set(), set(), 0, 0
        for event in _events_after(self.ledger, self._after):
            test = self._test_of(event.table)
            if test is None:
                continue  # of another program, which uses the ledger too
            tables.add(event.table)
            tests.add(test)
            exports += isinstance(event.body, Exported)
            failed += isinstance(event.body, Exported) and event.body.error is not None
        if not tables:
            return "nothing was recorded: no test made a table or ran run_decompositions"
        parts = (count(exports, "export") + (f" ({failed} failed)" if failed else ""), count(len(tables), "table"))
        see = "exports" if exports else "tables"
        command = f"decomp-ledger --ledger {shlex.quote(str(self._shown))} {see}"
        return f"{', '.join(parts)} in {count(len(tests), 'test')} -> {self._shown}; see: {command}"

    def _test_of(self, table: str) -> str | None:
        """Return the test whose recording a table belongs to: the table's name begins with the recording's."""
        name, found, _ = table.rpartition("/")
        while found:
            if name in self._names:
                return name
            name, found, _ = name.rpartition("/")
        return None


class RecordedTest:
    """The recording of a test: what the fixture `decomp_ledger` gives.

    The assertions are about the newest export of the test, unless they name the program that another one returned.

    Args:
        ledger: where it is recorded.
        test: the test's id.

    Attributes:
        ledger: likewise.
        test: likewise.
        name: the name of its recording, with which its tables' names begin.
    """

    def __init__(self, ledger: Ledger, test: str) -> None:
        self.ledger = ledger
        self.test = test
        self.name = recording_name(test)
        self._after = _last_seq(ledger)
        self._recording = record(ledger, name=self.name)
        self._recording.enter()

    def __repr__(self) -> str:
        return f"<RecordedTest {self.test}: {self.ledger.path}>"

    def end(self) -> None:
        """End the recording; pytest calls this after the test's last fixture."""
        self._recording.__exit__(None, None, None)

    @property
    def exports(self) -> list[Event]:
        """The exports that this test has run so far, oldest first; `export:<seq>` names each."""
        done = {export.hash for export in self._recording.exports}  # with a table that has a name of its own, too
        return [
            event
            for event in _events_after(self.ledger, self._after)
            if isinstance(event.body, Exported) and (event.hash in done or event.table.startswith(f"{self.name}/"))
        ]

    def assert_kept(self, op: object, *, program: object = None) -> None:
        """Assert that an export kept an op of its program in the graph.

        Args:
            op: its name, or an `OpOverload`. The name of a family means those of its overloads that the program has.
            program: what the export returned; None means the newest export of the test.

        Raises:
            AssertionError: it did not; the message has what `explain` answers, and the line that would keep the op.
            UnknownOp: the text names no op.
        """
        __tracebackhide__ = True
        self._assert_outcome(op, program, "kept", (KEPT, KEPT_STALE))

    def assert_decomposed(self, op: object, *, program: object = None) -> None:
        """Assert that an export decomposed an op.

        Args:
            op: its name, or an `OpOverload`. The name of a family means those of its overloads that the program has.
            program: what the export returned; None means the newest export of the test.

        Raises:
            AssertionError: it did not; the message has what `explain` answers, and the line that would decompose it.
            UnknownOp: the text names no op.
        """
        __tracebackhide__ = True
        self._assert_outcome(op, program, "decomposed", (DECOMPOSED,))

    def assert_same_graph_as(self, ref: object, *, program: object = None) -> None:
        """Assert that an export gave the graph of a reference. Names of nodes and values of weights do not count.

        Args:
            ref: an `ExportedProgram`; the path of a `.pt2`, which `torch.export.load` unpickles; or a state spec that
                names an export of the ledger (`export:7`).
            program: what the export returned; None means the newest export of the test. With it, the message shows the
                first node that differs.

        Raises:
            AssertionError: it gave another graph, or failed; the message names the ops whose number differs, and why.
            LedgerError: the reference cannot be read.
        """
        __tracebackhide__ = True
        export = self._export(program, "the graph")
        wanted = _reference(ref, self.ledger)
        digest = _body(export).after
        if digest is None or wanted.digest is None:
            which = f"{wanted.name}" if wanted.digest is None else f"export:{export.seq}"
            self._fail(f"the result of {which} is not known", export, [])
        if digest != wanted.digest:
            self._fail(
                f"export:{export.seq} did not give the graph of {wanted.name}",
                export,
                self._differences(export, program, wanted),
            )

    def _assert_outcome(self, op: object, program: object, wanted: str, accepted: Sequence[str]) -> None:
        __tracebackhide__ = True
        export = self._export(program, shown(op) if not isinstance(op, str) else op)
        answers = queries.why(op, f"export:{export.seq}", ledger=self.ledger)
        # Of a family, the overloads that the program has. If it has none of them, all of them are named.
        own = [each for each in answers if each.answer.outcome not in (NOT_IN_PROGRAM, EMITTED)] or answers
        wrong = [each for each in own if each.answer.outcome not in accepted]
        if wrong:
            ops = ", ".join(each.answer.op for each in wrong)
            lines = [line for each in wrong for line in _explained(each, wanted)]
            self._fail(f"export:{export.seq} has not {wanted} {ops}", export, lines)

    def _export(self, program: object, what: str) -> Event:
        """Return the export that an assertion is about."""
        __tracebackhide__ = True
        if program is not None:
            return self._export_of(program)
        exports = self.exports
        if not exports:
            raise AssertionError(f"{self.test}: {what} is not known, because {self._why_no_export()}")
        return exports[-1]

    def _export_of(self, program: object) -> Event:
        for bundle in reversed(history(program)):
            if bundle.ledger == self.ledger.id:
                return self.ledger.export(bundle.event.seq)
        raise UnusableValue(
            f"program={shown(type(program).__name__)}: no export that is recorded in {self.ledger.path} returned it; "
            "give what run_decompositions() returned in this test, or in another one that is recorded there"
        )

    def _why_no_export(self) -> str:
        if self._recording.stopped:
            return "the recording has stopped; a RecordingWarning says why"
        if "torch" not in sys.modules:
            return "the test did not import torch"
        return (
            "no export ran in this test: run_decompositions() was not called, and torch.export.export() lowers nothing"
        )

    def _differences(self, export: Event, program: object, wanted: _Reference) -> list[str]:
        """Return why an export gave another graph than a reference, as lines."""
        here, there = _body(export).ops_after, wanted.counts
        ops = [op for op in sorted({*here, *there}) if here.get(op, 0) != there.get(op, 0)]
        lines = [] if ops else ["both have the same ops; the order, the arguments, the shapes or the dtypes differ"]
        for op in ops[:_MAX_OPS]:
            lines.append(f"{op}: {there.get(op, 0)} in {wanted.name}, {here.get(op, 0)} here{self._why(op, export)}")
        lines += [f"and {len(ops) - _MAX_OPS} more ops"] if len(ops) > _MAX_OPS else []
        if wanted.program is not None and program is not None:
            from decomp_ledger.pytorch.graph_digest import first_difference

            found = first_difference(wanted.program, program)
            if found is not None:
                lines += [f"the first node that differs is node {found.index}"]
                lines += [f"  {wanted.name}: {found.left or '(its end)'}", f"  here: {found.right or '(its end)'}"]
        return [printable(line) for line in lines]

    def _why(self, op: str, export: Event) -> str:
        """Return what became of an op in an export, and who made its rule, as the end of a sentence."""
        try:
            answers = queries.explain(op, f"export:{export.seq}", ledger=self.ledger)
        except UnknownOp:
            return ", where no loaded library has the op"
        for answer in answers:
            if answer.op == op:
                by = "".join(f" (by {event.actor}{at_text(event)})" for event in answer.events[-1:])
                return f": {answer.outcome}, since {answer.because}{by}"
        return ""

    def _fail(self, problem: str, export: Event, lines: Sequence[str]) -> NoReturn:
        __tracebackhide__ = True
        text = [printable(problem), *lines, "the export:", *event_lines(export)]
        raise AssertionError("\n".join(map(click.unstyle, text)))


@attrs.frozen
class _Reference:
    """A graph to compare with.

    Attributes:
        name: what people call it.
        digest: its graph digest; None if it is not known.
        counts: op -> number of its nodes.
        program: the program; None if only a ledger knows it.
    """

    name: str
    digest: str | None
    counts: Mapping[str, int]
    program: Any = None


def _reference(ref: Any, ledger: Ledger) -> _Reference:
    if isinstance(ref, (str, os.PathLike)) and os.fspath(ref).endswith(".pt2"):
        from decomp_ledger.pytorch.reproduced_table import load_program

        return _of_program(os.fspath(ref), load_program(os.fspath(ref)))
    if hasattr(ref, "graph_module"):
        return _of_program("the given program", ref)
    spec: State = ref
    found = queries.show(spec, ledger=ledger)
    if found.bundle is None:
        raise not_an_export(found.name)
    return _Reference(found.name, found.bundle.body.after, found.bundle.body.ops_after)


def _of_program(name: str, program: Any) -> _Reference:
    from decomp_ledger.pytorch.graph_digest import graph_digest, op_histogram

    return _Reference(name, graph_digest(program), op_histogram(program), program)


def _explained(found: Why, wanted: str) -> Iterator[str]:
    """Give the lines of an answer, and what would change it."""
    yield from explanation_lines(found.answer)
    if wanted == "kept":
        yield printable(f"  to keep it: {found.keep}")
    else:
        yield printable(f"  to decompose it: {found.decompose}")


def _body(export: Event) -> Exported:
    if not isinstance(export.body, Exported):
        raise not_an_export(f"#{export.seq}")
    return export.body


def _last_seq(ledger: Ledger) -> int:
    return ledger.event_store.head()[0] if _exists(ledger) else 0


def _events_after(ledger: Ledger, seq: int) -> Iterator[Event]:
    return ledger.events(gt=seq) if _exists(ledger) else iter(())


def _exists(ledger: Ledger) -> bool:
    """Tell whether a ledger has a file yet, because a look into it would make one."""
    return ledger.database.in_memory or os.path.exists(ledger.path)  # noqa: PTH110  # of any name
