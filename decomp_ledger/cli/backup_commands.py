"""Commands that keep a ledger safe: checkpoint, backup, restore, dump, load."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from decomp_ledger.cli.output import LedgerOption, json_option, note, pass_ledger, printable, progress, write_json
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.integrity.ssh_signatures import fingerprint, load_key

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


@click.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Take the place of a file that is there.")
@json_option
@pass_ledger
def backup(option: LedgerOption, file: str, force: bool, as_json: bool) -> None:
    """Copy the ledger to FILE, as it is at one moment, while others may go on writing."""
    with option.read() as ledger, progress("backup") as told:
        path = ledger.backup(file, force=force, progress=told)
    if as_json:
        write_json({"backup": str(path)})
    else:
        note(f"{path} is a copy of {ledger.path}")


@click.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace a ledger that is there; it is kept beside it.")
@json_option
@pass_ledger
def restore(option: LedgerOption, file: str, force: bool, as_json: bool) -> None:
    """Put the backup FILE in the ledger's place, once it verifies."""
    from decomp_ledger.transfer.restore import restore as put_back

    with progress("verify the backup") as told:
        done = put_back(file, option.path, force=force, progress=told)
    result, kept = done.verified, None if done.kept is None else str(done.kept)
    if as_json:
        write_json({"ledger": str(done.path), "events": result.events, "head": result.head, "kept": kept})
        return
    note(f"{done.path} has {result.events} events again; head {result.head}")
    if kept is not None:
        note(f"what was there before is kept at {kept}")


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Write to a file; by default to standard output.")
@pass_ledger
def dump(option: LedgerOption, output: str | None) -> None:
    """Print the whole ledger as JSON Lines, for other programs and for `load`."""
    from decomp_ledger.transfer.jsonl import dump as lines_of
    from decomp_ledger.transfer.jsonl import dump_to_file

    with option.read() as ledger, progress("dump") as told:
        if output is None:
            for line in lines_of(ledger, told):
                click.echo(line, nl=False)
            return
        dump_to_file(ledger, output, told)


@click.command()
@click.argument("file")
@json_option
@pass_ledger
def load(option: LedgerOption, file: str, as_json: bool) -> None:
    """Make a new ledger of what `dump` printed, FILE or - for standard input, once it verifies."""
    from decomp_ledger.transfer.jsonl import load as make

    with progress("verify what was loaded") as told:
        result = make(file, option.path, told)
    if as_json:
        write_json({"ledger": option.path, "events": result.events, "head": result.head})
    else:
        note(f"{option.path} has {result.events} events; head {result.head}")


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


COMMANDS = (checkpoint, backup, restore, dump, load)
