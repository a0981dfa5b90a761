"""Commands that check: verify."""

from __future__ import annotations

import click

from decomp_ledger.cli.common import FOUND, LedgerOption, json_option, note, pass_ledger, write_json

__all__ = ["COMMANDS"]


@click.command()
@json_option
@pass_ledger
def verify(option: LedgerOption, as_json: bool) -> int:
    """Check that nothing in the ledger was changed after it was written; exit with 1 if something was.

    Keep the hash that it prints elsewhere: whoever can write the file can cut its tail or write all of it anew.
    """
    with option.read() as ledger:
        result = ledger.verify()
    if as_json:
        write_json(result.to_json())
    elif result.ok:
        note(f"{result.events} events, the chain is whole; head {result.head}")
    else:
        for problem in result.problems:
            note(f"event #{problem.seq}: {problem.text}" if problem.seq else problem.text)
    return 0 if result.ok else FOUND


COMMANDS = (verify,)
