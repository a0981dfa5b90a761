"""Whether the rows that events refer to are numbered 1, 2, 3 ... in the order in which events first refer to them.

Every writer numbers them so: a row is inserted in the transaction of the first event that refers to it, SQLite gives it
the next number, and a rollback takes both back. No hash covers the numbers, so this one form is what keeps them from
telling two ledgers apart.
"""

from __future__ import annotations

from typing import Any

from decomp_ledger.integrity.problems import Problems

__all__ = ["Numbering"]


class Numbering:
    """The greatest number so far of the rows of each table.

    Args:
        problems: gets the first wrong number of each table.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._last: dict[str, int] = {}
        self._wrong: set[str] = set()

    def use(self, table: str, row_id: Any, seq: int) -> None:
        """Note that an event refers to a row.

        Args:
            table: the table of the row.
            row_id: its number; of any type, if it is damaged.
            seq: the event.
        """
        last = self._last.get(table, 0)
        if row_id == last + 1:
            self._last[table] = row_id
        elif table not in self._wrong and not (isinstance(row_id, int) and 1 <= row_id <= last):
            self._wrong.add(table)
            self._problems.add(seq, f"its row of {table!r} has the number {row_id!r:.40}, and the next is {last + 1}")
