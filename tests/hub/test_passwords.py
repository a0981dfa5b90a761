"""No output, error, event or traceback shows the password of a hub; and an error says what to do."""

import io
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from urllib.parse import quote

import pytest
from postgresql import Server

from decomp_ledger import Hub, HubError
from decomp_ledger.cli import main
from decomp_ledger.hub.connection import HubUrl
from decomp_ledger.hub.naming import without_password
from decomp_ledger.ledger import Ledger

PASSWORD = "s3cret/@:%'x& y"
WORDS = ("s3cret", quote(PASSWORD, safe=""), PASSWORD)
Ledgers = Callable[..., Ledger]


@pytest.fixture(scope="module")
def private(server: Server) -> Iterator[Callable[[str | None], str]]:
    """Return the address of a hub whose user needs a password, with the password given."""
    database = server.new_database()
    Hub(server.url(database)).init()
    file = server.folder / "data" / "pg_hba.conf"
    before = file.read_text()
    file.write_text(f"local all private scram-sha-256\n{before}")
    with server.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS private")
        literal = PASSWORD.replace("'", "''")
        connection.execute(f"CREATE USER private PASSWORD '{literal}'; GRANT decomp_ledger_writer TO private")
        connection.execute("SELECT pg_reload_conf()")
        yield lambda password: server.url(database, "private", password)
        file.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        server.drop_database(database)
        connection.execute("DROP ROLE private")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its status and all that it printed."""
    out, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["decomp-ledger", *arguments])
    with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as exited:
        main()
    return int(exited.value.code or 0), out.getvalue() + errors.getvalue()


COMMANDS = (
    "push {}", "push {} --json", "hub ledgers {}", "hub ledgers {} --json", "hub verify {}", "hub verify {} --json",
    "hub init {}", "verify --hub {}", "verify --hub {} --json", "fetch {}", "clone nosuch {} none.db",
    "push {} --as \x00", "push {} {} {}", "push --nonsense {}", "collect missing.db -o {}", "hub {}",
    "clone {} {} {} {}",
)  # fmt: skip


@pytest.mark.parametrize("text", COMMANDS)
@pytest.mark.parametrize(
    "form",
    ["right", "wrong", "query", "PGPASSWORD", "a wrong PGPASSWORD", "setting", "ambiguous", "file", "unreachable"],
)
def test_a_password_is_never_shown(
    private: Callable[[str | None], str],
    ledgers: Ledgers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    form: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    url = {
        "right": private(PASSWORD),
        "wrong": private(PASSWORD + "no"),
        "query": f"{private(None)}&password={quote(PASSWORD, safe='')}",
        "PGPASSWORD": private(None),
        "a wrong PGPASSWORD": private(None),
        "setting": "",
        "ambiguous": f"postgresql://private:{PASSWORD}@/hub",
        "file": "private:s3cret@host/hub",
        "unreachable": f"postgresql://private:{quote(PASSWORD, safe='')}@127.0.0.1:9/hub",
    }[form]
    if "PGPASSWORD" in form:
        monkeypatch.setenv("PGPASSWORD", PASSWORD if form == "PGPASSWORD" else PASSWORD + "no")
    if form == "setting":
        monkeypatch.setenv("DECOMP_LEDGER_HUB", private(PASSWORD + "no"))
    ledger = ledgers()
    arguments = [each.format(url) for each in text.split(" ")]
    status, printed = command(monkeypatch, "--ledger", ledger.path, *[each for each in arguments if each])
    assert not any(word in printed for word in WORDS), printed
    assert "Traceback" not in printed and (status or printed)
    assert not any(word in "".join(ledger.dump_lines()) for word in WORDS)


@pytest.mark.parametrize("password", [PASSWORD, PASSWORD + "no"])
def test_a_traceback_shows_no_password(private: Callable[[str | None], str], ledgers: Ledgers, password: str) -> None:
    hub = Hub(private(password))
    assert not any(word in f"{hub!r}{hub.url!r}{hub.url}" for word in WORDS)
    for use in (lambda: ledgers().push(private(password), name="\x00"), lambda: hub.verify("nosuch")):
        with pytest.raises(HubError) as raised:
            use()
        shown = "".join(traceback.format_exception(raised.value))
        assert not any(word in shown for word in WORDS)


def test_the_call_site_of_a_command_has_no_password(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = ledgers()
    status, _ = command(
        monkeypatch, "--ledger", ledger.path, "tag", "edge", "v1", "--reason", "postgresql://u:s3cret@host/hub"
    )
    assert status == 0
    site = list(ledger.events())[-1].call_site
    assert site is not None and "postgresql://u:***@host/hub" in site.file and "s3cret" not in site.file


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("push postgresql://u:p@h/d", "push postgresql://u:***@h/d"),
        ("push postgresql+psycopg://u:p%40x@h", "push postgresql+psycopg://u:***@h"),
        ("x postgresql:///d?host=/a&password=p&user=u", "x postgresql:///d?host=/a&password=***&user=u"),
        ("x postgresql://u:p@w@h/d y", "x postgresql://u:***@h/d y"),
        ("push u:p@h/d 'u:p@h/d'", "push u:***@h/d 'u:***@h/d'"),
        ("postgresql://h/d", "postgresql://h/d"),
        ("diff edge@3 export:7 a:b@c", "diff edge@3 export:7 a:b@c"),
        ("see https://example.org/a@b", "see https://example.org/a@b"),
    ],
)
def test_a_command_line_is_kept_without_passwords(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://u:p@h/d", "mysql:// is unknown; give postgresql://"),
        ("postgresql:h/d", "'//' is missing"),
        ("sqlite://hub.db", "has three slashes"),
        ("sqlite:///", "it names no file"),
        ("postgresql://u:a@b@h/d", "as %40"),
        ("postgresql://h:port/d", "cannot be read"),
        ("postgresql://\udcff", "a lone surrogate"),
        ("u:p@h/d", "begins with no scheme"),
    ],
)
def test_an_address_that_cannot_be_read_is_one_clear_error(url: str, problem: str) -> None:
    with pytest.raises(HubError, match=problem) as raised:
        HubUrl.parse(url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://u@127.0.0.1:9/d", "no server listens there"),
        ("postgresql://u@no-such-host.invalid/d", "no host has that name"),
        ("postgresql:///d?host=/no/such/folder", "no server listens there"),
        ("nosuch.db", "the file does not exist; make a hub with `decomp-ledger hub init nosuch.db`"),
        (".", "it is a folder"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_one_clear_error(
    url: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubError, match=problem) as raised:
        Hub(url).ledgers()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("database", "user", "problem"),
    [
        ("nosuch", "postgres", "the server has no such database; create it first"),
        ("postgres", "nosuch", "the server has no such user; name one in the address, or set PGUSER"),
    ],
)
def test_a_database_or_a_user_that_does_not_exist_is_named(
    server: Server, database: str, user: str, problem: str
) -> None:
    with pytest.raises(HubError, match=problem):
        Hub(server.url(database, user)).init()
    with pytest.raises(HubError, match="libpq has no such setting; check what follows the"):
        Hub(f"{server.url(database, user)}&nosuch=5").init()


@pytest.mark.parametrize("package", ["sqlalchemy", "psycopg"])
def test_a_missing_extra_is_one_clear_error(
    package: str, ledgers: Ledgers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledgers()
    for name in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    uses = [lambda: ledger.push("postgresql://u@127.0.0.1:9/d")]
    uses += [Hub(str(tmp_path / "hub.db")).init] if package == "sqlalchemy" else []
    for use in uses:
        with pytest.raises(HubError, match=r"pip install 'decomp-ledger\[hub\]'"):
            use()


def test_the_hub_of_the_project_is_used(ledgers: Ledgers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = ledgers()
    with pytest.raises(HubError, match="no hub is named; give its address, set DECOMP_LEDGER_HUB"):
        ledger.push()
    (tmp_path / "pyproject.toml").write_text('[tool.decomp-ledger]\nhub = "project.db"\n')
    Hub().init()
    assert ledger.push().hub == str(tmp_path / "project.db")
    status, printed = command(monkeypatch, "--ledger", ledger.path, "push", "--json")
    assert (status, json.loads(printed)["hub"]) == (0, str(tmp_path / "project.db"))
    monkeypatch.setenv("DECOMP_LEDGER_HUB", "other.db")
    Hub().init()
    assert ledger.push().hub == str(tmp_path / "other.db")
