"""The names of recorded tables: `RECORDING/MAKER/RUN`, and the series of all runs, `RECORDING/MAKER`. Pure.

`export_llama/backend_table/3` is the table that the function `backend_table` made in the third run of `export_llama`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from decomp_ledger.model.op_names import MAX_LABEL, PROGRAM_FILES

__all__ = ["MODULE", "RecordedName", "name_part", "newest_run", "recorded_name", "series_name", "split_recorded"]

MODULE = "module"  # the maker of a table that the program made outside of its functions
_RECORDED = re.compile(r"(?P<series>.+/[^/]+)/(?P<run>[1-9]\d{0,17})", re.ASCII)
_TAKEN = frozenset("@:/~#")  # characters that separate the parts of a state spec
_MAX_PART = 100
_NUMBERS = 14  # characters for the slashes, the run, and the number of a table


class RecordedName(NamedTuple):
    """The parts of a recorded table's name.

    Attributes:
        series: the name of the series, `RECORDING/MAKER`.
        run: the number of the run.
    """

    series: str
    run: int


def split_recorded(name: str) -> RecordedName | None:
    """Return the parts of a recorded table's name; None for another name.

    A table that a user named may have such a name, too.
    """
    found = _RECORDED.fullmatch(name)
    return None if found is None else RecordedName(found["series"], int(found["run"]))


def series_name(recording: str, maker: str) -> str:
    """Return the name of a series; of a maker with a long name the first part, so that the whole can name a table.

    Args:
        recording: the name of the recording.
        maker: the name of the function that makes the table.
    """
    room = max(1, MAX_LABEL - _NUMBERS - len(recording))
    return f"{recording}/{name_part(maker[:room], MODULE)}"


def recorded_name(series: str, run: int, number: int = 1) -> str:
    """Return the name of a recorded table.

    Args:
        series: `RECORDING/MAKER`.
        run: the number of the run.
        number: 2 for the second table of the same maker in the run, which is in a series of its own.
    """
    return f"{series}/{run}" if number == 1 else f"{series}-{number}/{run}"


def newest_run(recording: str, names: Iterable[str]) -> int:
    """Return the number of a recording's newest run; 0 if it has none.

    Args:
        recording: its name.
        names: names of tables; others than those of the recording do not count.
    """
    found = (split_recorded(name) for name in names)
    return max((each.run for each in found if each is not None and _recording(each) == recording), default=0)


def _recording(name: RecordedName) -> str:
    return name.series.rpartition("/")[0]


def name_part(text: str, otherwise: str) -> str:
    """Return a text as a part of a table's name: without what a state spec reads as something else.

    Args:
        text: such as the name of a function or of a file.
        otherwise: the part, if nothing of the text remains.
    """
    kept = "".join(c if c.isprintable() and not c.isspace() and c not in _TAKEN else "_" for c in text[:_MAX_PART])
    while kept.endswith(PROGRAM_FILES):
        kept = kept.rpartition(".")[0]
    return kept or otherwise
