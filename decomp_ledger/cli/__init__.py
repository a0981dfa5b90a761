"""The decomp-ledger command. Each command parses its arguments, calls the library, and prints the result."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import suppress

import click

from decomp_ledger.cli import (
    backup_commands,
    catalog_commands,
    change_commands,
    check_commands,
    compare_commands,
    explain_commands,
    export_commands,
    inspect_commands,
    log_command,
    report_command,
    run_command,
    streams,
    verify_commands,
)
from decomp_ledger.cli.output import (
    COMMAND_LINE,
    DEFAULT_LEDGER,
    FOUND,
    INTERRUPTED,
    WRONG_USE,
    LedgerOption,
    printable,
)
from decomp_ledger.errors import LedgerError, UnknownOp

__all__ = ["cli", "main"]

_GROUPS = (
    run_command,
    inspect_commands,
    log_command,
    explain_commands,
    compare_commands,
    report_command,
    catalog_commands,
    export_commands,
    check_commands,
    change_commands,
    verify_commands,
    backup_commands,
)


_MAX_MESSAGE = 2000  # characters


class _Commands(click.Group):
    """A group that remembers which command was given, because an error from the library has no click context."""

    given: str | None = None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        self.given = found[0]
        ctx.meta[COMMAND_LINE] = shlex.join(["decomp-ledger", *args])
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="decomp-ledger", help="Show the version and exit.")
@click.option(
    "--ledger",
    "path",
    envvar="DECOMP_LEDGER",
    default=DEFAULT_LEDGER,
    show_default=True,
    metavar="FILE",
    help="The ledger file.  [env: DECOMP_LEDGER]",
)
@click.pass_context
def cli(context: click.Context, path: str) -> None:
    """Record, read and check the decomposition tables that torch.export lowers with.

    A state spec is TABLE, TABLE@VERSION, TABLE@TAG, torch:2.13.0, export:7 or model.pt2.
    Exit status: 0 success, 1 a difference or a fault was found or nothing matches, 2 wrong use or a failure.
    """
    context.obj = LedgerOption(path)
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False


for _group in _GROUPS:
    for _command in _group.COMMANDS:
        cli.add_command(_command)


def main() -> None:
    """Run the command, and exit as documented: one line for an error, no traceback."""
    arguments = sys.argv[1:]
    streams.guard()
    try:
        status = cli.main(args=arguments, prog_name="decomp-ledger", standalone_mode=False)
        # Python flushes what the program of `run` left there. A process that starts without an output has None.
        if cli.given != "run" and sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except (click.ClickException, LedgerError) as error:
        _fail(error, arguments)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(error: click.ClickException | LedgerError, arguments: list[str]) -> None:
    """Print an error, and exit: as JSON on standard output if that was asked for, else as a line on standard error."""
    streams.guard()
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."  # click quotes any argument
    # The arguments of `run` are the program's.
    as_json = "--json" in arguments and cli.given != "run" and not streams.output_is_gone()
    if as_json:
        with suppress(LedgerError):
            click.echo(json.dumps({"error": {"kind": type(error).__name__, "message": message}}, indent=2))
    if not as_json or streams.output_is_gone():
        click.echo(f"decomp-ledger: {printable(message)}", err=True)
    sys.exit(FOUND if isinstance(error, UnknownOp) else WRONG_USE)
