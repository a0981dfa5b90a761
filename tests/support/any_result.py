"""Instances of every public result class, made from the types of their fields, with one text wherever text can be."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

import decomp_ledger as dl
from decomp_ledger.analysis.drift import DRIFT_KINDS
from decomp_ledger.model.display import Rows
from decomp_ledger.model.events import EVENT_KINDS, Body
from decomp_ledger.model.rules import Decomposition, Rule

# Fields whose words readers of a ledger check, so that no stranger can choose them.
_WORDS: dict[tuple[str, str], object] = {
    ("DriftChange", "kind"): next(iter(DRIFT_KINDS)),
    ("DriftChange", "verdict"): "differs",
    ("Behaviour", "verdict"): "differs",
    ("Change", "action"): "preserve",
    ("Change", "decomposition"): None,
    ("Finding", "kind"): "lost",
    ("RuleEffect", "effect"): "op_gone",
    ("Created", "base"): "torch",
    ("Reproduction", "table"): types.SimpleNamespace(differences=()),  # a table needs an export
}
_DEPTH = 6


def result_classes() -> list[type]:
    """Return the public classes of results: all that hold values, and no errors and no open files."""
    classes = (getattr(dl, name) for name in dl.__all__)
    found = {
        each for each in classes
        if inspect.isclass(each) and (attrs.has(each) or hasattr(each, "_fields")) and each is not Body
    }  # fmt: skip
    return sorted(found | set(EVENT_KINDS.values()), key=lambda cls: cls.__name__)


def made(cls: type, text: str, depth: int = 0) -> Any:
    """Return an instance with the text in every field that holds text; no check of the class runs."""
    if cls is Rule:
        return Rule("override", made(Decomposition, text, depth + 1))
    if cls is Body:
        return made(EVENT_KINDS["exported"], text, depth)
    names = {**{name: getattr(dl, name) for name in dl.__all__}, "Ed25519PrivateKey": Any}
    hints = typing.get_type_hints(cls, localns=names)
    if not attrs.has(cls):
        return cls(*(_value(hints[name], text, depth + 1) for name in cls._fields))  # type: ignore[attr-defined]
    instance = cls.__new__(cls)
    for field in attrs.fields(cls):  # type: ignore[arg-type]  # an attrs class, as was asked above
        key = cls.__name__, field.name
        value = _WORDS[key] if key in _WORDS else _value(hints.get(field.name, str), text, depth + 1)
        object.__setattr__(instance, field.name, value)
    return instance


def _value(hint: Any, text: str, depth: int) -> Any:
    outer, parts = typing.get_origin(hint), [each for each in typing.get_args(hint) if each is not type(None)]
    if outer in (typing.Union, types.UnionType):
        whole = next((each for each in parts if each is not type(None)), None)
        return None if depth > _DEPTH else _value(whole, text, depth)
    simple = {str: text, int: 7, bool: True, float: 0.5, bytes: text.encode("utf-8", "replace"), Path: Path(f"/{text}")}
    if hint in simple:
        return simple[hint]
    collection = outer or hint
    if collection in (tuple, list, Sequence, set, frozenset):
        return _collection(collection, parts, text, depth)
    if collection in (dict, Mapping):
        return {} if depth > _DEPTH else {text: _value(parts[1], text, depth) if len(parts) > 1 else text}
    if inspect.isclass(hint) and (attrs.has(hint) or hasattr(hint, "_fields")):
        return made(hint, text, depth)
    return text


def _collection(kind: Any, parts: Sequence[Any], text: str, depth: int) -> Any:
    if kind is tuple and parts and parts[-1] is not Ellipsis:
        return tuple(_value(part, text, depth) for part in parts)
    item = parts[0] if parts else str
    items = [] if depth > _DEPTH else [_value(item, text, depth)] * 2
    return frozenset(items) if kind in (set, frozenset) else list(items) if kind is list else tuple(items)


def results(text: str) -> Iterator[tuple[str, Any]]:
    """Give an instance of each class, and lists of some, by name."""
    for cls in result_classes():
        yield cls.__name__, made(cls, text)
    for name in ("Event", "ExportResult", "Explanation", "Why", "TableInfo", "RuleDiff", "HubEvent", "HubExplanation"):
        yield f"Rows of {name}", Rows([made(getattr(dl, name), text)] * 2)
    for kind, body in EVENT_KINDS.items():
        event = made(dl.Event, text)
        yield f"Event {kind}", attrs.evolve(event, kind=kind, body=made(body, text))
