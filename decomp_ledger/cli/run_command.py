"""The run command: a Python program, its code unchanged, with all its tables and exports recorded.

The command imports neither torch nor numpy before the program runs: torch is patched when the program imports it, so
that environment variables that the program sets first (`OMP_NUM_THREADS`) still count. Nor does it import `Ledger` and
the queries, because the program would take as much longer: 0.15 s.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import importlib.machinery
import importlib.util
import io
import os
import shlex
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from decomp_ledger.cli import streams
from decomp_ledger.cli.ledger_choice import LedgerChoice, part
from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.log.frame_room import with_room
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.printable import printable
from decomp_ledger.pytorch.children import Children
from decomp_ledger.pytorch.recording import ON_ERROR, Recording
from decomp_ledger.pytorch.recording_name import default_name
from decomp_ledger.storage.file_checks import absolute

__all__ = ["COMMANDS", "End", "Program", "last_seq", "load_module", "load_script"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", help="The names of its tables begin with this; by default the script or module.")
@click.option("--reason", help="Why; kept with every event.")
@click.option("--actor", help="Who; by default $DECOMP_LEDGER_ACTOR, git's user or the login name.")
@click.option("--trust", multiple=True, metavar="MODULE", help="A module that may be imported to find decompositions.")
@click.option("--on-error", type=click.Choice(ON_ERROR), default="warn", show_default=True,
              help="When the ledger cannot be written: go on unrecorded, or fail.")  # fmt: skip
@click.option("--children/--no-children", default=True, show_default=True,
              help="Record the Python processes too that the program starts.")  # fmt: skip
@click.option("--all-tracing", is_flag=True,
              help="Record what torch traces outside of exports too: make_fx, torch.compile, AOTInductor.")  # fmt: skip
@click.option("--sidecars", is_flag=True, help="Write model.pte.decomp.json, a stamp, next to each .pte that is saved.")
@click.option("--push", is_flag=True,
              help="At the end, push the ledger to the hub of $DECOMP_LEDGER_HUB or of the project.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Do not say at the end what was recorded.")
@click.option("-m", "as_module", is_flag=True, help="SCRIPT is a module, as for python -m.")
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(
    option: LedgerChoice,
    name: str | None,
    reason: str | None,
    actor: str | None,
    trust: tuple[str, ...],
    on_error: str,
    children: bool,
    all_tracing: bool,
    sidecars: bool,
    push: bool,
    quiet: bool,
    as_module: bool,
    script: str,
    args: tuple[str, ...],
) -> Program:
    """Run a Python program as `python SCRIPT ARGS` would, and record all its tables and exports.

    The exit status and the traceback are the program's own. A crash keeps what was recorded before it. At the end one
    line on standard error says what was recorded, and which children were not. If --push fails, another line says so,
    and the next push sends the rest.
    """
    streams.unguard()
    hub = option.hub_or(None) if push else None
    if hub is not None:
        part("pushing").check_address(hub)  # now, not after hours of the program's work
    last = last_seq(option)
    load = load_module if as_module else load_script
    code, main = load(script, list(args))
    # Only now, because the default name is made of sys.argv, which the loading set.
    named = default_name(main) if name is None else name
    recording = Recording(
        LedgerLog(option.path, actor=option.actor_or(actor), trust=(*option.trust, *trust), lazy=True),
        name=named,
        reason=reason,
        on_error=on_error,
        children=Children() if children else None,
        sidecars=sidecars,
        owns_ledger=True,
        all_tracing=all_tracing,
    )
    recording.__enter__()
    # The recording ends with the process, because threads of the program may export after its last line.
    end = End(recording, None if quiet else _Report(option, last), None if hub is None else _Push(option, hub, quiet))
    atexit.register(end)
    sys.modules["__main__"] = main
    return Program(code, main, end)


class Program(NamedTuple):
    """A program that is recorded and ready to run. `main` runs it when click is done, because each frame costs time."""

    code: types.CodeType
    main: types.ModuleType
    end: End
    after: Callable[[], None] | None = None  # called when its last line has run, however it ended

    def run(self) -> None:
        """Run the program; report its exception as Python does, and exit."""
        # The garbage collector would go through our objects at each full collection: 0.5 % of an export's time.
        gc.freeze()
        try:
            try:
                _execute(self.code, vars(self.main))
                return
            except SystemExit:
                raise
            except BaseException as caught:
                # Not error.__traceback__, because the class of the program's exception may do anything.
                error, trace = caught, sys.exc_info()[2]
            # Out of `except`, because Python calls the hook without a current exception.
            self.end.interrupted = issubclass(type(error), KeyboardInterrupt)
            for _ in range(_OWN_FRAMES):
                trace = None if trace is None else trace.tb_next
            report_failure(error, trace)
            sys.exit(1)
        finally:
            if self.after is not None:
                self.after()


@with_room
def _execute(code: types.CodeType, scope: dict[str, Any]) -> None:
    exec(code, scope)


_OWN_FRAMES = 2  # of `run` and `_execute`, in a traceback


def report_failure(error: BaseException, trace: types.TracebackType | None) -> None:
    """Report an uncaught exception as Python does; its traceback is given, without our own frame."""
    BaseException.with_traceback(error, trace)
    try:
        sys.excepthook(type(error), error, trace)
        return
    except SystemExit:
        raise
    except BaseException as caught:  # the program's own hook failed; Python then reports both
        failure, where = caught, sys.exc_info()[2]
    where = None if where is None else where.tb_next
    BaseException.with_traceback(failure, where)
    click.echo("Error in sys.excepthook:", err=True)
    sys.__excepthook__(type(failure), failure, where)
    click.echo("\nOriginal exception was:", err=True)
    sys.__excepthook__(type(error), error, trace)


class _Report:
    """The line on standard error that says what was recorded.

    Args:
        option: the ledger, as the user named it.
        after: the last seq in it before the recording.
    """

    def __init__(self, option: LedgerChoice, after: int) -> None:
        self.option = option
        self.after = after
        self.process = os.getpid()

    def print(self, recording: Recording) -> None:
        if os.getpid() != self.process:
            return  # a forked child that ends as a process of its own
        try:
            found = recording.summary(after=self.after)
            nothing = found.why_nothing()
            path = self.option.path
            option = f" --ledger {shlex.quote(path)}" if self.option.given else ""
            see = "exports" if found.exports else "tables"
            line = (
                f"nothing was recorded: {nothing}"
                if nothing
                else f"{found} -> {path}; see: decomp-ledger{option} {see}"
            )
            lines = [line, *(f"not recorded: {each}" for each in found.missed)]
            if found.stopped and not nothing:
                lines.append(f"not recorded: what came after this error: {found.stopped}")
        except LedgerError as error:
            lines = [str(error)]
        _print(lines)


def _print(lines: list[str]) -> None:
    """Print lines to standard error, which the program may have closed or replaced."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.flush()  # if this fails, Python exits with a status of its own, as without us
        try:
            for line in lines:
                click.echo(f"decomp-ledger: {printable(line)}", err=True)
        except OSError:
            streams.drop(sys.stderr)  # or Python would try to write it again, and exit with another status


class _Push:
    """Pushes the ledger when the program has ended. A failure is one line, and never the program's.

    Args:
        option: the ledger.
        hub: the address of the hub.
        quiet: print failures only.
    """

    def __init__(self, option: LedgerChoice, hub: str, quiet: bool) -> None:
        self.hub, self.quiet = hub, quiet
        self.push_file = part("pushing").push_file
        self.path = absolute(option.path)  # the program may go to another folder
        self.process = os.getpid()

    def push(self) -> None:
        if os.getpid() != self.process:
            return  # a forked child that ends as a process of its own
        try:
            if not Path(self.path).exists():
                return  # nothing was recorded
            line = self.push_file(self.path, self.hub)
            lines = [] if self.quiet else [line]
        except LedgerError as error:
            lines = [f"not pushed: {error}"]
        _print(lines)


class End:
    """Ends the recording when the process exits, and lets an interrupted process die of its signal."""

    def __init__(self, recording: Recording | None, report: _Report | None = None, push: _Push | None = None) -> None:
        self.recording = recording
        self.report = report
        self.push = push
        self.interrupted = False

    def __call__(self) -> None:
        """End the recording, report it, push, and die of an interrupt."""
        if self.recording is not None:
            if self.report is not None:
                self.report.print(self.recording)
            self.recording.__exit__(None, None, None)
        if self.push is not None and not self.interrupted:
            self.push.push()
        if self.interrupted:
            # Die of the signal, as Python does, so that a shell's loop stops too.
            for stream in (sys.stdout, sys.stderr):
                # The program may have closed a stream, or replaced it by None or by an object without `flush`.
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    stream.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)


def last_seq(option: LedgerChoice) -> int:
    """Raise now if the ledger cannot be written, not after hours of the program's work; return its last seq."""
    path = Path(absolute(option.path))
    last = 0
    if path.exists():
        with LedgerLog(path, read_only=True) as ledger:
            last = ledger.event_store.head()[0]
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise LedgerFileError(f"{path}: the file or its folder is read-only; name another file with --ledger")
    elif not os.access(path.parent, os.W_OK):
        raise LedgerFileError(f"{path}: its folder is missing or read-only; name another file with --ledger")
    return last


def _current_folder() -> str | None:
    """Return the current folder; None if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109  # a str
    except FileNotFoundError:
        return None


def load_script(script: str, args: list[str]) -> tuple[types.CodeType, types.ModuleType]:
    """Compile a script, or the __main__ of a folder or zip file, and set up the process as Python would."""
    path = Path(script)
    full = os.path.join(_current_folder() or "", script)  # noqa: PTH118  # as Python has it: "." and ".." stay
    main = _new_main()
    if path.is_dir() or (path.is_file() and script.endswith((".zip", ".pyz"))):
        spec = importlib.machinery.PathFinder.find_spec("__main__", [full])
        code = None if spec is None else _code_of(spec)
        if spec is None or code is None:
            raise click.UsageError(f"{script}: has no __main__ to run; name a script")
        _set_up(main, spec, [script, *args], full)
        main.__package__ = ""
        return code, main
    try:
        with io.open_code(full) as file:
            source = file.read()
    except OSError as error:
        raise click.UsageError(f"{script}: cannot run it: {error.strerror}; name a Python script") from None
    try:
        code = compile(source, full, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        sys.excepthook(type(error), error.with_traceback(None), None)
        sys.exit(1)
    main.__file__ = full
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", full)
    sys.argv = [script, *args]
    _put_first(str(path.resolve().parent))
    return code, main


def load_module(name: str, args: list[str]) -> tuple[types.CodeType, types.ModuleType]:
    """Find a module, or the __main__ of a package, and set up the process as `python -m` would."""
    folder = _current_folder()
    if folder is not None:  # as Python does
        _put_first(folder)
    # Python has this argv while it imports the parent packages.
    sys.argv = ["-m", *args]
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError, AttributeError) as error:
        raise click.UsageError(f"{name}: cannot run the module: {error}") from None
    code = None if spec is None else _code_of(spec)
    if spec is None or code is None:
        raise click.UsageError(f"{name}: not a module, or it has no code to run; name one as for `python -m`")
    main = _new_main()
    _set_up(main, spec, [spec.origin or name, *args], sys.path[0])
    return code, main


def _new_main() -> types.ModuleType:
    """Return a `__main__` with the names that this version of Python gives to one."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins  # `exec` would put the dict of that module
    own = vars(sys.modules["__main__"])
    given: dict[str, Any] = {"__annotations__": {}, "__cached__": None}
    main.__dict__.update((name, value) for name, value in given.items() if name in own)
    return main


def _code_of(spec: importlib.machinery.ModuleSpec) -> types.CodeType | None:
    get_code: Any = getattr(spec.loader, "get_code", None)
    return None if get_code is None else get_code(spec.name)


def _set_up(main: types.ModuleType, spec: importlib.machinery.ModuleSpec, argv: list[str], path: str) -> None:
    main.__spec__ = spec
    main.__loader__ = spec.loader
    main.__package__ = spec.parent
    if "__cached__" in vars(main):
        main.__dict__["__cached__"] = spec.cached
    if spec.origin is not None:
        main.__file__ = spec.origin
    sys.argv = argv
    _put_first(path)


def _put_first(path: str) -> None:
    """Put the program's folder first in sys.path, instead of this command's own folder."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = path


COMMANDS = (run,)
