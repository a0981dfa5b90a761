"""The decomp-ledger command. Each command parses its arguments, calls the library, and prints the result."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import suppress

import click

from decomp_ledger.cli import run_command, streams
from decomp_ledger.cli.ledger_choice import (
    COMMAND_LINE,
    FOUND,
    INTERRUPTED,
    WRONG_USE,
    LedgerChoice,
    explain_nothing,
    part,
)
from decomp_ledger.errors import LedgerError, UnknownOp
from decomp_ledger.hub.naming import without_password
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model.printable import printable

__all__ = ["cli", "main"]

# Module -> its commands. A module is imported when one of them is asked for, because `run` needs no other one.
_GROUPS = {
    "run_command": ("run",),
    "imports_command": ("imports",),
    "inspect_commands": ("tables", "show", "blame"),
    "log_command": ("log",),
    "explain_commands": ("explain", "why"),
    "compare_commands": ("diff", "drift", "upgrade"),
    "report_command": ("report",),
    "browse_command": ("browse",),
    "catalog_commands": ("catalog",),
    "export_commands": ("exports", "reproduce", "would-change"),
    "check_commands": ("check",),
    "gate_command": ("gate",),
    "change_commands": ("tag", "revert"),
    "verify_commands": ("verify",),
    "backup_commands": ("checkpoint", "backup", "restore", "dump", "load"),
    "hub_commands": ("push", "clone", "fetch", "collect", "hub"),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


# The commands whose output may be long.
_PAGED = {"blame", "diff", "drift", "explain", "exports", "gate", "log", "show", "tables", "upgrade", "why"}
_MAX_MESSAGE = 2000  # characters
_PROGRAMS = ("run", "imports")  # their arguments are those of a program, which they run


class _Commands(click.Group):
    """A group that imports its commands when they are asked for.

    It remembers which one was given, because an error from the library has no click context.
    """

    given: str | None = None

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """Return the names of all commands."""
        return sorted(_GROUP_OF)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        """Return a command. For an unknown name all are imported, because click suggests similar names."""
        if cmd_name not in self.commands:
            for group in [_GROUP_OF[cmd_name]] if cmd_name in _GROUP_OF else _GROUPS:
                for command in part(group).COMMANDS:
                    self.add_command(command)
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        self.given = found[0]
        ctx.meta[COMMAND_LINE] = shlex.join(["decomp-ledger", *map(without_password, args)])
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="decomp-ledger", help="Show the version and exit.")
@click.option(
    "--ledger",
    "path",
    envvar="DECOMP_LEDGER",
    metavar="FILE",
    help="The ledger file; by default decomp_ledger.db, here or in a folder above, or what pyproject.toml says.  "
    "[env: DECOMP_LEDGER]",
)
@click.option("--no-pager", is_flag=True, help="Write to the terminal directly.")
@click.pass_context
def cli(context: click.Context, path: str | None, no_pager: bool) -> None:
    """Record, read and check the decomposition tables that torch.export lowers with.

    A state spec is TABLE, TABLE@VERSION, TABLE@TAG, torch:2.13.0, export:7 or model.pt2.
    Exit status: 0 success, 1 a difference or a fault was found or nothing matches, 2 wrong use or a failure.
    """
    found = project_settings()
    for each in found.ignored:
        explain_nothing(f"{each}: ignored, because it belongs to another user")
    ledger = os.path.relpath(found.ledger) if found.ledger.is_absolute() else str(found.ledger)
    context.obj = LedgerChoice(ledger if path is None else path, path is not None, found.actor, found.trust, found.hub)
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False
    # Programs read JSON, and a pager would hide it from a person who looks for the end.
    is_long = context.invoked_subcommand in _PAGED and "--json" not in context.meta[COMMAND_LINE].split()
    if is_long and not no_pager and streams.page() and context.color is None:
        context.color = True


def main() -> None:
    """Run the command, and exit as documented: one line for an error, no traceback."""
    arguments = sys.argv[1:]
    if "_DECOMP_LEDGER_COMPLETE" in os.environ:
        part("completion").complete(cli)
    else:  # to complete, click writes bytes
        streams.guard()
    try:
        status = cli.main(args=arguments, prog_name="decomp-ledger", standalone_mode=False)
        # Python flushes what a program left there. A process that starts without an output has None.
        if cli.given not in _PROGRAMS and sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except (click.ClickException, LedgerError) as error:
        streams.end_page()
        _fail(error, arguments)
    finally:
        streams.end_page()
    if isinstance(status, run_command.Program):
        try:
            status.run()
        except LedgerError as error:  # of ours, after the program; its own are reported as Python reports them
            _fail(error, arguments)
        status = 0
    sys.exit(status if isinstance(status, int) else 0)


def _fail(error: click.ClickException | LedgerError, arguments: list[str]) -> None:
    """Print an error, and exit: as JSON on standard output if that was asked for, else as a line on standard error."""
    streams.guard()
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    message = without_password(message)  # click quotes arguments, such as the address of a hub
    message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."  # click quotes any argument
    # A process that starts with a closed output has None.
    is_asked = "--json" in arguments and cli.given not in _PROGRAMS
    as_json = is_asked and sys.stdout is not None and not streams.output_is_gone()
    if as_json:
        with suppress(LedgerError):
            click.echo(json.dumps({"error": {"kind": type(error).__name__, "message": message}}, indent=2))
    if not as_json or streams.output_is_gone():
        click.echo(f"decomp-ledger: {printable(message)}", err=True)
    sys.exit(FOUND if isinstance(error, UnknownOp) else WRONG_USE)
