"""The pytest plugin: `pytest --decomp-ledger=FILE`, and the fixture `decomp_ledger`."""

from __future__ import annotations

import re
import textwrap

import pytest

import decomp_ledger
from decomp_ledger import Ledger

pytest_plugins = ["pytester"]

# A file of tests that lower a model; `keep` pops ops of its table.
LOWERING = """
import os
import pytest
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.silu(torch.nn.functional.linear(x, x))

def lower(*keep):
    table = torch.export.default_decompositions()
    for op in keep:
        table.pop(op)
    return torch.export.export(Model(), (torch.ones(3, 3),)).run_decompositions(table)

LINEAR, SILU = torch.ops.aten.linear.default, torch.ops.aten.silu.default
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest in a process of its own over a file of tests, with the plugin and without other settings."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    root = pytester.path.__class__(decomp_ledger.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("DECOMP_LEDGER_ACTOR", "tester")

    def run(tests: str, *arguments: str, **files: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=LOWERING + textwrap.dedent(tests), **files)
        options = ("-p", "pytest_decomp_ledger", "-p", "no:cacheprovider", "--tb=short", "--show-capture=no")
        return pytester.runpytest_subprocess(*options, *arguments)

    return run


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    """Return how many tests ended how; warnings of torch itself do not count."""
    return {word: count for word, count in result.parseoutcomes().items() if "warning" not in word}


def failures(result: pytest.RunResult) -> dict[str, str]:
    """Return the text of each failed test."""
    parts = re.split(r"^_{3,} (?:ERROR at \w+ of )?(\w+) _{3,}$", result.stdout.str(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_an_assertion_tells_what_explain_answers(run) -> None:
    result = run("""
        def test_kept(decomp_ledger):
            lower(LINEAR)
            decomp_ledger.assert_kept("aten::linear")
            decomp_ledger.assert_kept(LINEAR)
            decomp_ledger.assert_decomposed("aten.silu")

        def test_decomposed_instead(decomp_ledger):
            lower()
            decomp_ledger.assert_kept("silu")

        def test_kept_instead(decomp_ledger):
            lower(LINEAR)
            decomp_ledger.assert_decomposed("aten::linear")

        def test_neither(decomp_ledger):
            lower()
            with pytest.raises(AssertionError, match="aten::gelu .*: not in the program, since neither"):
                decomp_ledger.assert_kept("aten::gelu")
            with pytest.raises(AssertionError, match="not decomposed aten::gelu"):
                decomp_ledger.assert_decomposed("aten.gelu.default")

        def test_emitted_is_not_kept(decomp_ledger):
            lower()
            with pytest.raises(AssertionError, match="aten::sigmoid in .*: emitted, since"):
                decomp_ledger.assert_kept("aten::sigmoid")

        def test_a_failed_export(decomp_ledger):
            table = torch.export.default_decompositions()
            table[SILU] = lambda x: 1 / 0
            with pytest.raises(ZeroDivisionError):
                torch.export.export(Model(), (torch.ones(3, 3),)).run_decompositions(table)
            with pytest.raises(AssertionError, match="failed, since its decomposition raised"):
                decomp_ledger.assert_decomposed("silu")

        def test_a_wrong_name(decomp_ledger):
            from decomp_ledger import UnknownOp
            lower()
            with pytest.raises(UnknownOp, match="aten::silo: neither the torch of export"):
                decomp_ledger.assert_kept("aten::silo")

        def test_no_export(decomp_ledger):
            torch.export.export(Model(), (torch.ones(3, 3),))
            decomp_ledger.assert_kept("aten::linear")
    """)
    assert outcomes(result) == {"passed": 5, "failed": 3}
    found = failures(result)
    assert set(found) == {"test_decomposed_instead", "test_kept_instead", "test_no_export"}
    assert re.search(r"aten::silu in .*: decomposed, since torch's default has it", found["test_decomposed_instead"])
    assert "to keep it: table.pop(torch.ops.aten.silu.default)" in found["test_decomposed_instead"]
    assert re.search(r"aten::linear in .*: kept, since it was preserved by event #\d+", found["test_kept_instead"])
    assert re.search(r"popped  aten::linear\nE +by tester, at test_it.py:\d+ in lower", found["test_kept_instead"])
    assert "to decompose it: table.reset('aten::linear')" in found["test_kept_instead"]
    assert "because no export ran in this test" in found["test_no_export"]
    # The only frame is the user's line.
    assert re.findall(r"^(\S+):\d+: in (\w+)$", found["test_kept_instead"], re.MULTILINE) == [
        ("test_it.py", "test_kept_instead")
    ]


def test_graphs_are_compared(run) -> None:
    result = run("""
        def test_same(decomp_ledger, tmp_path):
            first = lower(LINEAR)
            lower(LINEAR)
            decomp_ledger.assert_same_graph_as(first)
            decomp_ledger.assert_same_graph_as(f"export:{decomp_ledger.exports[0].seq}")
            torch.export.save(first, tmp_path / "ref.pt2")
            decomp_ledger.assert_same_graph_as(tmp_path / "ref.pt2")
            decomp_ledger.assert_same_graph_as(str(tmp_path / "ref.pt2"), program=first)

        def test_another_one(decomp_ledger):
            first, second = lower(LINEAR, SILU), lower(LINEAR)
            decomp_ledger.assert_same_graph_as(first, program=first)
            decomp_ledger.assert_same_graph_as(first, program=second)

        def test_the_same_ops(decomp_ledger):
            first = torch.export.export(Model(), (torch.ones(4, 4),)).run_decompositions({})
            lower(LINEAR, SILU)
            decomp_ledger.assert_same_graph_as(first)

        def test_no_reference(decomp_ledger):
            from decomp_ledger import LedgerError, UnusableValue
            lower()
            with pytest.raises(LedgerError, match="none.pt2: the file does not exist"):
                decomp_ledger.assert_same_graph_as("none.pt2")
            with pytest.raises(LedgerError, match="not an export; give export:N"):
                decomp_ledger.assert_same_graph_as(decomp_ledger.exports[0].table)
            with pytest.raises(UnusableValue, match="no export that is recorded in"):
                decomp_ledger.assert_kept("linear", program=torch.export.export(Model(), (torch.ones(3, 3),)))
    """)
    assert outcomes(result) == {"passed": 2, "failed": 2}
    found = failures(result)
    assert set(found) == {"test_another_one", "test_the_same_ops"}
    lines = found["test_another_one"]
    assert "aten::silu: 1 in the given program, 0 here: decomposed, since" in lines
    assert re.search(r"aten::sigmoid: 0 in the given program, 1 here: emitted, .*aten::silu made 1 node of it", lines)
    assert re.search(r"differs is node 2\nE +the given program: .*aten::silu.*\nE +here: .*aten::sigmoid", lines)
    assert "both have the same ops; the order, the arguments, the shapes" in found["test_the_same_ops"]


def test_workers_record_each_test_under_its_name(run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        @pytest.mark.parametrize("op", [LINEAR, SILU], ids=["linear", "a@b:c"])
        def test_one(op):
            lower(op)

        class TestOfClass:
            def test_two(self, decomp_ledger):
                lower(LINEAR)
                decomp_ledger.assert_kept("linear")

        def test_crash():
            lower(LINEAR)
            os._exit(3)

        def test_without():
            assert torch.ones(1) == 1
        """,
        *("-n", "2", "--decomp-ledger=ci.db"),
    )
    assert outcomes(result) == {"passed": 4, "failed": 1}
    (line,) = [line for line in result.outlines if line.startswith("decomp-ledger")]
    see = "see: decomp-ledger --ledger ci.db exports"
    assert line == f"decomp-ledger: 4 exports, 4 tables in 4 tests -> ci.db; {see}"
    with Ledger(pytester.path / "ci.db", read_only=True) as ledger:
        assert ledger.verify().ok
        tables = [export.table for export in ledger.exports()]
        workers = {ledger.environment(export.environment)["worker"] for export in ledger.exports()}
    names = (
        "test_it.py/test_one[linear]/",
        "test_it.py/test_one[a_b_c]-2c9eb8b1/",
        "test_it.py/TestOfClass/test_two/",
        "test_it.py/test_crash/",
    )
    assert sorted(name for name in names for table in tables if table.startswith(name)) == sorted(names)
    assert len(tables) == len(names)
    assert workers <= {"gw0", "gw1", "gw2"} and len(workers) > 1


def test_a_recording_begins_before_the_fixtures_and_ends_after_them(run, pytester: pytest.Pytester) -> None:
    result = run(
        """
        import warnings
        import decomp_ledger as dl

        @pytest.fixture(scope="module")
        def shared():
            return lower(LINEAR)

        @pytest.fixture
        def saved(tmp_path):
            yield
            lower()
            torch.export.save(torch.export.export(Model(), (torch.ones(3, 3),)), tmp_path / "raw.pt2")

        def test_first(shared, decomp_ledger):
            decomp_ledger.assert_kept("linear")
            assert len(decomp_ledger.exports) == 1

        def test_second(shared, decomp_ledger):
            assert decomp_ledger.exports == []
            decomp_ledger.assert_kept("linear", program=shared)

        def test_third(request):
            lower()
            ledger = request.getfixturevalue("decomp_ledger")
            assert ledger.ledger.path.endswith("ci.db") and len(ledger.exports) == 1

        @pytest.mark.filterwarnings("error::decomp_ledger.StampWarning")
        def test_fourth(saved):
            pass

        def test_fifth(decomp_ledger):
            table = decomp_ledger.ledger.table("edge")
            table.pop(LINEAR)
            torch.export.export(Model(), (torch.ones(3, 3),)).run_decompositions(table)
            decomp_ledger.assert_kept("linear")
            assert [export.table for export in decomp_ledger.exports] == ["edge"]
        """,
        "--decomp-ledger=ci.db",
    )
    assert outcomes(result) == {"passed": 5, "errors": 1}
    assert "the program was saved without a stamp" in failures(result)["test_fourth"]
    with Ledger(pytester.path / "ci.db", read_only=True) as ledger:
        names = [export.table for export in ledger.exports()]
    assert [name.split("/")[1] for name in names if "/" in name] == ["test_first", "test_third", "test_fourth"]


LOOK = """
import sys

def pytest_unconfigure(config):
    print("imported:", *[name for name in ("decomp_ledger", "torch", "attr", "click") if name in sys.modules])
"""


def test_the_settings_of_the_project_hold(run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    (pytester.path / "pyproject.toml").write_text('[tool.decomp-ledger]\nactor = "nightly"\n')
    monkeypatch.delenv("DECOMP_LEDGER_ACTOR")
    assert outcomes(run("def test_it():\n    lower(LINEAR)\n", "--decomp-ledger=ci.db")) == {"passed": 1}
    with Ledger(pytester.path / "ci.db", read_only=True) as ledger:
        assert {event.actor for event in ledger.events()} == {"nightly"}


def test_a_run_that_does_not_ask_imports_nothing(run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_plain="def test_it():\n    pass\n", conftest=LOOK)
    result = run("", "test_plain.py")
    assert result.ret == 0 and "imported:" in result.outlines
    asked = run("", "test_plain.py", "--decomp-ledger=ci.db")
    asked.stdout.fnmatch_lines(["decomp-ledger: nothing was recorded: no test made a table or ran *"])
    asked.stdout.fnmatch_lines(["imported: decomp_ledger attr click"])
    assert not (pytester.path / "ci.db").exists()


@pytest.mark.parametrize(("file", "problem"), [("none/ci.db", "folder is missing"), ("test_it.py", "not a ledger")])
def test_a_file_that_cannot_be_the_ledger_is_refused_at_once(run, file: str, problem: str) -> None:
    result = run("def test_it():\n    pass\n", f"--decomp-ledger={file}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert problem in result.stderr.str() and "Traceback" not in result.stderr.str()
