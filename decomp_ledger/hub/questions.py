"""The questions about all ledgers of a hub: exports, log, blame, explain. SQL finds the rows; the model answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import attrs

from decomp_ledger import queries
from decomp_ledger.analysis.explain import Explanation
from decomp_ledger.analysis.programs import Program, ProgramExport, current, program_of, without_export
from decomp_ledger.errors import HubError, UnknownOp
from decomp_ledger.hub.reading import EVENT, HubReader, LedgerName
from decomp_ledger.model.canonical_json import Json, canonical_json, check_text
from decomp_ledger.model.display import Row, columns_of, displayed, row_of, to_rows
from decomp_ledger.model.events import OVERRIDE, PRESERVE, Event, Exported
from decomp_ledger.model.op_lookup import Lists, did_you_mean
from decomp_ledger.model.rules import Rule, fold
from decomp_ledger.queries import RecordedEvent

__all__ = [
    *("EventsOfHub", "HubBlame", "HubEvent", "HubExplanation", "HubExport", "HubRule"),
    *("PAGE", "blame", "events", "explain", "exports"),
]

PAGE = 100  # rows in one query: as many as an answer has by default, since each takes 0.3 ms to check
# What a rule is called where it only tells what a dict had.
_OF_DICT = {PRESERVE: "missing", OVERRIDE: "entry"}
# Newest first by the time that the writer's clock showed; within one ledger by seq, which is hashed.
_EXPORTS = f"""
SELECT {EVENT}, decomp_table.series, (
        SELECT count(*) FROM program
        WHERE program.table_id = export.table_id AND program.module = export.module AND program.file = export.file
            AND program.git_commit = export.git_commit
    ), export.recorded_at, export.ledger_id
FROM export
JOIN decomp_table ON decomp_table.id = export.table_id
JOIN event ON event.ledger_id = export.ledger_id AND event.seq = export.seq
JOIN ledger ON ledger.id = export.ledger_id
"""
# The newest exports, oldest first, from which programs are decided: of each series of recorded tables, the newest run.
_PROGRAM_EXPORTS = """
SELECT ledger.id, ledger.ledger, ledger.name, program.seq, decomp_table.series, program.module, program.file,
    program.graph, program.git_commit
FROM program
JOIN decomp_table ON decomp_table.id = program.table_id
JOIN ledger ON ledger.id = decomp_table.ledger_id
{where}
ORDER BY ledger.id, program.seq
"""
_WITHOUT_TABLE = """
SELECT 1 FROM program WHERE NOT EXISTS (SELECT 1 FROM decomp_table WHERE decomp_table.id = program.table_id) LIMIT 1
"""
# Of each series whose newest run has no export: the last export of each other run, by the number of the run.
_WITHOUT_EXPORT = """
SELECT ledger.ledger, ledger.name, decomp_table.series, decomp_table.name, max(export.seq)
FROM decomp_table
JOIN decomp_table AS earlier ON earlier.ledger_id = decomp_table.ledger_id AND earlier.series = decomp_table.series
JOIN export ON export.table_id = earlier.id
JOIN ledger ON ledger.id = decomp_table.ledger_id
{where}
GROUP BY ledger.id, ledger.ledger, ledger.name, decomp_table.series, decomp_table.name, earlier.name
ORDER BY ledger.id, decomp_table.series, length(earlier.name), earlier.name
"""
_HAS_NO_EXPORT = "NOT EXISTS (SELECT 1 FROM export AS own WHERE own.table_id = decomp_table.id)"
_EVENTS = f"""
SELECT {EVENT}, event_fact.recorded_at, event_fact.ledger_id
FROM event_fact
JOIN event ON event.ledger_id = event_fact.ledger_id AND event.seq = event_fact.seq
JOIN ledger ON ledger.id = event_fact.ledger_id
"""
_OF_TABLE = "event_fact.table_id IN (SELECT id FROM decomp_table WHERE name = :table)"
_CHANGED_OP = """
event_fact.makes_version = 1 AND EXISTS (
    SELECT 1 FROM change
    WHERE change.op_id IN :ops AND change.table_id = event_fact.table_id AND change.version = event_fact.version
)
"""
_OP_IDS = "SELECT id FROM op WHERE name IN :names"
_OP_NAMES = "SELECT name FROM op ORDER BY name"
_HAS_OP = "SELECT 1 FROM op WHERE name = :name"
_RULES = f"""
SELECT {EVENT}, found.table_name, found.version, found.from_dict, found.op, found.action
FROM (
    SELECT decomp_table.ledger_id, decomp_table.name AS table_name, decomp_table.version, decomp_table.from_dict,
        op.name AS op, rule.action, rule.seq
    FROM rule
    JOIN op ON op.id = rule.op_id
    JOIN decomp_table ON decomp_table.id = rule.table_id
    JOIN ledger ON ledger.id = decomp_table.ledger_id
    {{where}}
    ORDER BY op.name, ledger.name, decomp_table.name
    {{limit}}
) AS found
JOIN ledger ON ledger.id = found.ledger_id
LEFT JOIN event ON event.ledger_id = found.ledger_id AND event.seq = found.seq
ORDER BY found.op, ledger.name, found.table_name
"""
_COUNTS = """
SELECT op.name, rule.action, decomp_table.from_dict, count(*)
FROM rule
JOIN op ON op.id = rule.op_id
JOIN decomp_table ON decomp_table.id = rule.table_id
"""


@displayed
@attrs.frozen
class HubEvent:
    """One event of a hub, with everything that it names.

    Attributes:
        ledger: its ledger.
        recorded: the event, its environment and its decompositions.
    """

    ledger: LedgerName
    recorded: RecordedEvent

    @property
    def event(self) -> Event:
        """The event."""
        return self.recorded.event

    def _row(self) -> Row:
        return {"ledger": self.ledger.name, **row_of(self.event)}


@displayed
@attrs.frozen
class HubExport:
    """One export of a hub.

    Attributes:
        ledger: its ledger.
        program: the name of its program in the hub.
        torch: the version of the torch that it ran in; empty if that is not recorded.
        event: its event.
    """

    ledger: LedgerName
    program: str
    torch: str
    event: Event

    @property
    def body(self) -> Exported:
        """The body of its event."""
        return cast("Exported", self.event.body)

    def _row(self) -> Row:
        return {"ledger": self.ledger.name, "program": self.program, "torch": self.torch, **row_of(self.event)}


@displayed
@attrs.frozen
class HubRule:
    """The rule that the newest version of a table has for an op.

    Attributes:
        ledger: the ledger of the table.
        table: the table's name.
        version: its newest version.
        op: the op.
        rule: the rule.
        from_dict: whether the table is the content of a dict, so that the rule only tells what that had.
        event: the event that set the rule; of a fork it may be one of the table that it was forked from.
    """

    ledger: LedgerName
    table: str
    version: int
    op: str
    rule: Rule
    from_dict: bool
    event: Event

    def _row(self) -> Row:
        event = self.event
        return {
            "ledger": self.ledger.name,
            **columns_of(self, without=("ledger", "event")),
            **{name: getattr(event, name) for name in ("seq", "recorded_at", "actor", "reason")},
        }


@displayed
@attrs.frozen
class HubBlame:
    """The tables of a hub that have a rule for an op.

    Attributes:
        ops: the ops that the question meant: one, or the overloads of a family.
        counts: op -> what tables have for it -> the number of these tables: `preserve` or `override`; of tables that
            are the content of a dict, `missing` or `entry`.
        rules: the first of these rules, by op, ledger and table.
        hint: names that are alike, as the end of a sentence, if no table has a rule; else "".
    """

    ops: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    rules: tuple[HubRule, ...]
    hint: str = ""

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each rule that it has, with the event that set it."""
        return to_rows(self.rules)

    @property
    def total(self) -> int:
        """The number of rules, those included that were left out."""
        return sum(sum(each.values()) for each in self.counts.values())


@displayed
@attrs.frozen
class HubExplanation:
    """What happened to an op in the newest export of a program.

    Attributes:
        ledger: the ledger of the program.
        program: the name of the program, as the gate has it; where its programs are not known, that of the series.
        explanation: what happened; None if neither the torch of the export, nor its rules, nor its program have such
            an op, so that nothing is known about it; None too if the programs are not known.
        seq: the number of the export.
        unknown: why the programs of a series are not known; None if they are.
    """

    ledger: LedgerName
    program: str
    seq: int
    explanation: Explanation | None
    unknown: str | None = None

    def _row(self) -> Row:
        answer = {} if self.explanation is None else row_of(self.explanation)
        because = {} if self.unknown is None else {"unknown": self.unknown}
        return {"ledger": self.ledger.name, "program": self.program, "seq": self.seq, **because, **answer}


class EventsOfHub(NamedTuple):
    """Conditions on the events of a hub; None means any.

    Attributes:
        ledger: only of this ledger: its name or its id.
        table: the name of the event's table.
        op: an op that it changed; the name of a family means all its overloads.
        actor: who made it.
        author: a part of the actor's name, the letters A to Z in either case.
        grep: a part of its reason, likewise.
        kind: its kind.
        since: recorded then or later, as times are stored.
        until: recorded then or earlier, likewise.
    """

    ledger: str | None = None
    table: str | None = None
    op: str | None = None
    actor: str | None = None
    author: str | None = None
    grep: str | None = None
    kind: str | None = None
    since: str | None = None
    until: str | None = None


def exports(
    reader: HubReader,
    *,
    ledger: str | None = None,
    program: str | None = None,
    failed: bool = False,
    page: int = PAGE,
) -> Iterator[HubExport]:
    """Give the exports of a hub, newest first, a page at a time.

    Args:
        reader: of the hub.
        ledger: only of this ledger: its name or its id.
        program: a part of the name of its table, its module or its file, the letters A to Z in either case.
        failed: only exports that failed.
        page: how many are read at once.
    """
    where, values = _of_ledger(reader, ledger, "export")
    if program is not None:
        where.append(_of_program(reader, "decomp_table", "export"))
        values["part"] = _lower(program)
    where += ["export.failed = 1"] if failed else []
    for rows in _newest_first(reader, _EXPORTS, where, values, "export", page):
        yield from _exports(reader, rows)


def events(reader: HubReader, wanted: EventsOfHub, *, page: int = PAGE) -> Iterator[HubEvent]:
    """Give the events of a hub that match every condition, newest first, `page` at a time."""
    where, values = _of_ledger(reader, wanted.ledger, "event_fact")
    lowered = {name: _lower(value) for name in ("author", "grep") if (value := getattr(wanted, name)) is not None}
    if wanted.grep is not None:
        lowered["grep"] = _lower(canonical_json(check_text(wanted.grep, "grep"))[1:-1])  # as the stored text has it
    given = {name: value for name, value in wanted._asdict().items() if value is not None} | lowered
    conditions = {
        "table": _OF_TABLE,
        "kind": "event_fact.kind = :kind",
        "actor": "event_fact.actor = :actor",
        "author": _contains(reader, "event_fact.actor", "author"),
        "grep": _contains(reader, "event.text", "grep"),
        "since": "event_fact.recorded_at >= :since",
        "until": "event_fact.recorded_at <= :until",
    }
    where += [text for name, text in conditions.items() if name in given]
    values |= {name: given[name] for name in conditions if name in given}
    if wanted.op is not None:
        values["ops"] = _op_ids(reader, queries.ops_of(wanted.op, _HubOps(reader)))
        where.append(_CHANGED_OP)
        if not values["ops"]:
            return
    for rows in _newest_first(reader, _EVENTS, where, values, "event_fact", page):
        found = [reader.event(row[:6]) for row in rows]
        yield from _recorded(reader, [(name, event) for name, event in found if _matches(event, wanted)])


def _matches(event: Event, wanted: EventsOfHub) -> bool:
    """Tell whether an event has the texts that are searched for; the hub only finds those that may have them."""
    return (
        wanted.actor in (None, event.actor)
        and (wanted.author is None or _lower(wanted.author) in _lower(event.actor))
        and (wanted.grep is None or _lower(wanted.grep) in _lower(event.reason or ""))
    )


def blame(reader: HubReader, op: object, *, ledger: str | None = None, limit: int | None = 100) -> HubBlame:
    """Return which tables of a hub have a rule for an op now, and the event that set each.

    Of a series of recorded tables, only the newest run counts.

    Args:
        reader: of the hub.
        op: its name, or an `OpOverload`. The name of a family means all its overloads.
        ledger: only of this ledger: its name or its id.
        limit: at most so many rules; None means all.

    Raises:
        UnknownOp: the text has no namespace, and no known op has that name.
        InvalidName: the text cannot name an op.
    """
    names = queries.ops_of(op, Lists(_HubOps(reader), queries.newest_ops()))
    where, values = _of_ledger(reader, ledger, "decomp_table")
    where, values = [*where, "op.name IN :names", "rule.newest = 1"], {**values, "names": names}
    counts: dict[str, dict[str, int]] = {}
    grouped = f"{_COUNTS} {_all(where)} GROUP BY op.name, rule.action, decomp_table.from_dict ORDER BY 1, 3, 2 DESC"
    for name, action, from_dict, number in reader.rows(grouped, values):
        counts.setdefault(name, {})[_OF_DICT[action] if from_dict else action] = int(number)
    query = _RULES.format(where=_all(where), limit="" if limit is None else f"LIMIT {max(limit, 0):d}")
    hint = "" if counts else did_you_mean(names[0], _HubOps(reader))
    return HubBlame(tuple(names), counts, tuple(_rules(reader, reader.rows(query, values))), hint)


def explain(
    reader: HubReader,
    op: object,
    *,
    ledger: str | None = None,
    program: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[HubExplanation]:
    """Give what happened to an op in the newest export of each program of a hub, by ledger.

    Args:
        reader: of the hub.
        op: its name, or an `OpOverload`. The name of a family means all its overloads.
        ledger: only of this ledger: its name or its id.
        program: a part of the name of the table, the module or the file, the letters A to Z in either case.
        progress: called with the number of programs done, and of all.

    Raises:
        InvalidName: the text cannot name an op.
    """
    found = _programs(reader, ledger, program)
    total = sum(map(len, found.values()))
    done = 0
    for (row, name), programs in found.items():
        for export in _newest_exports(reader, row, name, programs):
            yield from _explained(reader, op, export)
            done += 1
            if progress is not None:
                progress(done, total)
    yield from _unknown(reader, ledger, program)


def _explained(reader: HubReader, op: object, found: HubExport) -> Iterator[HubExplanation]:
    seq = found.event.seq
    state = queries.state_of_bundle(f"export:{seq}", reader.bundle(found.ledger, found.event))
    state = attrs.evolve(state, catalog=reader.whole_catalog(found.body.catalog))
    try:
        answers: Sequence[Explanation | None] = queries.explain(op, state)
    except UnknownOp:
        answers = (None,)
    for answer in answers:
        yield HubExplanation(found.ledger, found.program, seq, answer)


def _unknown(reader: HubReader, ledger: str | None, program: str | None) -> Iterator[HubExplanation]:
    """Give the series whose programs are not known, because their newest runs have no export."""
    where, values = _newest_of(reader, ledger, program, "export")
    rows = reader.rows(_WITHOUT_EXPORT.format(where=_all([*where, _HAS_NO_EXPORT])), values)
    last = {row[:4]: row[4] for row in rows}  # of the newest of the runs that have one
    for (own_id, name, series, run), seq in last.items():
        yield HubExplanation(LedgerName(own_id, name), series, seq, None, without_export(run, seq))


_Programs: TypeAlias = "dict[Program, list[ProgramExport]]"


def _programs(reader: HubReader, ledger: str | None, program: str | None) -> dict[tuple[int, LedgerName], _Programs]:
    """Return the programs of each ledger of a hub, with their exports that count.

    Raises:
        HubError: the table of an export is missing, so that its program would be.
    """
    if reader.rows(_WITHOUT_TABLE):
        raise HubError("the hub is damaged: the table of an export is missing; run `decomp-ledger hub verify`")
    where, values = _newest_of(reader, ledger, program, "program")
    exports: dict[tuple[int, LedgerName], list[ProgramExport]] = {}
    for row, own_id, name, seq, *facts in reader.rows(_PROGRAM_EXPORTS.format(where=_all(where)), values):
        series, module, file, graph, commit = facts
        found = ProgramExport(seq, series, module or None, file or None, graph or None, commit or None)
        exports.setdefault((row, LedgerName(own_id, name)), []).append(found)
    return {of: current(of_ledger) for of, of_ledger in exports.items()}


def _newest_of(
    reader: HubReader, ledger: str | None, program: str | None, of_module: str
) -> tuple[list[str], dict[str, Any]]:
    """Return the condition that tables are the newest runs of their series, and that programs are the wanted ones."""
    where, values = _of_ledger(reader, ledger, "decomp_table")
    where.append("decomp_table.newest = 1")
    if program is not None:
        where.append(_of_program(reader, "decomp_table", of_module))
        values["part"] = _lower(program)
    return where, values


def _newest_exports(reader: HubReader, row: int, ledger: LedgerName, programs: _Programs) -> Iterator[HubExport]:
    """Give the newest export of each program of a ledger.

    Raises:
        HubError: one is damaged, or is not of the program that the hub has it as.
    """
    newest = {exports[-1].seq: (program, exports[-1]) for program, exports in programs.items()}
    events = [event for _, event in reader.events_at(row, sorted(newest))]
    if len(events) != len(newest):
        raise HubError(f"{ledger.name}: damaged: an export is missing; run `decomp-ledger hub verify`")
    environments = reader.environments({event.environment for event in events})
    for event in events:
        (program, known), environment = newest[event.seq], environments[event.environment]
        own = _facts_of(event, known.table, environment)
        if attrs.asdict(own, value_serializer=_without_nul) != attrs.asdict(known, value_serializer=_without_nul):
            raise HubError(
                f"event #{event.seq} of {ledger.name}: damaged: it is not of {str(program)!r:.200}; "
                "run `decomp-ledger hub verify`"
            )
        name = str(program_of(own, siblings=program.graph is not None))
        yield HubExport(ledger, name, _torch(environment), event)


def _exports(reader: HubReader, rows: Sequence[Any]) -> Iterator[HubExport]:
    """Give the exports of rows: the columns of an event, its series, and how many graphs its class and commit have."""
    found = [(*reader.event(row[:6]), *row[6:8]) for row in rows]
    environments = reader.environments({event.environment for _, event, *_ in found})
    for ledger, event, series, graphs in found:
        environment = environments[event.environment]
        program = program_of(_facts_of(event, series, environment), siblings=graphs > 1)
        yield HubExport(ledger, str(program), _torch(environment), event)


def _facts_of(event: Event, series: str, environment: Mapping[str, Json]) -> ProgramExport:
    if not isinstance(event.body, Exported):
        raise HubError(f"event #{event.seq}: damaged: it is not an export; run `decomp-ledger hub verify`")
    return ProgramExport.of(event, series, environment.get("git_commit"))


def _torch(environment: Mapping[str, Json]) -> str:
    torch = environment.get("torch")
    return torch if isinstance(torch, str) else ""


def _without_nul(_: object, __: object, value: Any) -> Any:
    """Return a value as PostgreSQL has it."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _recorded(reader: HubReader, found: Sequence[tuple[LedgerName, Event]]) -> Iterator[HubEvent]:
    environments = reader.environments({event.environment for _, event in found})
    digests = {change.decomposition for _, event in found for change in event.changes} - {None}
    decompositions = reader.decompositions(cast("set[str]", digests))
    for ledger, event in found:
        own = {change.decomposition for change in event.changes}
        named = {digest: each for digest, each in decompositions.items() if digest in own}
        yield HubEvent(ledger, RecordedEvent(event, environments[event.environment], named))


def _rules(reader: HubReader, rows: Sequence[Any]) -> Iterator[HubRule]:
    found = [(*reader.event(row[:6]), row[6:]) for row in rows]
    changes = [[change for change in event.changes if change.op == row[3]] for _, event, row in found]
    named = {change.decomposition for each in changes for change in each} - {None}
    decompositions = reader.decompositions(cast("set[str]", named))
    for (ledger, event, (table, version, from_dict, op, action)), own in zip(found, changes, strict=True):
        rules: dict[str, Rule] = {}
        fold(rules, own, decompositions)
        if op not in rules or rules[op].action != action:
            raise HubError(
                f"event #{event.seq} of {ledger.name}: damaged: it does not set the rule of {op:.80} in {table:.80}; "
                "run `decomp-ledger hub verify`"
            )
        yield HubRule(ledger, table, version, op, rules[op], bool(from_dict), event)


# SQL


def _of_ledger(reader: HubReader, ledger: str | None, table: str) -> tuple[list[str], dict[str, Any]]:
    """Return the condition that rows of a table are of one ledger, with its value; none if any ledger is meant."""
    if ledger is None:
        return [], {}
    return [f"{table}.ledger_id = :of_ledger"], {"of_ledger": reader.ledger(ledger)[0]}


def _of_program(reader: HubReader, of_series: str, of_module: str) -> str:
    text = f"{of_series}.series || ' ' || {of_module}.module || ' ' || {of_module}.file"
    return _contains(reader, f"({text})", "part")


def _all(where: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(where)}" if where else ""


def _contains(reader: HubReader, column: str, name: str) -> str:
    """Return the condition that a column contains a text of lower case, the letters A to Z in either case."""
    if reader.dialect == "postgresql":
        return f'strpos(lower({column} COLLATE "C"), :{name}) > 0'
    return f"instr(lower({column}), :{name}) > 0"


def _lower(text: str) -> str:
    """Return a text with the letters A to Z in lower case, and no other letter changed."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def _newest_first(
    reader: HubReader, select: str, where: Sequence[str], values: Mapping[str, Any], table: str, page: int
) -> Iterator[list[Any]]:
    """Give the rows of a query, newest first, a page at a time; each page goes on where the one before it ended.

    Args:
        reader: of the hub.
        select: the query, whose columns are those of an event, others, the time, and the row of the ledger.
        where: its conditions.
        values: their values.
        table: the table with the columns `recorded_at`, `ledger_id` and `seq` of the order.
        page: how many rows are read at once.
    """
    one = "of_ledger" in values  # then by seq, which is hashed, and which no clock can disturb
    columns = [f"{table}.{name}" for name in (("seq",) if one else ("recorded_at", "ledger_id", "seq"))]
    order = ", ".join(f"{column} DESC" for column in columns)
    names = ("last_seq",) if one else ("last_at", "last_ledger", "last_seq")
    after = f"({', '.join(columns)}) < ({', '.join(f':{name}' for name in names)})"
    last: dict[str, Any] = {}
    while True:
        conditions = [*where, after] if last else where
        rows = reader.rows(f"{select} {_all(conditions)} ORDER BY {order} LIMIT {page}", {**values, **last})
        if rows:
            yield rows
        if len(rows) < page:
            return
        *_, at, ledger_id = rows[-1]
        last = {"last_seq": rows[-1][2]} if one else {"last_at": at, "last_ledger": ledger_id, "last_seq": rows[-1][2]}


def _op_ids(reader: HubReader, names: Sequence[str]) -> list[int]:
    return [row[0] for row in reader.rows(_OP_IDS, {"names": [*names]})]


class _HubOps(Collection[str]):
    """The names of the ops that events of a hub changed, read when they are asked for."""

    def __init__(self, reader: HubReader) -> None:
        self._reader = reader

    def __contains__(self, name: object) -> bool:
        return bool(self._reader.rows(_HAS_OP, {"name": name}))

    def __iter__(self) -> Iterator[str]:
        return (row[0] for row in self._reader.rows(_OP_NAMES))

    def __len__(self) -> int:
        return sum(1 for _ in self)
