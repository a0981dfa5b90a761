"""Charts as numbers: where each mark of a flow and of a time line stands. Pure; a template draws them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import attrs

from decomp_ledger.reports.blocks import Flow, Timeline

__all__ = ["FlowChart", "TimeChart", "flow_chart", "time_chart"]

_WIDTH = 920
_LABEL = 290  # the width of the names at each side
_NODE = 10  # the width of a bar
_GAP = 7  # between two bars
_LEAST = 13  # the height of a bar, so that its name has a line of its own
_PER_NODE = 6
_MOST = 340  # of all bars of one side together
_SHOWN = 24  # sources, and ops, that have a bar of their own
_CHARACTERS = 42
_ROW = 26
_ROWS = 40


@attrs.frozen
class Box:
    """A bar with its name."""

    x: float
    y: float
    height: float
    label: str
    number: int
    full: str


@attrs.frozen
class Ribbon:
    """A band between two bars."""

    path: str
    title: str
    group: int


@attrs.frozen
class FlowChart:
    """The marks of a flow."""

    width: int
    height: float
    left: Sequence[Box]
    right: Sequence[Box]
    ribbons: Sequence[Ribbon]
    node: int = _NODE


def flow_chart(flow: Flow) -> FlowChart:
    """Return where the bars and bands of a flow stand: sources at the left, ops at the right."""
    links = _merged(flow.links)
    sources = dict.fromkeys(source for source, _, _ in links)
    ops = dict.fromkeys(op for _, op, _ in sorted(links, key=lambda link: list(sources).index(link[0])))
    total = sum(number for _, _, number in links)
    scale = min(_PER_NODE, _MOST / max(total, 1))
    left = _boxes([(name, sum(n for s, _, n in links if s == name)) for name in sources], _LABEL, scale)
    right = _boxes([(name, sum(n for _, o, n in links if o == name)) for name in ops], _WIDTH - _LABEL - _NODE, scale)
    height = max((box.y + box.height for box in (*left.values(), *right.values())), default=0) + _GAP
    used: dict[tuple[str, str], float] = {}
    ribbons = []
    for source, op, number in links:
        thick = number * scale
        start, end = left[source], right[op]
        y0 = start.y + used.get(("left", source), _centred(start, scale))
        y1 = end.y + used.get(("right", op), _centred(end, scale))
        used["left", source], used["right", op] = y0 - start.y + thick, y1 - end.y + thick
        path = _band(start.x + _NODE, y0, end.x, y1, thick)
        ribbons.append(Ribbon(path, f"{source} made {number} of {op}", list(sources).index(source) % 6))
    return FlowChart(_WIDTH, height, [*left.values()], [*right.values()], ribbons)


def _merged(links: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Return the links, with the smallest sources and ops taken together."""
    names = []
    for side in ([(source, n) for source, _, n in links], [(op, n) for _, op, n in links]):
        sums: dict[str, int] = {}
        for name, number in side:
            sums[name] = sums.get(name, 0) + number
        largest = sorted(sums, key=lambda name: (-sums[name], name))
        rest = f"{len(largest) - _SHOWN} others"
        names.append({name: name if rank < _SHOWN else rest for rank, name in enumerate(largest)})
    merged: dict[tuple[str, str], int] = {}
    for source, op, number in links:
        key = names[0][source], names[1][op]
        merged[key] = merged.get(key, 0) + number
    totals: dict[str, int] = {}
    for (source, _), number in merged.items():
        totals[source] = totals.get(source, 0) + number
    ordered = sorted(merged.items(), key=lambda item: (-totals[item[0][0]], item[0][0], -item[1], item[0][1]))
    return [(source, op, number) for (source, op), number in ordered]


def _boxes(names: Sequence[tuple[str, int]], x: float, scale: float) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    y = float(_GAP)
    for name, number in names:
        height = max(_LEAST, number * scale)
        boxes[name] = Box(x, round(y, 1), round(height, 1), _short(name), number, name)
        y += height + _GAP
    return boxes


def _centred(box: Box, scale: float) -> float:
    return (box.height - box.number * scale) / 2


def _band(x0: float, y0: float, x1: float, y1: float, thick: float) -> str:
    half = (x0 + x1) / 2
    return (
        f"M{x0:.1f},{y0:.1f} C{half:.1f},{y0:.1f} {half:.1f},{y1:.1f} {x1:.1f},{y1:.1f} "
        f"L{x1:.1f},{y1 + thick:.1f} C{half:.1f},{y1 + thick:.1f} {half:.1f},{y0 + thick:.1f} "
        f"{x0:.1f},{y0 + thick:.1f} Z"
    )


def _short(name: str, limit: int = _CHARACTERS) -> str:
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-(limit // 2 - 1) :]}"


# A time line


@attrs.frozen
class Dot:
    """One event: where it stands, what it is."""

    x: float
    kind: str
    title: str


@attrs.frozen
class Row:
    """The events of one table."""

    y: float
    label: str
    full: str
    dots: Sequence[Dot]


@attrs.frozen
class TimeChart:
    """The marks of a time line."""

    width: int
    height: float
    start: float
    end: float
    rows: Sequence[Row]
    ticks: Sequence[tuple[float, str]]
    hidden: int


_START, _END = 240, _WIDTH - 40
_TICKS = 5


def time_chart(line: Timeline) -> TimeChart:
    """Return where the events of a time line stand; the tables with the newest events come first."""
    times = [_seconds(each.at) for each in line.moments]
    first, last = min(times), max(times)
    span = (last - first) or 1.0

    def x(seconds: float) -> float:
        return round(_START + (_END - _START) * (seconds - first) / span, 1)

    rows: dict[str, list[Dot]] = {}
    for moment, seconds in zip(line.moments, times, strict=True):
        kind = "failed" if moment.failed else _KINDS.get(moment.kind, "change")
        title = f"#{moment.seq} {moment.kind}{' (failed)' if moment.failed else ''}, {moment.at[:19]} UTC"
        dots = rows.pop(moment.row, [])
        rows[moment.row] = [*dots, Dot(x(seconds), kind, title)]
    shown = list(reversed(rows.items()))[:_ROWS]
    ticks = [first + span * number / (_TICKS - 1) for number in range(_TICKS)] if last > first else [first]
    return TimeChart(
        _WIDTH,
        _ROW * len(shown) + 40,
        _START,
        _END,
        [Row(_ROW * n + 18, _short(name, 34), name, dots) for n, (name, dots) in enumerate(shown)],
        [(x(each), _label(each, span)) for each in ticks],
        len(rows) - len(shown),
    )


_KINDS = {"exported": "export", "materialized": "other", "created": "other", "saved": "other", "tagged": "tag"}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def _seconds(text: str) -> float:
    """Return a stored time as seconds; of a text that is not a time, which only a stranger's ledger has, 0."""
    try:
        found = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    whole = found if found.tzinfo is not None else found.replace(tzinfo=datetime.timezone.utc)
    return (whole - _EPOCH).total_seconds()


def _label(seconds: float, span: float) -> str:
    try:
        moment = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return "?"
    day = 86400.0
    return moment.strftime("%Y-%m-%d" if span > 5 * day else "%m-%d %H:%M" if span > day / 2 else "%H:%M:%S")
