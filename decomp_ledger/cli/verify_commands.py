"""The command that checks a ledger: verify."""

from __future__ import annotations

from collections.abc import Sequence

import click

from decomp_ledger.cli.output import (
    FOUND,
    LedgerOption,
    count,
    json_option,
    note,
    pass_ledger,
    progress,
    when,
    write_json,
)
from decomp_ledger.hub.connection import HubUrl
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.model.canonical_json import Json

__all__ = ["COMMANDS"]


@click.command()
@click.option("--expect", metavar="HASH", multiple=True, help="The hash of an event, kept elsewhere.")
@click.option("--signers", metavar="FILE", help="Whose checkpoints count: OpenSSH's allowed_signers, or .pub lines.")
@click.option("--checkpoint", "files", metavar="FILE", multiple=True, help="A file that `checkpoint --output` wrote.")
@click.option("--against", metavar="FILE.pt2", multiple=True, help="A stamped file whose exports this ledger recorded.")
@click.option(
    "--hub", is_flag=False, flag_value="", metavar="[URL]", help="A hub that the ledger was pushed to; as of exports."
)
@json_option
@pass_ledger
def verify(
    option: LedgerOption,
    expect: Sequence[str],
    signers: str | None,
    files: Sequence[str],
    against: Sequence[str],
    hub: str | None,
    as_json: bool,
) -> int:
    """Check that nothing in the ledger was changed after it was written; exit with 1 if something was.

    Anyone with write access can truncate the chain, or rewrite all of it. To notice that, keep elsewhere the hash that
    this command prints (--expect), or a checkpoint (--checkpoint): the last checkpoint in the ledger can be removed
    unnoticed. The stamp of a .pt2 has hashes too (--against), and so has a hub (--hub). --expect, --checkpoint and
    --against can be repeated.
    """
    hub = None if hub is None else option.hub_or(hub or None)
    with option.ask() as ledger, progress("verify") as report:
        result = ledger.verify(
            expect=expect, signers=signers, checkpoints=files, against=against, hub=hub, progress=report
        )
    if as_json:
        compared: dict[str, Json] = {"expect": [*expect], "checkpoints": [*files], "against": [*against]}
        if hub is not None:
            compared["hub"] = HubUrl.parse(hub).label
        write_json({**result.to_json(), "compared": compared})
    else:
        _print(result)
        if result.ok:
            _print_compared(expect, files, against)
            if hub is not None:
                note(f"it has the events that {HubUrl.parse(hub).label} has of it")
    return 0 if result.ok else FOUND


def _print_compared(expect: Sequence[str], files: Sequence[str], against: Sequence[str]) -> None:
    """Print what a ledger agrees with that was kept elsewhere."""
    for each in expect:
        note(f"it has the event of the hash {each}")
    for each in files:
        note(f"it has what the checkpoint {each} signed")
    for each in against:
        note(f"it has the exports of {each} as they are in that file")


def _print(result: Verification) -> None:
    for one in result.signatures:
        signer = one.signer if one.signer is not None else f"the key {one.fingerprint}; no --signers were given"
        note(f"signed up to #{one.seq}, {when(one.signed_at)}, by {signer}")
    if result.ok:
        note(f"{count(result.events, 'event')}, the chain is whole; head {result.head}")
    for problem in result.problems:
        note(problem.text if problem.seq is None else f"event #{problem.seq}: {problem.text}")


COMMANDS = (verify,)
