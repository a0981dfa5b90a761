"""Commands that keep a ledger safe: checkpoint, backup, restore, dump, load."""

from __future__ import annotations

import os
import sys
from functools import partial

import click

from decomp_ledger import queries
from decomp_ledger.cli import streams
from decomp_ledger.cli.output import (
    LedgerOption,
    count,
    json_option,
    note,
    pass_ledger,
    phases,
    printable,
    progress,
    write_json,
)
from decomp_ledger.integrity.ssh_signatures import fingerprint
from decomp_ledger.transfer.restore import restore as restore_backup

__all__ = ["COMMANDS"]


@click.command()
@click.option("--key", required=True, metavar="FILE", help="An Ed25519 private key of OpenSSH (~/.ssh/id_ed25519).")
@click.option("-o", "--output", metavar="FILE", help="Also write the checkpoint to a file, to keep elsewhere.")
@json_option
@pass_ledger
def checkpoint(option: LedgerOption, key: str, output: str | None, as_json: bool) -> None:
    """Sign the last event, and with it all events before.

    `verify --signers` checks the signature. The key's passphrase, if it has one, comes from
    $DECOMP_LEDGER_PASSPHRASE or from a prompt.
    """
    with option.write() as ledger:
        signed = ledger.checkpoint(key, passphrase=partial(_passphrase, key), output=output)
    if as_json:
        write_json(signed.to_json())
    else:
        note(f"signed up to #{signed.seq} by {fingerprint(bytes.fromhex(signed.key))}; head {signed.hash}")


@click.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
@pass_ledger
def backup(option: LedgerOption, file: str, force: bool, as_json: bool) -> None:
    """Copy the ledger to FILE, as it is at one moment, while others may write."""
    with option.read() as ledger, progress("backup") as report:
        path = ledger.backup(file, force=force, progress=report)
    if as_json:
        write_json({"backup": str(path)})
    else:
        note(f"{path} is a copy of {ledger.path}")


@click.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace an existing ledger, and keep it under another name.")
@json_option
@pass_ledger
def restore(option: LedgerOption, file: str, force: bool, as_json: bool) -> None:
    """Put the backup FILE in the ledger's place, once it verifies."""
    with progress("verify the backup") as report:
        done = restore_backup(file, option.path, force=force, progress=report)
    result, kept = done.verified, None if done.kept is None else str(done.kept)
    if as_json:
        write_json({"ledger": str(done.path), "events": result.events, "head": result.head, "kept": kept})
        return
    note(f"{done.path} has {count(result.events, 'event')} again; head {result.head}")
    if kept is not None:
        note(f"the replaced ledger is kept at {kept}")


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Write to a file; by default to standard output.")
@pass_ledger
def dump(option: LedgerOption, output: str | None) -> None:
    """Print the whole ledger as JSON Lines, for other programs and for `load`."""
    with option.read() as ledger, progress("dump") as report:
        if output is not None:
            ledger.dump(output, progress=report)
            return
        for line in ledger.dump_lines(progress=report):
            click.echo(line, nl=False)
            if streams.output_is_gone():
                return


@click.command()
@click.argument("file")
@json_option
@pass_ledger
def load(option: LedgerOption, file: str, as_json: bool) -> None:
    """Make a new ledger from what `dump` printed, once it verifies. FILE may be - for standard input."""
    with phases("read the dump (bytes)", "verify the new ledger") as (reading, verifying):
        result = queries.load_dump(file, option.path, progress=verifying, reading=reading)
    if as_json:
        write_json({"ledger": option.path, "events": result.events, "head": result.head})
    else:
        note(f"{option.path} has {count(result.events, 'event')}; head {result.head}")


def _passphrase(key: str) -> str | None:
    given = os.environ.get("DECOMP_LEDGER_PASSPHRASE")
    if given is None and sys.stdin is not None and sys.stdin.isatty():
        given = click.prompt(f"Passphrase of {printable(key)}", hide_input=True, err=True)
    return given


COMMANDS = (checkpoint, backup, restore, dump, load)
