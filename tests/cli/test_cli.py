"""The command line: output, exit status, and errors."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from forging import tamper

from decomp_ledger import Ledger
from decomp_ledger.catalogs import released
from decomp_ledger.cli import cli
from decomp_ledger.log import provenance
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import Exported, Popped, Set, Updated
from decomp_ledger.model.rules import Decomposition

BUILD = {"torch": "9.9.9", "git": "abc", "accelerator": "cpu"}
CATALOG = Catalog(
    BUILD,
    {
        "aten::linear": Entry("cia", default=True),
        "aten::gelu": Entry("registry"),
        "aten::addcmul": Entry("registry", default=True),
        "aten::reshape": Entry("cia", unpreservable="its schema aliases an argument"),
        "aten::upsample_bilinear2d.vec": Entry("cia"),
        "aten::mm": Entry(),
        "mylib::fused": Entry("py_cia", default=True, module="mylib.ops", qualname="fused"),
    },
)
HOSTILE = "a\x1b[31mred\x1b]0;title\x07\nnext line\u202eright to left\x00\x7f[bold]markup[/bold]"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with two tables: `edge` is changed, tagged and materialized; `plain` is not."""
    file = tmp_path / "l.db"
    with Ledger(file, actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        with ledger.because("XNNPACK has a fused kernel"):
            edge.preserve(["aten::linear", "mylib::later"])
        decomposition = Decomposition("import", "mypkg.lower", "gelu", "0" * 64)
        edge.change(Popped, lambda _: [("aten::gelu", "override", decomposition)])
        edge.tag("release", 2)
        edge.materialize(CATALOG)
        ledger.create_table("plain", base="empty")
    return file


def run(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process."""
    command = [str(Path(sys.executable).with_name("decomp-ledger")), "--ledger", str(path), *arguments]
    env = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def answer(path: Path, *arguments: str) -> object:
    """Return the parsed output of a command with --json."""
    done = run(path, *arguments, "--json")
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_tables_lists_every_table_with_its_tags(path: Path) -> None:
    found = answer(path, "tables")
    expected = [("edge", 3, 5, {"release": 2}), ("plain", 1, 1, {})]
    assert expected == [(info["name"], info["version"], info["events"], info["tags"]) for info in found]
    assert "release@2" in run(path, "tables").stdout


def test_log_shows_what_who_where_and_why_newest_first(path: Path) -> None:
    text = run(path, "log").stdout
    assert [int(line[1:].split()[0]) for line in text.splitlines() if line.startswith("#")] == [6, 5, 4, 3, 2, 1]
    assert "edge@2  popped  aten::linear, mylib::later" in text
    assert "by Ada, at " in text
    assert "because XNNPACK has a fused kernel" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["edge"], [5, 4, 3, 2, 1]),
        (["--op", "aten.gelu.default"], [3]),
        (["--actor", "Ada", "-n", "2"], [6, 5]),
        (["--kind", "created", "--reverse"], [1, 6]),
        (["--after", "4"], [6, 5]),
    ],
)
def test_log_filters(path: Path, arguments: list[str], expected: list[int]) -> None:
    assert expected == [event["seq"] for event in answer(path, "log", *arguments)]


def test_show_prints_the_rules_and_the_snapshot(path: Path) -> None:
    shown = answer(path, "show", "edge")
    assert {"aten::gelu", "aten::linear", "mylib::later"} == shown["rules"].keys()
    assert shown["rules"]["aten::gelu"]["decomposition"]["module"] == "mypkg.lower"
    snapshot = shown["snapshot"]
    assert (
        snapshot["preserved"], snapshot["overridden"], snapshot["pending"], snapshot["size"]
    ) == (["aten::linear"], ["aten::gelu"], ["mylib::later"], 3)  # fmt: skip
    assert list(answer(path, "show", "edge", "--preserved")["rules"]) == ["aten::linear", "mylib::later"]
    assert list(answer(path, "show", "edge", "--overridden")["rules"]) == ["aten::gelu"]
    assert answer(path, "show", "edge@1")["rules"] == {}
    assert answer(path, "show", "edge@2")["rules"] == answer(path, "show", "edge@release")["rules"]
    everything = answer(path, "show", "edge", "--all")["snapshot"]["ops"]
    assert list(everything) == ["aten::addcmul", "aten::gelu", "mylib::fused"]
    text = run(path, "show", "edge", "--all").stdout
    assert "3 decompositions, 1 preserved, 1 overridden, 1 pending" in text
    assert "mylib::later (pending)" in text
    assert "override: mypkg.lower.gelu" in text


def test_show_all_says_why_it_has_no_decompositions(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.create_table("new")
    line = "new@1: no torch is recorded, so its decompositions are unknown; export with it first"
    assert run(tmp_path / "l.db", "show", "--all").stdout.splitlines() == ["new@1, base torch", line]


def test_blame_names_the_event_behind_each_op(path: Path) -> None:
    assert {op: event["seq"] for op, event in answer(path, "blame", "edge").items()} == {
        "aten::gelu": 3,
        "aten::linear": 2,
        "mylib::later": 2,
    }
    assert list(answer(path, "blame", "edge", "--op", "aten::gelu")) == ["aten::gelu"]
    text = run(path, "blame", "edge@release").stdout
    assert "aten::linear, mylib::later  preserve\n#2" in text
    assert "aten::gelu" not in text


@pytest.mark.parametrize(
    ("op", "state", "outcome", "because"),
    [
        ("aten::linear", "edge", "kept", "it was preserved by event #2"),
        ("aten.linear.default", "edge@1", "decomposed", "torch's default has it: its C++ Composite"),
        ("aten::gelu", "edge", "decomposed", "it was overridden with mypkg.lower.gelu by event #3"),
        ("aten::gelu", "edge@1", "kept", "torch's default table leaves it out"),
        ("aten::reshape", "edge", "decomposed", "torch cannot keep it (its schema aliases an argument)"),
        ("aten::upsample_bilinear2d.vec", "edge", "kept", "torch's default table leaves it out"),
        ("aten::mm", "edge", "kept", "nothing decomposes it"),
        (
            "mylib::later",
            "edge",
            "pending",
            "the op was not loaded in this torch; the rule 'preserve', set by event #2",
        ),
        ("mm", "edge", "kept", "nothing decomposes it"),
        ("upsample_bilinear2d", "edge", "kept", "torch's default table leaves it out"),
        ("mylib::fused", "edge", "decomposed", "torch's default has it: its Python Composite"),
        ("aten::linear", "plain", "kept", "the table's base is empty"),
    ],
)
def test_explain_gives_the_reason(path: Path, op: str, state: str, outcome: str, because: str) -> None:
    (explained,) = answer(path, "explain", op, state)
    assert outcome == explained["outcome"]
    assert explained["because"].startswith(because)
    assert f"{outcome}, since {because}" in run(path, "explain", op, state).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["explain", "aten::lineer", "edge"],
            "aten::lineer: neither the torch of edge@3 nor a rule has such an op; did",
        ),
        (["explain", "lineer", "edge"], "'lineer': no known op has this name; did you mean aten::linear?; to name"),
        (["explain", "aten.lineer"], "'aten.lineer': no known op is of this family; did you mean aten::linear?; to"),
        (["explain", "aten::lineer", "plain"], "has such an op; did you mean aten::linear?"),
        (["blame", "edge", "--op", "aten::mm"], "aten::mm: it has no rule in edge@3; `decomp-ledger explain` says"),
        (["blame", "edge", "--op", "aten::linear.out"], "it has no rule in edge@3; did you mean aten::linear?"),
        (["blame", "edge", "--op", "nosuch"], "'nosuch': no known op has this name"),
        (["log", "--op", "aten::linear.out"], "no event matches --op aten::linear.out; did you mean aten::linear?"),
        (["log", "--op", "nosuch"], "'nosuch': no known op has this name"),
        (["log", "--actor", "Eve", "--kind", "popped"], "no event matches --actor Eve, --kind popped"),
        (["catalog", "show", "torch:2.13.0", "--op", "aten::geluu"], "no such op; did you mean aten::gelu"),
    ],
)
def test_what_matches_nothing_is_reported_and_exits_with_1(path: Path, arguments: list[str], message: str) -> None:
    done = run(path, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert message in done.stderr
    assert run(path, *arguments, "--json").returncode == 1


def test_ops_of_libraries_are_not_judged_against_a_released_torch(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    release = released("2.13.0")
    ops = {op: entry.bare() for op, entry in release.ops.items()}
    extra = {
        "mylib::f": Entry("cia", True),
        "c10d_functional::x": Entry("cia", True),
        "aten::added": Entry("cia", True),
    }
    with Ledger(path, actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        edge.preserve(["mylib::f"])
        edge.materialize(Catalog(release.build, {**ops, **extra}))
    for pair in (("edge", "torch:2.13.0"), ("torch:2.13.0", "edge")):
        done = run(path, "drift", *pair)
        assert (done.returncode, "not judged: 3 ops (aten::added, c10d_functional::x, mylib::f)" in done.stdout) == (
            0,
            True,
        )
    assert "not judged: 3 ops" in run(path, "upgrade", "edge", "--torch", "2.15.0").stdout
    assert answer(path, "upgrade", "edge", "--torch", "2.15.0")["foreign"] == ["aten::added", "c10d_functional::x"]
    done = run(path, "explain", "mylib::f", "torch:2.13.0")
    assert done.returncode == 1
    assert "not judged, because torch:2.13.0 is the catalog of a torch without libraries" in done.stderr


@pytest.mark.parametrize("name", ["aten.linear", "linear", "torch.ops.aten.linear", "linear.default", "aten::linear"])
@pytest.mark.parametrize("command", [["explain"], ["blame", "edge", "--op"], ["log", "--op"]])
def test_every_command_takes_the_same_names(path: Path, name: str, command: list[str]) -> None:
    done = run(path, *command, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "aten::linear" in done.stdout and "aten::gelu" not in done.stdout


def test_explain_without_a_table_answers_for_the_tables_with_a_rule(path: Path) -> None:
    assert [explained["table"] for explained in answer(path, "explain", "aten::linear")] == ["edge"]


def test_explain_answers_for_a_table_that_was_never_materialized(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.create_table("edge").preserve(["aten::linear"])
    (explained,) = answer(tmp_path / "l.db", "explain", "aten::linear")
    assert (explained["torch"], explained["loaded"], explained["outcome"]) == (None, None, "kept")
    (other,) = answer(tmp_path / "l.db", "explain", "aten::gelu")
    assert "follows torch's default, which is unknown" in other["because"]
    *_, torch = run(tmp_path / "l.db", "explain", "aten::gelu").stdout.splitlines()
    assert torch.startswith("  edge was never materialized, so torch's side is unknown; export with it")


def test_diff_exits_with_1_if_rules_differ(path: Path) -> None:
    done = run(path, "diff", "edge@1", "edge@release", "--json")
    assert done.returncode == 1
    assert {"aten::linear", "mylib::later"} == json.loads(done.stdout)["rules"].keys()
    assert "(no rule)" in run(path, "diff", "edge@1", "edge").stdout
    same = run(path, "diff", "edge@2", "edge@release")
    assert (same.returncode, same.stdout) == (0, "nothing changed: base torch, 2 rules; the same environment\n")
    assert run(path, "diff", "edge@1", "plain").returncode == 1
    base = (
        "the base is torch in edge@1 and empty in plain: an op without a rule follows torch's default table in edge@1, "
    )
    assert run(path, "diff", "edge@1", "plain").stdout == f"{base}and stays in the graph in plain\n"


def override_with(ledger: Ledger, **fields: str) -> None:
    """Override aten::gelu with a function `mypkg.lower.gelu`."""
    decomposition = Decomposition("import", "mypkg.lower", "gelu", **fields)
    ledger.table_log("edge").change(Set, lambda _: [("aten::gelu", "override", decomposition)])


def test_diff_shows_digests_and_sources_of_a_changed_function(path: Path) -> None:
    with Ledger(path, actor="Ada") as ledger:
        override_with(ledger, digest="1" * 64, source="def gelu(x):\n    return x\n")
        override_with(ledger, digest="2" * 64, source="def gelu(x):\n    return x * 2\n")
        override_with(ledger, digest="2" * 64, source="def gelu(x):\n    return x * 2\n", helpers="3" * 64)
    text = run(path, "diff", "edge@4", "edge@5").stdout
    assert "override: mypkg.lower.gelu  111111111111   override: mypkg.lower.gelu  222222222222" in text
    assert "aten::gelu: mypkg.lower.gelu changed\n  @@ -1,2 +1,2 @@\n   def gelu(x):\n  -    return x\n" in text
    changed = answer(path, "diff", "edge@4", "edge@5")["rules"]["aten::gelu"]
    assert changed["source_diff"][-2:] == ["-    return x", "+    return x * 2"]
    helpers = run(path, "diff", "edge@5", "edge@6").stdout
    assert "override: mypkg.lower.gelu  none   override: mypkg.lower.gelu  with helpers 333333333333" in helpers
    assert "mypkg.lower.gelu itself is the same; a function that it calls changed" in helpers
    assert "changed; its source is not recorded on both sides" in run(path, "diff", "edge@3", "edge@4").stdout


def test_diff_shows_what_differs_between_the_environments(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit in ("a" * 40, "b" * 40):
        monkeypatch.setattr(provenance, "_machine", lambda *_, c=commit: {"python": "3", "git_commit": c})
        monkeypatch.setattr(provenance, "_environments", {})
        with Ledger(path, actor="Ada") as ledger:
            ledger.table_log("edge").revert(1 if commit[0] == "a" else 2)
    assert f"\ngit_commit: {'a' * 40} -> {'b' * 40}\n" in run(path, "diff", "edge@4", "edge@5").stdout
    found = answer(path, "diff", "edge@4", "edge@5")
    assert found["environments"]["git_commit"] == {"before": "a" * 40, "after": "b" * 40}


def test_a_failed_export_shows_its_error_and_no_effects_of_rules(path: Path) -> None:
    with Ledger(path, actor="Ada") as ledger:
        counts = {"aten::linear": 1}, {"aten::addmm": 1}, {"aten::linear": 1}
        for ops, error in ((counts, None), ((counts[0], {}, {}), ("RuntimeError", "no kernel"))):
            body = Exported(CATALOG.digest, "0" * 64, "b", None if error else "a", *ops, 3, error)
            ledger.append("edge", 3, body)
    good, failed = (f"export:{event['seq']}" for event in sorted(answer(path, "exports"), key=lambda e: e["seq"]))
    assert (answer(path, "show", good)["export"]["idle"], answer(path, "show", failed)["export"]["idle"]) == (
        ["aten::gelu", "aten::linear", "mylib::later"],
        [],
    )
    text = run(path, "show", failed).stdout
    assert "RuntimeError: no kernel" in text and "without effect" not in text
    done = run(path, "diff", good, failed)
    assert (done.returncode, done.stdout) == (1, f"{failed} failed, so no results are compared\n")
    assert answer(path, "diff", good, failed)["exports"] == {
        "same_program": True, "failed": [False, True], "same_graph": None, "after": {}, "fired": {},
        "outcomes": {},
    }  # fmt: skip


def test_dump_refuses_an_existing_file_and_says_so(path: Path, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("kept")
    done = run(path, "dump", "-o", str(tmp_path / "there.jsonl"))
    assert done.returncode == 2
    assert "there.jsonl: the file exists already; dump to another file, or move it away" in done.stderr
    assert (tmp_path / "there.jsonl").read_text() == "kept"


def test_verify_names_what_it_compared(path: Path) -> None:
    head = answer(path, "verify")["head"]
    assert f"it has the event of the hash {head}\n" in run(path, "verify", "--expect", head).stdout
    assert answer(path, "verify", "--expect", head)["compared"] == {"expect": [head], "checkpoints": [], "against": []}
    assert "it has the event" not in run(path, "verify").stdout


def test_blame_shows_ops_of_one_event_together(path: Path) -> None:
    ops = [f"aten::op{number:03}" for number in range(300)]
    with Ledger(path, actor="Ada") as ledger:
        edge = ledger.table_log("edge")
        edge.preserve(ops)
        some = [Decomposition("import", "m", f"f{number}", "0" * 64) for number in range(2)]
        pairs = zip(("aten::two", "aten::one"), some, strict=True)
        edge.change(Updated, lambda _: [(op, "override", decomposition) for op, decomposition in pairs])
    text = run(path, "blame", "edge").stdout
    assert "aten::op000, aten::op001, aten::op002 and 297 more  preserve\n" in text
    assert "aten::one, aten::two  override: 2 functions\n" in text
    assert len(text.splitlines()) < 25
    every = run(path, "blame", "edge", "--all").stdout
    assert all(f"{op}  preserve\n" in every for op in ops)
    assert answer(path, "blame", "edge").keys() >= {*ops}


def test_an_error_of_an_export_is_shown_in_its_lines_folded(path: Path) -> None:
    message = f"first line\n  second {'word ' * 200}\nthird \x1b[31m"
    with Ledger(path, actor="Ada") as ledger:
        ledger.append(
            "edge", 3, Exported(CATALOG.digest, "0" * 64, "b", None, {}, {}, {}, 3, ("RuntimeError", message))
        )
        (export,) = ledger.exports()
    shown = run(path, "show", f"export:{export.seq}").stdout.splitlines()
    start = shown.index("  RuntimeError: first line")
    assert max(map(len, shown[start:])) <= 200 and all(len(line) <= 120 for line in shown[start : start + 9])
    assert shown[start + 1].startswith("  ") and "second word" in shown[start + 1]
    assert "  third \\x1b[31m" in shown


def test_one_of_a_kind_is_counted_in_the_singular(path: Path) -> None:
    with Ledger(path, actor="Ada") as ledger:
        body = Exported(CATALOG.digest, "0" * 64, "b", "a", {"aten::mm": 1}, {"aten::mm": 1}, {"aten::mm": 1}, 3)
        ledger.append("edge", 3, body)
    assert "1 -> 1 node; 1 op decomposed, 1 call; 3 ms" in run(path, "exports").stdout


def test_tag_names_a_version_once(path: Path) -> None:
    done = run(path, "tag", "edge@1", "start", "--reason", "the first", "--actor", "Bob")
    assert (done.returncode, done.stdout) == (0, "edge@1 is now edge@start (#7)\n")
    (event,) = answer(path, "log", "-n", "1")
    assert (event["actor"], event["reason"], event["body"]["name"]) == ("Bob", "the first", "start")
    command = "decomp-ledger tag edge@1 start --reason 'the first' --actor Bob"
    assert event["call_site"] == {"file": command, "line": 0, "function": ""}
    assert f"by Bob, at `{command}`\n" in run(path, "log", "-n", "1").stdout
    run(path, "tag", "edge@2", "secret-name", DECOMP_LEDGER_CAPTURE="minimal")
    assert answer(path, "log", "-n", "1")[0]["call_site"]["file"] == "decomp-ledger tag"
    assert answer(path, "tag", "edge@1", "start") == {"event": None}
    moved = run(path, "tag", "edge@2", "start")
    assert moved.returncode == 2
    assert "never moves" in moved.stderr


def test_revert_appends_an_event(path: Path) -> None:
    conflict = run(path, "revert", "edge", "--to", "release", "--expected-version", "2")
    assert conflict.returncode == 2
    assert "is at version 3, not 2" in conflict.stderr
    assert run(path, "revert", "edge", "--to", "release").returncode == 0
    assert answer(path, "show", "edge@2")["rules"] == answer(path, "show", "edge@4")["rules"]
    assert answer(path, "revert", "edge", "--to", "2") == {"event": None}
    assert "edge already has the rules of edge@2" in run(path, "revert", "edge", "--to", "2").stdout


def test_verify_prints_the_head_and_finds_a_fault(path: Path) -> None:
    result = answer(path, "verify")
    assert (result["ok"], result["events"], result["problems"]) == (True, 6, [])
    assert result["head"] in run(path, "verify").stdout
    tamper(path, "UPDATE event SET recorded_at = '2020-01-01T00:00:00.000000Z' WHERE seq = 3")
    done = run(path, "verify")
    assert done.returncode == 1
    assert done.stdout.startswith("event #3: its content does not match its hash")
    assert answer(path, "verify")["problems"][0]["seq"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "edgy"], "has no table 'edgy'; it has 'edge'"),
        (["show", "edge@9"], "edge@9: the table has 3 versions; give one of 1 to 3"),
        (
            ["show", "edge@nope"],
            "edge@nope: the table has no such tag; give one of its tags (release) or a version, 1 to 3",
        ),
        (["show"], "the ledger has 2 tables; name one of edge, plain"),
        (["explain", "a b", "edge"], "is not the name of an op"),
        (["tag", "edge", "7"], "'7': a tag must not look like a number"),
        (["log", "-n", "0"], "'-n'"),
        (["nonsense"], "nonsense"),
        (["log", "--nonsense"], "--nonsense"),
        (["diff", "edge"], "it is the newest state of its table; give edge@VERSION, or a second state"),
        (
            ["log", "model.pt2"],
            "model.pt2: not the name of a table, and only tables have a log; `decomp-ledger show` shows",
        ),
        (["log", "export:7"], "export:7: not the name of a table"),
        (["log", "edge@2"], "edge@2: not the name of a table"),
        (["diff", "torch:2.12.1", "torch:2.13.0"], "torch's default tables have no rules to compare; use drift"),
        (["upgrade", "edge", "--torch", "2.13.0", "--check", "--all"], "--check and --all exclude each other"),
    ],
)
def test_wrong_use_prints_one_line_and_changes_nothing(path: Path, arguments: list[str], message: str) -> None:
    before = path.read_bytes()
    done = run(path, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    as_json = run(path, *arguments, "--json")
    assert as_json.returncode == 2
    assert message in json.loads(as_json.stdout)["error"]["message"]
    assert before == path.read_bytes()


def test_a_table_named_run_has_json_errors_too(path: Path) -> None:
    done = run(path, "show", "run", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"]["kind"] == "UnknownTable"


@pytest.mark.parametrize("content", [None, b"", b"not a ledger at all, but long enough to be one" * 9, "folder"])
@pytest.mark.parametrize("command", ["log", "tables", "verify", "tag"])
def test_a_bad_ledger_prints_one_line_and_exits_with_2(tmp_path: Path, content: object, command: str) -> None:
    path = tmp_path / "l.db"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    done = run(path, command, *(("edge", "name") if command == "tag" else ()))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "l.db" in done.stderr
    if isinstance(content, bytes):
        assert content == path.read_bytes()
    assert path.exists() == (content is not None)


def test_hostile_text_is_escaped_for_people_and_exact_for_programs(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path, actor=HOSTILE) as ledger:
        log = ledger.create_table("edge")
        log.change(
            Popped,
            lambda _: [("aten::gelu", "override", Decomposition("opaque", "m\x1b[2J", "q\nq", "0" * 64))],
            reason=HOSTILE,
        )
    for arguments in (["log"], ["blame"], ["show"], ["show", "--all"], ["explain", "aten::gelu"], ["tables"]):
        text = run(path, *arguments).stdout
        assert text
        assert [line for line in text.split("\n") if not line.isprintable()] == []
        as_json = run(path, *arguments, "--json").stdout
        assert as_json.isascii()
        json.loads(as_json)
    assert tuple(answer(path, "log", "-n", "1")[0][key] for key in ("actor", "reason")) == (HOSTILE, HOSTILE)


def test_a_forged_name_of_a_table_is_escaped(path: Path) -> None:
    tamper(path, lambda db: db.execute("UPDATE decomp_table SET name = ? WHERE name = 'edge'", [HOSTILE]))
    for arguments in (["log"], ["blame", HOSTILE.replace("\0", "")], ["explain", "aten::linear"], ["tables"]):
        done = run(path, *arguments)
        assert [line for line in (done.stdout + done.stderr).split("\n") if not line.isprintable()] == []
        assert "red" in done.stdout + done.stderr


def test_a_read_only_ledger_can_be_read(path: Path) -> None:
    before = sorted(file.name for file in path.parent.iterdir())
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        assert len(answer(path, "blame", "edge")) == 3
    finally:
        path.parent.chmod(0o755)
    assert before == [name for name in sorted(file.name for file in path.parent.iterdir()) if "-" not in name]


def test_the_environment_can_name_the_ledger(path: Path) -> None:
    command = [sys.executable, "-m", "decomp_ledger", "tables", "--json"]
    env = {**os.environ, "DECOMP_LEDGER": str(path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert [info["name"] for info in json.loads(done.stdout)] == ["edge", "plain"]


def test_a_pipe_that_closes_early_gives_no_traceback(path: Path) -> None:
    tool = shutil.which("head")
    assert tool is not None
    with Ledger(path) as ledger:
        log = ledger.table_log("edge")
        for number in range(400):
            log.preserve([f"mylib::op{number}"])
    reader = subprocess.Popen([tool, "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(path), "log"]
    done = subprocess.run(command, stdout=reader.stdin, stderr=subprocess.PIPE, text=True, check=False)
    reader.communicate()
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["show edge", "show edge --json", "verify", "tables"])
def test_a_process_without_output_gives_no_traceback(path: Path, command: str) -> None:
    program = f"exec {sys.executable} -m decomp_ledger --ledger {path} {command} >&- 2>{path}.errors"
    done = subprocess.run(["sh", "-c", program], check=False)
    assert (done.returncode, Path(f"{path}.errors").read_text()) == (0, "")


def test_a_process_without_error_output_shows_no_progress(path: Path) -> None:
    program = f"exec {sys.executable} -m decomp_ledger --ledger {path} verify 2>&-"
    assert subprocess.run(["sh", "-c", program], check=False, stdout=subprocess.PIPE).returncode == 0


@pytest.mark.parametrize("command", sorted(cli.list_commands(click.Context(cli))))
def test_every_command_and_option_has_help(command: str) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None and found.help
    assert [option.name for option in found.params if isinstance(option, click.Option) and not option.help] == []


@pytest.mark.parametrize(
    "arguments",
    [["tables"], ["log", "-n", "1"], ["show", "edge"], ["blame", "edge"], ["explain", "aten::linear"], ["verify"],
     ["diff", "edge@1", "edge"], ["--help"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_command_that_reads_imports_nothing_slow(path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "decomp_ledger", "--ledger", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "decomp_ledger.ledger" in imported
    assert set() == imported & {"torch", "numpy", "pandas", "sqlite_utils", "decomp_ledger.pytorch.table"}
    assert "rich" not in imported  # into a pipe, nothing is wrapped


@pytest.mark.parametrize("width", [200, 60])
def test_columns_are_wrapped_where_the_terminal_is_too_narrow(path: Path, width: int) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(path), "show", "edge"]
    subprocess.run(
        command, stdout=theirs, check=True, env={**os.environ, "TERM": "xterm", "COLUMNS": str(width), "PAGER": ""}
    )
    os.close(theirs)
    lines = click.unstyle(os.read(ours, 100_000).decode()).splitlines()
    os.close(ours)
    rows = lines[next(number for number, line in enumerate(lines) if line.startswith("op ")) :]
    assert (len(rows) == 2 + 3 + 1) == (width == 200)  # the heads, a rule, a line an op, and a note
    assert max(map(len, rows)) <= width
    assert all(word in " ".join(rows) for word in ("XNNPACK", "fused", "kernel", "mylib::later", "@3"))
