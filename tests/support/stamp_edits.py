"""Edits of a stamp by someone who knows how it is made, and its file."""

from __future__ import annotations

import copy
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decomp_ledger.model.canonical_json import digest_of
from decomp_ledger.transfer.stamp import MEMBER

WRONG: list[Any] = [None, True, 7, "x", "0" * 64, [], ["x"], {}]


def write_stamp(path: Path, text: str) -> Path:
    """Write a file that has a stamp and nothing else."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"model/extra/{MEMBER}", text)
    return path


def sealed(value: dict[str, Any]) -> str:
    """Write a stamp with its digest, like an attacker who knows how it is computed."""
    digest = hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
    return json.dumps({**value, "digest": digest}, separators=(",", ":"))


def unsealed(text: str) -> dict[str, Any]:
    """Return the value of a stamp without its digest."""
    value: dict[str, Any] = json.loads(text)
    del value["digest"]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every value in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def forged(text: str) -> Iterator[tuple[str, str]]:
    """Give (what was changed, text) of each redacted stamp in which one value of the export is another one.

    The digests of the stamp and of a changed event are made again, so that only the ledger can tell.
    """
    whole = unsealed(text)
    # Not each name of the ops that the catalog lacks, because there are thousands.
    found = places(whole["exports"][0])
    paths = [path for path in found if path[-2:-1] != ("gone",) and path[-1] != "digest"]
    for number, path in enumerate(paths):
        value = copy.deepcopy(whole)
        inner = value["exports"][0]
        for key in path[:-1]:
            inner = inner[key]
        old = inner[path[-1]]
        others = (*WRONG[number % len(WRONG) :], *WRONG)
        new = next((each for each in others if each != old and type(each) is type(old)), None)
        inner[path[-1]] = f"{old}x" if isinstance(old, str) and len(old) != 64 else new
        for event in (value["exports"][0]["event"], *value["exports"][0]["rule_events"]):
            if isinstance(event, dict):
                event["digest"] = digest_of({name: field for name, field in event.items() if name != "digest"})
        yield ".".join(map(str, path)), sealed(value)
