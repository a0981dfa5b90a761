"""The command that serves a ledger to a browser: browse. It imports no torch."""

from __future__ import annotations

import os
import sys

import click

from decomp_ledger.cli.output import LedgerOption, note, pass_ledger, whole_number

__all__ = ["COMMANDS"]


@click.command()
@click.argument("file", required=False, metavar="[LEDGER]")
@click.option("--port", metavar="N", callback=whole_number, help="The port; by default any free one.")
@click.option("--open/--no-open", "opens", default=None, help="Open a browser; by default on a terminal of a desktop.")
@pass_ledger
def browse(option: LedgerOption, file: str | None, port: int | None, opens: bool | None) -> None:
    """Serve the ledger as pages for a browser of this machine, until Ctrl-C.

    They show its views and tables with links, answer questions and SQL, and show the reports. Nothing can be written,
    and only requests to 127.0.0.1 and localhost are answered. It needs the extra `web`: pip install
    'decomp-ledger[web]'.
    """
    chosen = option if file is None else option._replace(path=file)
    with chosen.read() as ledger:
        ledger.browse(port=port or 0, open=_has_desktop() if opens is None else opens, ready=_tell)


def _tell(address: str) -> None:
    note(f"{address}  (Ctrl-C ends it)")


def _has_desktop() -> bool:
    """Tell whether a person at a desktop reads the output. Elsewhere, Python may start a browser of the terminal."""
    desktop = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return desktop and sys.stdout is not None and sys.stdout.isatty()


COMMANDS = (browse,)
