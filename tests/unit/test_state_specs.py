"""The one parser of versions, export numbers and state specs, and everything that takes them."""

import string
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from decomp_ledger.cli import cli
from decomp_ledger.errors import InvalidName, LedgerError, UnknownExport, UnknownVersion, UnusableValue
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.op_names import check_label
from decomp_ledger.model.state_specs import (
    MAX_NUMBER,
    CatalogSpec,
    ExportSpec,
    StampSpec,
    TableSpec,
    TorchSpec,
    clamped,
    is_number_like,
    parse_export_number,
    parse_export_spec,
    parse_number,
    parse_state_spec,
    parse_version,
)

ARABIC_TWO = "\N{ARABIC-INDIC DIGIT TWO}"
LONG = "9" * 5001
# Any text that an argument can hold, lone surrogates included: a shell passes bytes that are not UTF-8 as such.
TEXTS = st.one_of(
    st.text(st.characters(), max_size=12),
    st.text(string.digits + "@:" + ARABIC_TWO + "²-+ ", max_size=8),
    st.integers().map(str),
    st.sampled_from([LONG, ARABIC_TWO, str(MAX_NUMBER), str(MAX_NUMBER + 1), "99999999999999999999", "0", "-1", "²"]),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with one table of three versions, the second of them tagged."""
    file = tmp_path_factory.mktemp("specs") / "l.db"
    with Ledger(file, actor="Ada") as ledger:
        log = ledger.create_table("edge")
        log.preserve(["aten::linear"])
        log.preserve(["aten::gelu"])
        log.tag("release", 2)
    return file


@pytest.fixture(scope="module")
def ledger(path: Path) -> Iterator[Ledger]:
    """The same ledger, opened for reading."""
    with Ledger(path, read_only=True) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("edge", TableSpec("edge")),
        ("edge@3", TableSpec("edge", 3)),
        ("edge@v1", TableSpec("edge", "v1")),
        ("edge@", TableSpec("edge", "")),
        (f"edge@{ARABIC_TWO}", TableSpec("edge", ARABIC_TWO)),
        (f"edge@{LONG}", TableSpec("edge", LONG)),
        ("torch:2.13.0", TorchSpec("2.13.0")),
        ("catalog:a/b.json", CatalogSpec("a/b.json")),
        ("catalog:model.pt2", CatalogSpec("model.pt2")),
        ("export:7", ExportSpec(7)),
        ("a/model.pt2", StampSpec("a/model.pt2")),
    ],
)
def test_a_state_spec_has_one_meaning(text: str, spec: object) -> None:
    assert parse_state_spec(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), (str(MAX_NUMBER), MAX_NUMBER)])
def test_ascii_digits_are_a_number(text: str, number: int) -> None:
    assert parse_number(text) == parse_version(text) == parse_export_number(text) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_0", "1.0", "²", ARABIC_TWO, str(MAX_NUMBER + 1), LONG])
def test_any_other_text_is_not_a_number(text: str) -> None:
    assert (parse_number(text), parse_version(text)) == (None, text)
    with pytest.raises(UnknownExport, match="not the number of an export; `decomp-ledger exports` lists them"):
        parse_state_spec(f"export:{text}")


@given(TEXTS)
def test_a_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_state_spec, parse_export_spec, parse_export_number):
        try:
            parse(text)
        except LedgerError as error:
            assert len(str(error)) < 500


@given(st.integers())
def test_a_clamped_number_selects_the_same_events(number: int) -> None:
    found = clamped(number)
    assert found is not None and -(2**63) <= found <= MAX_NUMBER
    assert all((seq > number) == (seq > found) for seq in (1, 2, 10**6))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (9, "edge@9: the table has 3 versions; give one of 1 to 3"),
        ("9", "edge@9: the table has 3 versions; give one of 1 to 3"),
        ("0", "edge@0: the table has 3 versions; give one of 1 to 3"),
        (LONG, f"edge@{'9' * 40}...: the table has 3 versions; give one of 1 to 3"),
        (-1, "edge@-1: the table has 3 versions; give one of 1 to 3"),
        (
            ARABIC_TWO,
            f"edge@{ARABIC_TWO}: the table has no such tag; give one of its tags (release) or a version, 1 to 3",
        ),
    ],
)
def test_every_way_to_give_a_version_has_the_same_error(ledger: Ledger, version: int | str, message: str) -> None:
    log = ledger.table_log("edge")
    ways: list[Callable[[], object]] = [
        lambda: ledger.show(f"edge@{version}"),
        lambda: ledger.resolve(f"edge@{version}"),
        lambda: ledger.state("edge", version),
        lambda: ledger.revert("edge", version),
        lambda: ledger.tag(f"edge@{version}", "name"),
        lambda: log.at(version),
        lambda: log.past(version),
        lambda: log.diff(1, version),
    ]
    for way in ways:
        if version == -1 and way in (ways[0], ways[1], ways[4]):
            continue  # as text, "-1" is a tag
        with pytest.raises(UnknownVersion) as raised:
            way()
        assert str(raised.value) == message


def test_verify_refuses_an_anchor_whose_seq_sqlite_cannot_hold(ledger: Ledger) -> None:
    with pytest.raises(UnusableValue, match="not the seq of an event; give an integer from 1 to"):
        ledger.verify(anchors=[(10**30, "0" * 64)])


def test_a_number_as_text_is_a_version(ledger: Ledger) -> None:
    assert ledger.state("edge", "2") == ledger.state("edge", 2) == ledger.state("edge", "release")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, st.integers())
@example(LONG, 10**40)
def test_every_call_that_takes_a_version_works_or_raises_a_ledger_error(ledger: Ledger, text: str, number: int) -> None:
    log = ledger.table_log("edge")
    calls: list[Callable[[], object]] = [
        *(lambda spec=spec: ledger.show(spec) for spec in (text, f"edge@{text}", f"export:{text}", f"torch:{text}")),
        lambda: ledger.explain("aten::mm", f"edge@{text}"),
        lambda: ledger.blame(f"edge@{text}"),
        lambda: ledger.diff("edge", f"edge@{text}"),
        lambda: ledger.upgrade(f"edge@{text}", torch=text),
        lambda: ledger.used_ops(text),
        lambda: ledger.tag(f"edge@{text}", "release"),
        lambda: ledger.state("edge", text),
        lambda: ledger.state("edge", number),
        lambda: log.at(text),
        lambda: log.at(number),
        lambda: ledger.export(number),
        lambda: ledger.bundle(number),
        lambda: list(ledger.events(gt=number, lte=number, limit=3)),
        lambda: list(ledger.events(limit=abs(number))),
        lambda: ledger.revert("edge", text),
        lambda: ledger.revert("edge", "release", expected_version=number),
    ]
    for call in calls:
        try:
            call()
        except LedgerError as error:
            assert str(error)


COMMANDS = [
    ["show", "{}"],
    ["show", "edge@{}"],
    ["show", "export:{}"],
    ["blame", "edge@{}"],
    ["explain", "aten::mm", "edge@{}"],
    ["explain", "aten::mm", "--export", "{}"],
    ["diff", "edge", "edge@{}"],
    ["drift", "torch:{}", "edge@{}"],
    ["drift", "torch:2.6.0", "torch:2.7.1", "--only-used", "{}"],
    ["upgrade", "edge@{}", "--torch", "{}"],
    ["catalog", "show", "edge@{}"],
    ["tag", "edge@{}", "name"],
    ["revert", "edge", "--to", "{}"],
    ["revert", "edge", "--to", "release", "--expected-version", "{}"],
    ["log", "--after", "{}"],
    ["log", "-n", "{}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
@example(text=LONG)
@example(text=ARABIC_TWO)
@example(text="99999999999999999999")
@example(text="\udcff")
def test_every_command_that_takes_a_version_answers_or_refuses(path: Path, command: list[str], text: str) -> None:
    arguments = ["--ledger", str(path), *(argument.format(text) for argument in command)]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.exception is None or isinstance(result.exception, (LedgerError, click.ClickException))


@pytest.mark.parametrize("to", [ARABIC_TWO, LONG, "99999999999999999999"])
def test_revert_takes_no_number_that_a_state_spec_does_not(path: Path, to: str) -> None:
    for command in (["revert", "edge", "--to", to], ["show", f"edge@{to}"]):
        result = CliRunner().invoke(cli, ["--ledger", str(path), *command], standalone_mode=False)
        assert isinstance(result.exception, UnknownVersion)


labels = st.one_of(
    st.text(min_size=1, max_size=12),
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(["edge", "@", ":", "torch:", "export:", "catalog:", ".pt2", "3", "2.13.0", "/", " ", "."]),
            min_size=1,
            max_size=4,
        ),
    ),
)


@given(labels, labels)
def test_every_table_and_tag_that_can_be_made_can_be_named_by_a_state_spec(table: str, tag: str) -> None:
    try:
        check_label(table, "a table")
    except InvalidName as error:
        assert "\n" not in str(error)
        return
    assert parse_state_spec(table) == TableSpec(table)
    with suppress(InvalidName):
        check_label(tag, "a tag")
        if not is_number_like(tag):
            assert parse_state_spec(f"{table}@{tag}") == TableSpec(table, tag)


@pytest.mark.parametrize("name", ["model.pt2", "export:3", "a@b", "torch:2.13", ".pt2", "catalog:x"])
def test_a_name_that_a_state_spec_reads_otherwise_is_refused(name: str) -> None:
    for what in ("a table", "a tag"):
        with pytest.raises(InvalidName, match=what):
            check_label(name, what)
