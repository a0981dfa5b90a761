"""Ledger: the facade. It may use every other part, and only the command line uses it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decomp_ledger import gates, queries
from decomp_ledger.analysis.advice import Why
from decomp_ledger.analysis.drift import Drift
from decomp_ledger.analysis.explain import Explanation
from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.gate import GateResult
from decomp_ledger.analysis.numerics import NumericsCheck, ProgramCheck
from decomp_ledger.analysis.op_releases import OpReleases
from decomp_ledger.analysis.opset_check import OpsetCheck
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.analysis.upgrade import Upgrade
from decomp_ledger.errors import DamagedSchema, LedgerError, LedgerFileError, UnusableValue
from decomp_ledger.hub import clone as cloning
from decomp_ledger.hub import push as pushing
from decomp_ledger.hub.clone import Fetched
from decomp_ledger.hub.naming import hub_url
from decomp_ledger.hub.push import Pushed
from decomp_ledger.hub.verify import anchors_in
from decomp_ledger.integrity.allowed_signers import Signer
from decomp_ledger.integrity.checkpoints import Checkpoint, sign_head
from decomp_ledger.integrity.ssh_signatures import SigningKey, load_key
from decomp_ledger.integrity.verify import Verification, refused
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.settings import project_settings
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.display import Rows
from decomp_ledger.model.events import Event
from decomp_ledger.model.policy import Policy
from decomp_ledger.model.rules import RuleDiff
from decomp_ledger.pytorch import patches
from decomp_ledger.pytorch.children import Children
from decomp_ledger.pytorch.recording import Recording
from decomp_ledger.queries import RecordedEvent, Reproduction, ResolvedState, State, StateDiff, UpgradeReport
from decomp_ledger.reports import pages
from decomp_ledger.storage import backup as backups
from decomp_ledger.storage.new_file import write_text
from decomp_ledger.transfer import jsonl
from decomp_ledger.transfer.export_bundle import ExportBundle

if TYPE_CHECKING:
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable
    from decomp_ledger.pytorch.table import DecompTable
    from decomp_ledger.pytorch.would_change import WouldChange

__all__ = ["Ledger", "browse", "record"]


@checked
class Ledger(LedgerLog):
    """An append-only file of decomposition tables.

    Args:
        path: the file, created or migrated if needed; ":memory:" keeps it in memory.
        actor: who acts; else `DECOMP_LEDGER_ACTOR`, git's user, or the login name.
        reason: why, for every event that has no reason of its own.
        trust: names of modules (with their submodules) that may be imported to find recorded decompositions.
        read_only: never write to the file.
        timeout: seconds to wait for another writer.
        lazy: open the file when it is first needed; errors in it are then raised there.
        durability: "process" (default) or "power": what an event survives once the call returned.
        policy: what :meth:`gate` judges by, and what changes must hold to if it is enforced; None takes the
            `[tool.decomp-ledger.policy]` of the project of the current folder.

    Raises:
        LedgerFileError: the file is not a ledger, or cannot be opened.
        SchemaError: a newer version wrote it.
    """

    # Tables

    def table(self, name: str, *, base: str = "torch") -> DecompTable:
        """Create or resume a table, as the dict that `run_decompositions` takes. This imports torch.

        Args:
            name: its name; a series of recorded tables means its newest run.
            base: for a new table: `torch` (its default table), `empty`, or another table's state (`edge@3`).

        Raises:
            InvalidName: the text cannot name a table.
            LedgerError: the table exists with another base.
        """
        from decomp_ledger.pytorch.table import DecompTable

        patches.install("tables")  # exports with a named table are then recorded; all other exports pass through
        return DecompTable(self.create_table(name, base=base))

    def create_table(self, name: str, *, base: str = "torch") -> TableLog:
        """Create or resume a table without torch.

        Args:
            name: its name.
            base: for a new table: `torch` (its default table), `empty`, or another table's state (`edge@3`).

        Raises:
            InvalidName: the text cannot name a table.
            LedgerError: the table exists with another base.
        """
        return TableLog.create_or_open(self, name, base)

    def table_log(self, name: str) -> TableLog:
        """Open a table without torch: its history, its states, and the changes that need no callable.

        Raises:
            UnknownTable: the ledger has no table of that name.
        """
        return TableLog.open(self, name)

    def tag(self, spec: str, name: str, *, reason: str | None = None) -> Event | None:
        """Name a version permanently.

        Args:
            spec: `edge` for the newest version, or `edge@3`.
            name: the tag. It must not look like a number.
            reason: why.

        Returns:
            The event; None if the version already has the tag.

        Raises:
            UnknownTable: the ledger has no such table.
            UnknownVersion: the table has no such version.
            InvalidName: the text cannot name a tag.
            VersionConflict: another version has the tag.
        """
        table, version = self.locate(spec)
        return self.table_log(table).tag(name, version, reason=reason)

    def revert(
        self, table: str, to: int | str, *, reason: str | None = None, expected_version: int | None = None
    ) -> Event | None:
        """Bring back the rules of an earlier version, by appending one event.

        Args:
            table: the table's name.
            to: the version: a number or a tag.
            reason: why.
            expected_version: the version that the table should have now.

        Returns:
            The event; None if the rules are already those.

        Raises:
            UnknownTable: the ledger has no such table.
            UnknownVersion: the table has no such version or tag.
            VersionConflict: the table is not at `expected_version`.
        """
        return self.table_log(table).revert(to, reason=reason, expected_version=expected_version)

    def provide(self, op: object, fn: Callable[..., Any]) -> None:
        """Supply the function of a recorded decomposition that cannot be imported by name, such as a lambda.

        Args:
            op: the op that it decomposes: a name or an `OpOverload`. The name of a family means those of its overloads
                that the ledger has.
            fn: the function. Its source must be the recorded one, which is checked when a table uses it.

        Raises:
            InvalidName: the text names no op.
            UnusableValue: the value is not an op, or the function is not callable.
        """
        names = queries.ops_of(op, self.changed_ops)
        if not callable(fn):
            raise UnusableValue(f"{names[0]}: its decomposition must be callable, not {type(fn).__name__}")
        for name in names:
            self.functions.provided.setdefault(name, []).append(fn)

    # Queries: each calls the function of that name in `queries` with this ledger.

    def show(self, spec: State | None = None) -> ResolvedState:
        """Return a table state with the facts that are known about it; see :func:`decomp_ledger.show`."""
        return queries.show(spec, ledger=self)

    def event(self, number: int) -> RecordedEvent:
        """Return one event with its environment and the decompositions that it names.

        Raises:
            UnknownEvent: the ledger has no such event.
        """
        return queries.event(number, ledger=self)

    def blame(self, spec: State | None = None, *, op: object = None) -> dict[str, Event]:
        """Return, for each op that has a rule, the event that set it; see :func:`decomp_ledger.blame`."""
        return queries.blame(spec, op=op, ledger=self)

    def explain(self, op: object, spec: State | None = None) -> Rows[Explanation]:
        """Return why an op is, or is not, decomposed; see :func:`decomp_ledger.explain`."""
        return queries.explain(op, spec, ledger=self)

    def changed_rules(self, number: int) -> tuple[RuleDiff, ...]:
        """Return the rules that one event changed, before and after it, by op; empty if it changed none.

        Args:
            number: the event's seq.

        Raises:
            LedgerError: the ledger has no such event.
        """
        return queries.changed_rules(number, ledger=self)

    def why(self, op: object, spec: State | None = None) -> Rows[Why]:
        """Return why an op is, or is not, decomposed, and the line that changes it; see :func:`decomp_ledger.why`."""
        return queries.why(op, spec, ledger=self)

    def explain_releases(self, op: object) -> Rows[OpReleases]:
        """Return what each torch release does with an op by default; see :func:`decomp_ledger.explain_releases`."""
        return queries.explain_releases(op)

    def export_totals(self, table: str | None = None) -> ExportTotals:
        """Return what all exports, or those of one table, show together.

        Args:
            table: only the exports of this table.

        Raises:
            UnknownTable: the ledger has no such table.
        """
        return queries.export_totals(table, ledger=self)

    def export_results(self, table: str | None = None) -> Rows[ExportResult]:
        """Return each export with what became of its result: an earlier export with the same graph, and files.

        Args:
            table: only the exports of this table.

        Raises:
            UnknownTable: the ledger has no such table.
        """
        return queries.export_results(table, ledger=self)

    def saved_file(self, file: str | os.PathLike[str]) -> Event:
        """Return the newest `saved` event of a file, which its content finds, under any name.

        Args:
            file: its path.

        Raises:
            MissingStamp: the ledger knows no file of that content.
            StampError: the file was changed after it was saved, or cannot be read.
        """
        return queries.saved_file(file, ledger=self)

    def check_opset(self, spec: State, opset: str | os.PathLike[str] = "core-aten") -> OpsetCheck:
        """Return the ops of a lowered program that a backend does not take; see :func:`decomp_ledger.check_opset`."""
        return queries.check_opset(spec, opset, ledger=self)

    def would_change(self, program: object, table: State | Mapping[object, object] | None = None) -> WouldChange:
        """Tell whether a lowering would change a program, and whether it was done before, without doing it.

        Args:
            program: an ExportedProgram, or the path of a `.pt2`, which `torch.export.load` unpickles.
            table: a table, a dict, or a state spec; None is torch's default table.

        Returns:
            What is known; it is true if the lowering would change the program.

        Raises:
            LedgerError: the spec names nothing.
            UnusableValue: the program is neither a program nor a path, or the table is not a table.
        """
        return queries.would_change(program, table, ledger=self)

    def diff(self, before: State, after: State | None = None, *, graphs: bool = False) -> StateDiff:
        """Return the difference between the rules of two states; see :func:`decomp_ledger.diff`."""
        return queries.diff(before, after, graphs=graphs, ledger=self)

    def drift(self, before: State, after: State, *, only_used: State | int | None = None) -> Drift:
        """Return the difference between two states with their catalogs; see :func:`decomp_ledger.drift`."""
        return queries.drift(before, after, only_used=only_used, ledger=self)

    def used_ops(self, spec: State | int) -> frozenset[str]:
        """Return the ops of an exported program; see :func:`decomp_ledger.used_ops`."""
        return queries.used_ops(spec, ledger=self)

    def upgrade(
        self, spec: State | None = None, *, torch: str | None = None, python: str | os.PathLike[str] | None = None
    ) -> Upgrade:
        """Return a table as it would be on another torch; see :func:`decomp_ledger.upgrade`."""
        return queries.upgrade(spec, torch=torch, python=python, ledger=self)

    def check_upgrade(
        self, spec: State | None = None, *, torch: str | None = None, python: str | os.PathLike[str] | None = None
    ) -> UpgradeReport:
        """Return whether exported programs stay what they are; see :func:`decomp_ledger.check_upgrade`."""
        return queries.check_upgrade(spec, torch=torch, python=python, ledger=self)

    def gate(
        self,
        spec: State | None = None,
        *,
        torch: str | None = None,
        policy: Policy | None = None,
        strict: bool = False,
        since: str | datetime.datetime | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> GateResult:
        """Judge programs and tables by policies and for another torch; see :func:`decomp_ledger.gate`."""
        return gates.gate(spec, torch=torch, policy=policy, strict=strict, since=since, progress=progress, ledger=self)

    def check_numerics(
        self,
        spec: State | None = None,
        *,
        defaults: bool = False,
        samples: Mapping[str, Sequence[str]] | str | os.PathLike[str] | None = None,
        trust: Sequence[str] = (),
        progress: Callable[[int, int], object] | None = None,
    ) -> NumericsCheck:
        """Compare each override of a table with the kernel of its op; see :func:`decomp_ledger.check_numerics`."""
        return queries.check_numerics(
            spec, defaults=defaults, samples=samples, trust=trust, progress=progress, ledger=self
        )

    def check_program(
        self,
        program: object,
        spec: State | None = None,
        *,
        defaults: bool = False,
        inputs: str | Sequence[object] | None = None,
        trust: Sequence[str] = (),
    ) -> ProgramCheck:
        """Run a program before and after it is lowered with a table; see :func:`decomp_ledger.check_program`."""
        return queries.check_program(program, spec, defaults=defaults, inputs=inputs, trust=trust, ledger=self)

    def report(
        self,
        spec: object = None,
        other: State | None = None,
        *,
        markdown: bool = False,
        graphs: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> str:
        """Return a page that shows an export, a table, a result or a difference; see :func:`decomp_ledger.report`."""
        return pages.report(spec, other, markdown=markdown, graphs=graphs, progress=progress, ledger=self)

    def browse(
        self,
        *,
        port: int = 0,
        open: bool = False,
        ready: Callable[[str], object] = print,
    ) -> None:
        """Serve the ledger to the browsers of this machine, for reading only, until KeyboardInterrupt.

        Args:
            port: the port; 0 means any free one.
            open: open a browser.
            ready: called with the address once it is served.

        Raises:
            LedgerError: the extra `web` is not installed, or the port cannot be used.
        """
        try:
            from decomp_ledger.web.server import serve
        except ImportError as error:
            raise LedgerError(f"browse: needs Datasette 0.65 ({error}); pip install 'decomp-ledger[web]'") from None
        serve(self, port=port, open=open, ready=ready)

    # Exports

    def bundle(self, number: int) -> ExportBundle:
        """Return an export with every fact that its table needs, as a stamp in a `.pt2` keeps it.

        Raises:
            UnknownExport: the ledger has no export of that number.
        """
        return ExportBundle.from_log(self, self.export(number))

    def reproduce(self, number: int, *, strict: bool = True) -> ReproducedTable:
        """Make again the exact table that an export was made with; see :func:`decomp_ledger.reproduce`.

        Args:
            number: the number of the export.
            strict: raise if anything differs; else return the nearest table, whose `differences` name each difference.

        Raises:
            UnknownExport: the ledger has no export of that number.
            ReproductionError: something differs.
        """
        from decomp_ledger.pytorch.reproduced_table import reproduce

        functions = self.functions
        return reproduce(self.bundle(number), trust=functions.trust, provide=functions.candidates(), strict=strict)

    def reproduce_export(
        self,
        spec: State | int,
        *,
        program: str | os.PathLike[str] | None = None,
        trust: Sequence[str] = (),
        nearest: bool = False,
    ) -> Reproduction:
        """Make the table of an export again, and run the export again; see :func:`decomp_ledger.reproduce_export`."""
        return queries.reproduce_export(spec, program=program, trust=trust, nearest=nearest, ledger=self)

    # Keeping

    def verify(
        self,
        *,
        expect: Sequence[str] = (),
        anchors: Sequence[tuple[int, str]] = (),
        signers: Sequence[Signer] | str | os.PathLike[str] | None = None,
        checkpoints: Sequence[Checkpoint | str | os.PathLike[str]] = (),
        against: Sequence[str | os.PathLike[str]] = (),
        hub: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Verification:
        """Check that nothing in the ledger was changed after it was written.

        A truncated chain, and a chain that was rewritten from its start, show only against facts kept elsewhere.

        Args:
            expect: hashes of events that the ledger had, in hex.
            anchors: (seq, hash) of such events; `read_stamp(file).anchors(ledger.id)` gives those of a `.pt2`.
            signers: whose signatures count, or a file of them: the ledger must have a checkpoint, and each of its
                checkpoints must be signed by one of them.
            checkpoints: checkpoints that were kept outside the ledger, or files of them.
            against: stamped `.pt2` files whose exports were recorded in this ledger.
            hub: the address of a hub that this ledger was pushed to.
            progress: called with the number of events read, and the number of all events.

        Raises:
            LedgerError: a hash is not one, or a file cannot be read.
            HubError: the hub cannot be used, or does not have this ledger.
        """
        try:
            pushed = () if hub is None else anchors_in(self, hub)[1]
        except DamagedSchema as error:
            return refused(error)
        return queries.verify(
            self,
            expect=expect,
            anchors=(*anchors, *pushed),
            signers=signers,
            checkpoints=checkpoints,
            against=against,
            progress=progress,
        )

    def push(
        self, hub: str | None = None, *, name: str | None = None, progress: Callable[[int, int], object] | None = None
    ) -> Pushed:
        """Send the events that a hub lacks, and what they name. Calling it again sends what is new.

        Each batch of events is one transaction of the hub, so that a push that was interrupted goes on where it ended.
        The ledger is only read, and others may write to it meanwhile.

        Args:
            hub: the address; by default what `DECOMP_LEDGER_HUB` or the project says.
            name: what people call the ledger, at its first push; by default `FOLDER/FILE` of its path.
            progress: called with the number of events sent, and the number of all events to send.

        Raises:
            HubDiverged: the hub has other events than this ledger, or more; nothing was sent.
            HubError: the hub cannot be used, or another ledger has the name.
            LedgerError: the ledger is damaged; nothing was sent.
        """
        return pushing.push(self, _address(hub), name=name, progress=progress)

    def follow(
        self, hub: str | None = None, *, name: str | None = None, report: Callable[[Pushed], object] = lambda _: None
    ) -> None:
        """Push now, and again each time the ledger has grown by events or checkpoints, until an interrupt.

        Args:
            hub: the address; by default what `DECOMP_LEDGER_HUB` or the project says.
            name: as of `push`.
            report: called with the first push, and with each that sent something.

        Raises:
            HubError: as `push` does.
            LedgerFileError: the file was removed or replaced.
        """
        pushing.follow(self, _address(hub), name=name, report=report)

    def fetch(self, hub: str | None = None, *, progress: Callable[[int, int], object] | None = None) -> Fetched:
        """Append the events that a hub has more of this ledger, once the whole verifies.

        Args:
            hub: the address; by default what `DECOMP_LEDGER_HUB` or the project says.
            progress: called with the number of events verified, and the number of all events.

        Raises:
            HubDiverged: the ledger has events of its own, or differs from the hub; nothing was appended.
            HubError: the hub cannot be used, does not have the ledger, or what it has is not a ledger.
        """
        return cloning.fetch(self, _address(hub), progress=progress)

    def checkpoint(
        self,
        key: SigningKey | str | os.PathLike[str],
        *,
        passphrase: Callable[[], str | None] = lambda: None,
        output: str | os.PathLike[str] | None = None,
    ) -> Checkpoint:
        """Sign the last event, and with it all events before; the ledger stores the signature.

        Args:
            key: the key, or the file of an Ed25519 private key of OpenSSH.
            passphrase: returns the passphrase of the file, if it needs one.
            output: a file to write the checkpoint to, which :meth:`verify` takes.

        Returns:
            The checkpoint, to be kept elsewhere.

        Raises:
            SigningError: the key cannot be used, or the ledger has no event yet.
            LedgerFileError: `output` cannot be written; the ledger has the checkpoint nevertheless.
        """
        loaded = load_key(key, passphrase) if isinstance(key, (str, os.PathLike)) else key
        signed = sign_head(self.event_store, loaded)
        if output is not None:
            try:
                write_text(output, json.dumps(signed.to_json(), indent=2) + "\n")
            except LedgerFileError as error:
                raise LedgerFileError(f"{error}; the ledger has the checkpoint, and a new one can be written") from None
        return signed

    def backup(
        self, path: str | os.PathLike[str], *, force: bool = False, progress: Callable[[int, int], object] | None = None
    ) -> Path:
        """Copy the ledger, as it is at one moment, to another file, while others may write.

        Args:
            path: the other file. It is whole afterwards; if this raises, it was not made.
            force: replace an existing file.
            progress: called with the number of pages copied, and the number of all pages.

        Raises:
            LedgerFileError: the file exists, or cannot be written.
        """
        return backups.backup(self.database, path, _first_problem, force=force, progress=progress)

    def dump(self, path: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None) -> Path:
        """Write the whole ledger, as it is at one moment, to a JSON Lines file, which `load_dump` reads.

        Args:
            path: the new file.
            progress: called with the number of events written, and the number of all events.

        Raises:
            LedgerFileError: the file exists, or cannot be written.
            LedgerError: the ledger is damaged.
        """
        return jsonl.dump_to_file(self, path, progress)

    def dump_lines(self, *, progress: Callable[[int, int], object] | None = None) -> Iterator[str]:
        """Give the lines that :meth:`dump` writes."""
        return jsonl.dump(self, progress)


def _address(hub: str | None) -> str:
    return hub_url(hub, None if hub else project_settings().hub)


@checked
def record(
    ledger: str | os.PathLike[str] | Ledger = "decomp_ledger.db",
    *,
    name: str | None = None,
    reason: str | None = None,
    actor: str | None = None,
    trust: Sequence[str] = (),
    on_error: str = "warn",
    children: bool = False,
    all_tracing: bool = False,
    sidecars: bool = False,
) -> Recording:
    """Record every decomposition table that is made and every export that is run inside a `with` block.

    A forked child is always recorded. With `children`, so is every other Python child of the same environment, from
    the moment it imports torch: a spawned process, a `subprocess`, a worker of pytest-xdist or torchrun. For that the
    block sets two environment variables, `DECOMP_LEDGER_FOLLOW` and `PYTHONPATH`.

    Args:
        ledger: a file, created with the first event, or an open Ledger.
        name: its tables are `<name>/<function that made it>/<run>`; by default that of the script, module or notebook.
        reason: why, for every event.
        actor: who, for every event; only with a file.
        trust: modules that may be imported to find decompositions; only with a file.
        on_error: what to do when the ledger cannot be written: "warn" once and go on unrecorded, or "raise".
        children: record the Python processes too that start inside the block.
        all_tracing: record what torch traces outside of exports too: make_fx, AOTAutograd, torch.compile, AOTInductor.
            All traces of one line with one table are one event, written at the end of the block.
        sidecars: write `model.pte.decomp.json` next to each `model.pte` that is saved inside the block: its stamp,
            because a `.pte` cannot hold one.

    Raises:
        UnusableValue: `on_error` is another word, `actor` or `trust` are given with an open ledger, or `children`
            with a ledger in memory.
    """
    follows = Children() if children else None
    options: dict[str, Any] = {
        **{"name": name, "reason": reason, "on_error": on_error},
        **{"children": follows, "sidecars": sidecars, "all_tracing": all_tracing},
    }
    if isinstance(ledger, Ledger):
        if actor is not None or trust:
            raise UnusableValue("actor and trust: an open ledger has its own; give them to Ledger(...)")
        return Recording(ledger, **options)
    opened = Ledger(ledger, actor=actor, trust=trust, lazy=True)
    return Recording(opened, **options, owns_ledger=True)


@checked
def browse(
    ledger: str | os.PathLike[str] | Ledger = "decomp_ledger.db",
    *,
    port: int = 0,
    open: bool = False,
    ready: Callable[[str], object] = print,
) -> None:
    """Serve a ledger to the browsers of this machine, for reading only, until KeyboardInterrupt.

    Args:
        ledger: a file, or an open Ledger.
        port: the port; 0 means any free one.
        open: open a browser.
        ready: called with the address once it is served.

    Raises:
        LedgerError: the file is not a ledger, the extra `web` is not installed, or the port cannot be used.
    """
    if isinstance(ledger, Ledger):
        ledger.browse(port=port, open=open, ready=ready)
        return
    with Ledger(ledger, read_only=True) as opened:
        opened.browse(port=port, open=open, ready=ready)


def _first_problem(path: Path) -> str:
    with Ledger(path, read_only=True) as ledger:
        problems = ledger.verify().problems
    return str(problems[0]) if problems else ""
