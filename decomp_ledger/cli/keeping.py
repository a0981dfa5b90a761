"""Commands that keep a ledger safe: checkpoint."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from decomp_ledger.cli.common import LedgerOption, json_option, note, pass_ledger, printable, write_json
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.signing import fingerprint, load_key

__all__ = ["COMMANDS"]


@click.command()
@click.option("--key", required=True, metavar="FILE", help="An Ed25519 private key of OpenSSH (~/.ssh/id_ed25519).")
@click.option("-o", "--output", metavar="FILE", help="Write it to a file too, to be kept elsewhere.")
@json_option
@pass_ledger
def checkpoint(option: LedgerOption, key: str, output: str | None, as_json: bool) -> None:
    """Sign the last event, and with it all before; `verify --signers` checks it.

    The key's passphrase, if it has one, is taken from $DECOMP_LEDGER_PASSPHRASE or asked for.
    """
    loaded = load_key(key, lambda: _passphrase(key))
    with option.write() as ledger:
        signed = ledger.checkpoint(loaded)
    if output is not None:
        _write(output, json.dumps(signed.to_json(), indent=2) + "\n")
    if as_json:
        write_json(signed.to_json())
    else:
        note(f"up to #{signed.seq}: signed by {fingerprint(loaded.public)}; head {signed.hash}")


def _passphrase(key: str) -> str | None:
    given = os.environ.get("DECOMP_LEDGER_PASSPHRASE")
    if given is None and sys.stdin.isatty():
        given = click.prompt(f"Passphrase of {printable(key)}", hide_input=True, err=True)
    return given


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LedgerFileError(f"the checkpoint is in the ledger, but {path} cannot be written: {reason}") from None


COMMANDS = (checkpoint,)
