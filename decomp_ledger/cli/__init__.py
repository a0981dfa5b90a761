"""The decomp-ledger command. Thin: every answer comes from the library."""

from __future__ import annotations

import gc
import importlib
import json
import sys

import click

from decomp_ledger.cli.output import AT_FAULT, LedgerOption, printable
from decomp_ledger.errors import LedgerError

__all__ = ["cli", "main"]


# Where the commands are that are waited for; one that is not named here is found by looking everywhere.
_HOMES = {
    **dict.fromkeys(("blame", "log", "show", "tables"), "inspect_commands"),
    **dict.fromkeys(("diff", "explain"), "explain_commands"),
    **dict.fromkeys(("catalog", "drift", "upgrade"), "compare_commands"),
    **dict.fromkeys(("exports", "reproduce"), "export_commands"),
    "run": "run_command",
}
_MODULES = (
    "run_command",
    "inspect_commands",
    "explain_commands",
    "export_commands",
    "compare_commands",
    "change_commands",
    "verify_commands",
    "backup_commands",
)


class _Commands(click.Group):
    """Commands whose file is imported only when they run: to import them all takes as long as to answer."""

    def list_commands(self, context: click.Context) -> list[str]:
        for module in _MODULES:
            self._load(module)
        return super().list_commands(context)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        for module in (_HOMES[name],) if name in _HOMES else _MODULES:
            self._load(module)
        return super().get_command(context, name)

    def _load(self, module: str) -> None:
        for command in importlib.import_module(f"decomp_ledger.cli.{module}").COMMANDS:
            self.add_command(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="decomp-ledger")
@click.option(
    "--ledger",
    "path",
    envvar="DECOMP_LEDGER",
    default="decomp_ledger.db",
    show_default=True,
    metavar="FILE",
    help="The ledger file.  [env: DECOMP_LEDGER]",
)
@click.pass_context
def cli(context: click.Context, path: str) -> None:
    """Record, read and check the decomposition tables that torch.export lowers with.

    A table state is written TABLE, TABLE@VERSION, TABLE@TAG, torch:2.13.0, export:7 or model.pt2.
    Exit status: 0 fine, 1 a difference or a fault was found, 2 used wrongly.
    """
    context.obj = LedgerOption(path)


def main() -> None:
    """Run the command, and exit as documented: one line for an error, no traceback."""
    # All that was imported stays to the end; or the garbage collector looks through it when it runs, and again at exit.
    gc.freeze()
    arguments = sys.argv[1:]
    try:
        status = cli.main(args=arguments, prog_name="decomp-ledger", standalone_mode=False)
        if not sys.stdout.closed:  # a program that was run may have closed it
            sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(130)
    except (click.ClickException, LedgerError) as error:
        _fail(error, arguments)
    except BrokenPipeError:
        # The reader has seen enough. Nothing must be flushed at exit into a pipe that nobody reads.
        sys.stdout = None
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(error: click.ClickException | LedgerError, arguments: list[str]) -> None:
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if "--json" in arguments and "run" not in arguments:
        click.echo(json.dumps({"error": {"kind": type(error).__name__, "message": message}}, indent=2))
    else:
        click.echo(f"decomp-ledger: {printable(message)}", err=True)
    sys.exit(AT_FAULT)
