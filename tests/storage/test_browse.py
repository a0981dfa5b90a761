"""The pages of `browse`: what they answer, whom they answer, and that they only read."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
from report_ledgers import HOSTILE, hostile_ledger, sample_ledger
from strategies import new_table

import decomp_ledger as dl
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage.views import QUESTIONS, VIEWS

pytest.importorskip("datasette", reason="needs Datasette: pip install -e .[dev]")
from decomp_ledger.web.server import serving

# Elements that load something, or run.
LOADING = {
    "script",
    "img",
    "iframe",
    "frame",
    "object",
    "embed",
    "base",
    "audio",
    "video",
    "source",
    "input[type=image]",
}


class Answer:
    """The answer to one request."""

    def __init__(self, address: str, target: str, method: str = "GET", headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(urljoin(address, target))
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(
                method, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers or {}
            )
            found = connection.getresponse()
            self.status, self.headers = found.status, {name.lower(): value for name, value in found.getheaders()}
            self.text = found.read().decode("utf-8", "replace")  # of a blob too


class Parsed(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def links(self) -> set[str]:
        return {str(found["href"]) for tag, found in self.elements if tag == "a"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browse") / "a b#1?.db"
    assert sample_ledger(path) == (7, 8)
    return path


@pytest.fixture(scope="module")
def address(sample: Path) -> Iterator[str]:
    with Ledger(sample, read_only=True) as ledger, serving(ledger) as (served, _):
        yield served


def ask(address: str, target: str, **values: str) -> list[dict[str, object]]:
    """Return the rows of a page, as its JSON has them."""
    found = Answer(address, f"{target}?{urlencode({**values, '_shape': 'array'})}")
    assert found.status == 200, found.text
    return list(json.loads(found.text))


def crawled(address: str) -> dict[str, Answer]:
    """Return every page that links lead to from the first one."""
    pages: dict[str, Answer] = {}
    queue = ["/ledger"]
    while queue:
        target = queue.pop()
        if target in pages:
            continue
        pages[target] = found = Answer(address, target)
        if found.headers["content-type"].startswith("text/html"):
            links = {urljoin(urljoin(address, target), link).partition("#")[0] for link in Parsed(found.text).links}
            assert {link for link in links if not link.startswith(address)} == set(), target
            # Conditions and orders can be put together without end.
            queue += ["/" + link.removeprefix(address) for link in links if "?" not in target or "?" not in link]
        assert len(pages) < 500
    return pages


@pytest.mark.parametrize("text", ["", " ".join(HOSTILE), HOSTILE[-1]], ids=["plain", "hostile", "long"])
def test_every_link_leads_to_a_page_that_loads_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.db"
    if text.strip():
        hostile_ledger(path, text)
    else:
        sample_ledger(path)
    before = path.read_bytes()
    with Ledger(path, read_only=True) as ledger, serving(ledger) as (address, _):
        pages = crawled(address)
    assert path.read_bytes() == before
    assert {target: found.text for target, found in pages.items() if found.status not in (200, 302)} == {}
    assert {f"/ledger/{name}" for name in (*VIEWS, *QUESTIONS)} < set(pages)
    assert sum(target.startswith("/-/report/export/") for target in pages) == 2
    for target, found in pages.items():
        assert "script-src" not in found.headers["content-security-policy"], target
        assert found.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
        if found.headers["content-type"].startswith("text/html"):
            page = Parsed(found.text)
            assert {tag for tag, _ in page.elements} & LOADING == set(), target
            assert [name for _, given in page.elements for name in given if name.startswith("on")] == [], target
            assert "\x1b" not in page.words and "\u202e" not in page.words, target


def test_the_first_page_leads_to_the_ledger_and_describes_each_view(address: str, sample: Path) -> None:
    first = Answer(address, "/")
    assert (first.status, first.headers["location"]) == (302, "/ledger")
    words = " ".join(Parsed(Answer(address, "/ledger").text).words.split())
    assert sample.name in words
    for view in VIEWS.values():
        assert view.about.replace("`", "") in words
    columns = " ".join(Parsed(Answer(address, "/ledger/fired").text).words.split())
    assert all(f"{name}{about}" in columns for name, about in VIEWS["fired"].columns.items())


def test_each_question_has_the_answer_of_python(address: str, sample: Path) -> None:
    with Ledger(sample, read_only=True) as ledger:
        assert [row["seq"] for row in ask(address, "/ledger/events.json")] == [
            event.seq for event in ledger.events(desc=True)
        ]
        for version in (1, 2, 3, 4):
            rules, blame = ledger.state("edge", version).rules, ledger.blame(f"edge@{version}")
            found = ask(address, "/ledger/rules_at.json", table="edge", version=str(version))
            assert {(row["op"], row["action"], row["seq"]) for row in found} == {
                (op, rule.action, blame[op].seq) for op, rule in rules.items()
            }
    assert ask(address, "/ledger/rules_at.json", table="edge", version="") == found
    (table,) = ask(address, "/ledger/tables.json")
    assert (table["table_name"], table["version"], table["rules"], table["exports"], table["export"]) == (
        "edge", 4, 3, 2, 8,
    )  # fmt: skip
    assert [row["op"] for row in ask(address, "/ledger/who_preserved.json", op="linear")] == ["aten::linear"]
    assert [row["op"] for row in ask(address, "/ledger/who_preserved.json")] == ["aten::linear", "mylib::late"]
    ran = ask(address, "/ledger/exports_that_ran.json", op="gelu")
    assert [(row["export"], row["times"]) for row in ran] == [(8, 2), (7, 2)]
    assert [(row["export"], row["error"]) for row in ask(address, "/ledger/failed_exports.json")] == [
        (8, "RuntimeError")
    ]
    assert ask(address, "/ledger/saved_files.json") == []


def test_exports_are_found_by_their_torch_and_files_by_their_export(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert hostile_ledger(path, "2.13.0+cpu") == 5
    with Ledger(path, read_only=True) as ledger, serving(ledger) as (address, _):
        assert [row["export"] for row in ask(address, "/ledger/exports_with_torch.json", torch="2.13")] == [7, 5]
        assert ask(address, "/ledger/exports_with_torch.json", torch="2.1.") == []
        (saved,) = ask(address, "/ledger/saved_files.json")
        assert (saved["export"], saved["path"], saved["size"], saved["seq"]) == (5, "2.13.0+cpu", 7, 6)


def test_an_event_leads_to_its_table_and_an_export_to_its_report(address: str) -> None:
    event = Parsed(Answer(address, "/ledger/event/7").text)
    assert {"/-/report/export/7", "/ledger/decomp_table/1"} <= event.links
    assert "edge" in event.words and "Ada <ada@example.org>" in event.words
    assert {"/-/report/table/edge", "/-/report/table/edge?version=2", "/ledger/event/2"} <= Parsed(
        Answer(address, "/ledger/changes").text
    ).links


@pytest.mark.parametrize(
    ("target", "specs"),
    [
        ("/-/report", ()),
        ("/-/report/export/7", ("export:7",)),
        ("/-/report/exports/7/8", ("export:7", "export:8")),
        ("/-/report/table/edge", ("edge",)),
        ("/-/report/table/edge?version=2", ("edge@2",)),
        ("/-/report/table/edge?version=release-1.0", ("edge@release-1.0",)),
    ],
)
def test_a_report_is_the_one_that_python_gives(address: str, sample: Path, target: str, specs: tuple[str, ...]) -> None:
    with Ledger(sample, read_only=True) as ledger:
        assert Answer(address, target).text == ledger.report(*specs)


@pytest.mark.parametrize(
    ("target", "status", "error"),
    [
        ("/-/report/export/99", 404, "the ledger has no export 99"),
        ("/-/report/export/7x", 404, "no page has this address"),
        ("/-/report/table/nope", 404, "the ledger has no table"),
        ("/-/report/table/edge?version=9", 404, "edge@9"),
        ("/-/report/table/~2Fetc~2Fpasswd", 404, "the ledger has no table"),
        ("/-/versions", 404, "no page has this address"),
        ("/-/threads.json", 404, "no page has this address"),
        ("/_internal", 403, "You do not have permission"),
        ("/ledger/nope", 404, "Table not found"),
        ("/nope", 404, "Database not found"),
        ("/ledger/event/99", 404, "Record not found"),
        ("/ledger/changes?_sort=nope", 500, "Cannot sort table by nope"),
        ("/ledger.db", 403, "Database download is forbidden"),
        ("/ledger?sql=SELECT+%1b[31mnope", 400, r"unrecognized token: \"\x1b\""),
        ("/ledger?sql=DELETE+FROM+event", 400, "Statement must be a SELECT"),
        ("/ledger?sql=SELECT+load_extension('x')", 400, "not authorized"),
        ("/ledger?sql=WITH+a+AS+(SELECT+1)+DELETE+FROM+event", 400, "readonly"),
        ("/ledger?sql=PRAGMA+query_only=0", 400, "Statement must be a SELECT"),
        ("/ledger?sql=ATTACH+'x.db'+AS+x", 400, "Statement must be a SELECT"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_clear_error_and_prints_nothing(
    address: str, capfd: pytest.CaptureFixture[str], target: str, status: int, error: str
) -> None:
    found = Answer(address, target)
    words = Parsed(found.text).words if "html" in found.headers["content-type"] else json.loads(found.text)["error"]
    assert found.status == status, words
    assert error.replace('\\"', '"') in words
    assert capfd.readouterr() == ("", "")


def test_a_statement_that_does_not_end_is_stopped(address: str) -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    found = Answer(address, f"/ledger?{urlencode({'sql': endless})}")
    assert found.status == 400
    assert "The statement took too long" in Parsed(found.text).words


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("HEAD", {}, 200),
        ("POST", {}, 405),
        ("PUT", {}, 405),
        ("OPTIONS", {}, 405),
        ("GET", {"Host": "localhost:9000"}, 200),  # the other end of a tunnel
        ("GET", {"Host": "evil.example"}, 421),
        ("GET", {"Host": "evil.example:8001"}, 421),
        ("GET", {"Host": "127.0.0.1.evil.example"}, 421),
        ("GET", {"Host": "127.0.0.1@evil.example"}, 421),
        ("GET", {"Host": "["}, 421),
        ("GET", {"Host": ""}, 421),
        ("GET", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "nested-navigate"}, 403),
        ("GET", {"Origin": "http://evil.example"}, 200),  # which the browser does not let it read
    ],
)
def test_only_this_machine_s_own_pages_are_answered(
    address: str, method: str, headers: dict[str, str], status: int
) -> None:
    found = Answer(address, "/ledger", method, headers)
    assert found.status == status
    assert not any(name.startswith("access-control") for name in found.headers)
    assert found.headers["cross-origin-resource-policy"] == "same-origin"


def test_it_listens_on_the_loopback_address_alone(address: str) -> None:
    port = urlsplit(address).port
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert urlsplit(address).hostname == "127.0.0.1"


def test_events_of_a_writer_appear_and_nothing_keeps_it_waiting(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, actor="ann", timeout=0) as writer, serving(writer) as (address, _):
        table = new_table(writer)
        table.preserve(["aten::mm"])
        assert [row["op"] for row in ask(address, "/ledger/current_rules.json")] == ["aten::mm"]
        table.preserve(["aten::add.Tensor"])
        assert len(ask(address, "/ledger/current_rules.json")) == 2
        assert writer.verify().ok


def test_a_file_that_was_replaced_is_not_shown(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger.db", tmp_path / "other.db"
    sample_ledger(path)
    hostile_ledger(other, "x")
    with Ledger(path, read_only=True) as ledger, serving(ledger) as (address, _):
        assert Answer(address, "/ledger/changes").status == 200
        other.replace(path)
        for target in ("/ledger/changes", "/-/report"):
            found = Answer(address, target)
            assert found.status == 500
            assert "the file was removed or replaced while it was open" in Parsed(found.text).words


def test_a_view_of_a_stranger_is_refused_before_and_while_it_is_served(tmp_path: Path) -> None:
    path, before = tmp_path / "ledger.db", tmp_path / "before.db"
    sample_ledger(path)
    shutil.copy(path, before)
    with Ledger(path, read_only=True) as ledger, serving(ledger) as (address, _):
        assert Answer(address, "/ledger/changes").status == 200
        for file in (path, before):
            with contextlib.closing(sqlite3.connect(file)) as db:
                db.execute("DROP VIEW changes")
                db.execute("CREATE VIEW changes AS SELECT randomblob(100000000) AS op")
                db.commit()
        found = Answer(address, "/ledger/changes")
        assert found.status == 500
        assert "the view 'changes' of the file's schema was changed" in Parsed(found.text).words
    with pytest.raises(dl.DamagedSchema):
        dl.browse(before)


def test_an_older_ledger_is_shown_with_the_views_that_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    sample_ledger(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        for view in VIEWS:
            db.execute(f"DROP VIEW {view}")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = '0002_views'")
        db.commit()
    with Ledger(path, read_only=True) as ledger, serving(ledger) as (address, _):
        assert len(ask(address, "/ledger/current_rules.json")) == 3
        assert "An older version wrote it" in Parsed(Answer(address, "/ledger").text).words


def test_datasette_has_its_plugins_back_once_no_ledger_is_served(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    # In a process of its own, because other tests of this module serve a ledger meanwhile.
    program = """
import sys, threading
from pathlib import Path
from datasette.plugins import pm
from report_ledgers import sample_ledger
from decomp_ledger.ledger import Ledger
from decomp_ledger.web.server import serving
names = lambda: [name for name, _ in pm.list_name_plugin()]
sample_ledger(Path(sys.argv[1]))
before, threads = names(), threading.active_count()
with Ledger(sys.argv[1], read_only=True) as ledger:
    for _ in range(2):
        with serving(ledger), serving(ledger):
            print("decomp_ledger.web.plugin" in names(), "datasette.publish.heroku" in names())
        print(names() == before, threading.active_count() == threads)
"""
    assert run_python(program, str(tmp_path / "ledger.db")) == "True False\nTrue True\n" * 2


def test_it_ends_with_an_interrupt_and_gives_the_address_first(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    served: list[str] = []

    def ready(address: str) -> None:
        served.append(address)
        assert Answer(address, "/ledger").status == 200

    with monkeypatch.context() as patch:
        patch.setattr("threading.Event.wait", interrupted_once(threading.Event.wait))
        assert dl.browse(sample, ready=ready, open=True) is None
    assert opened == served and len(served) == 1
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", urlsplit(served[0]).port), timeout=5)


def test_what_cannot_be_served_is_one_clear_error(sample: Path, tmp_path: Path) -> None:
    with Ledger(":memory:") as ledger, pytest.raises(dl.UnusableValue, match="a ledger in memory cannot be served"):
        ledger.browse()
    for port in (-1, 65536):
        with pytest.raises(dl.UnusableValue, match=f"port: {port} is not possible; give 1 to 65535"):
            dl.browse(sample, port=port)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(dl.LedgerError, match=f"port {port}: it cannot be used: .*; give another one"):
            dl.browse(sample, port=port)
    with pytest.raises(dl.LedgerFileError, match="does not exist"):
        dl.browse(tmp_path / "none.db")
    with pytest.raises(dl.UnusableValue, match=r"browse\(port='80'\)"):
        dl.browse(sample, port="80")  # type: ignore[arg-type]


def test_without_datasette_the_error_names_the_extra(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "decomp_ledger.web.server", None)
    with pytest.raises(dl.LedgerError, match=r"browse: needs Datasette 0\.65 .* pip install 'decomp-ledger\[web\]'"):
        dl.browse(sample)


def interrupted_once(wait):  # type: ignore[no-untyped-def]
    """Return a wait that raises KeyboardInterrupt in the main thread."""

    def waiting(event, timeout=None):  # type: ignore[no-untyped-def]
        if threading.current_thread() is threading.main_thread() and timeout == 0.2:
            raise KeyboardInterrupt
        return wait(event, timeout)

    return waiting
