"""Commands that check: verify."""

from __future__ import annotations

from collections.abc import Sequence

import click

from decomp_ledger.cli.output import FOUND, LedgerOption, json_option, note, pass_ledger, progress, write_json
from decomp_ledger.errors import StampError
from decomp_ledger.integrity.checkpoints import read_file
from decomp_ledger.integrity.ssh_signatures import read_signers
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.ledger import Ledger

__all__ = ["COMMANDS"]


@click.command()
@click.option("--expect", metavar="HASH", multiple=True, help="An event's hash, known from elsewhere.")
@click.option("--signers", metavar="FILE", help="Whose checkpoints count: OpenSSH's allowed_signers, or .pub lines.")
@click.option("--checkpoint", "files", metavar="FILE", multiple=True, help="One that `checkpoint --output` wrote.")
@click.option("--against", metavar="FILE.pt2", multiple=True, help="One whose exports were recorded in this ledger.")
@json_option
@pass_ledger
def verify(
    option: LedgerOption,
    expect: Sequence[str],
    signers: str | None,
    files: Sequence[str],
    against: Sequence[str],
    as_json: bool,
) -> int:
    """Check that nothing in the ledger was changed after it was written; exit with 1 if something was.

    Whoever can write the file can cut its tail, or write all of it anew. To notice that, keep elsewhere the hash that
    this prints (--expect), or a checkpoint (--checkpoint): the last of those in the ledger can be removed unnoticed.
    The stamp of a .pt2 has hashes too (--against). All of these can be repeated.
    """
    known = None if signers is None else read_signers(signers)
    checkpoints = [read_file(path) for path in files]
    with option.read() as ledger, progress("verify") as told:
        anchors = [anchor for path in against for anchor in _anchors(ledger, path)]
        result = ledger.verify(expect=expect, anchors=anchors, signers=known, checkpoints=checkpoints, progress=told)
    if as_json:
        write_json(result.to_json())
    else:
        _print(result)
    return 0 if result.ok else FOUND


def _anchors(ledger: Ledger, path: str) -> Sequence[tuple[int, str]]:
    from decomp_ledger.transfer.stamp import read_stamp  # to verify a ledger alone does without zipfile

    stamp = read_stamp(path)
    try:
        return stamp.anchors(ledger.id)
    except StampError as error:
        raise StampError(f"{path}: {error}") from None


def _print(result: Verification) -> None:
    for one in result.signatures:
        whose = one.signer if one.signer is not None else f"the key {one.fingerprint}, of nobody who was named"
        note(f"up to #{one.seq}: signed {one.signed_at[:19].replace('T', ' ')} by {whose}")
    if result.ok:
        note(f"{result.events} events, the chain is whole; head {result.head}")
    for problem in result.problems:
        note(problem.text if problem.seq is None else f"event #{problem.seq}: {problem.text}")


COMMANDS = (verify,)
