"""Where arrows may run, what the part without torch imports, and how long a function may be."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from strategies import new_table, run_python, without_torch  # noqa: F401

import decomp_ledger
from decomp_ledger.ledger import Ledger

PACKAGE = Path(decomp_ledger.__file__).parent
TESTS = Path(__file__).parent
MAX_FUNCTION = 70

# An arrow runs from a line to a later one, or within a folder.
LAYERS = (
    {"__main__", "__init__"},
    {"cli"},
    {"ledger"},
    {"queries"},
    {"pytorch"},
    {"transfer"},
    {"integrity"},
    {"log"},
    {"storage"},
    {"analysis"},
    {"catalogs"},
    {"model"},
    {"errors"},
)
PURE = {"errors", "model", "analysis"}
WORLD = {"io", "os", "pathlib", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "torch"}
HEAVY = ("torch", "numpy", "sqlite_utils")
# Of `pytorch`, these wait for the program to import torch.
WAITING = ("decomp_ledger.pytorch.patches", "decomp_ledger.pytorch.recording", "decomp_ledger.pytorch.active")
WITHOUT_TORCH = (
    "test_backup.py",
    "test_catalog.py",
    "test_checkpoints.py",
    "test_drift.py",
    "test_events.py",
    "test_ledger.py",
    "test_migrations.py",
    "test_names.py",
    "test_provenance.py",
    "test_upgrade.py",
    "test_stamp.py",
    "test_state_specs.py",
    "test_database.py",
    "test_table_log.py",
    "test_verify.py",
)


@attrs.frozen
class Import:
    """One import statement's target, and where it stands."""

    source: str  # the module, with dots, without the package's name
    target: str  # what it imports, with dots, in full
    function: str  # of which function it is part, or ""
    for_types: bool  # within `if TYPE_CHECKING`


def sources() -> list[Path]:
    """Return the Python files of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "_migrations" not in path.parts)


def module_of(path: Path) -> str:
    """Name a file's module, without the package's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def is_module(name: str) -> bool:
    """Tell whether the package has a module of that full name."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def targets(node: ast.AST) -> Iterator[str]:
    """Give the full names of the modules that a statement imports; none if it is no import."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if is_module(name) else str(node.module)


def imports_of(path: Path) -> list[Import]:
    """Return every import of a file, those within functions and for types included."""
    found: list[Import] = []

    def walk(node: ast.AST, function: str, for_types: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                found.extend(Import(module_of(path), name, function, for_types) for name in targets(child))
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                walk(child, f"{function}.{child.name}".lstrip("."), for_types)
            else:
                types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
                walk(child, function, for_types or types)

    walk(ast.parse(path.read_text(encoding="utf-8")), "", False)
    return found


IMPORTS = [one for path in sources() for one in imports_of(path)]


def room(module: str) -> str:
    """Return the first part of a module's name, which is in one of the layers."""
    return module.partition(".")[0]


def layer(module: str) -> int:
    """Return the number of a module's layer."""
    return next(number for number, rooms in enumerate(LAYERS) if room(module) in rooms)


def own(one: Import) -> str | None:
    """Return the module of ours that an import names; None for all others."""
    if one.target == "decomp_ledger":
        return "__init__"
    return one.target.removeprefix("decomp_ledger.") if one.target.startswith("decomp_ledger.") else None


def test_every_module_has_a_layer() -> None:
    rooms = {room(module_of(path)) for path in sources()}
    assert rooms == set().union(*LAYERS)


def test_arrows_run_downwards() -> None:
    upwards = [
        (one.source, one.function, target)
        for one in IMPORTS
        if (target := own(one)) is not None and layer(target) < layer(one.source)
    ]
    assert upwards == []


def test_no_modules_import_each_other_within_functions_and_for_types_included() -> None:
    graph: dict[str, set[str]] = {}
    for one in IMPORTS:
        target = own(one)
        if target is not None:
            graph.setdefault(one.source, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()
    assert graph["ledger"] >= {"log.ledger_log", "integrity.verify", "pytorch.table"}


def test_only_pytorch_imports_torch() -> None:
    rooms = {room(one.source) for one in IMPORTS if one.target.partition(".")[0] == "torch"}
    assert rooms == {"pytorch"}


def test_no_module_outside_pytorch_names_torch_to_an_importer() -> None:
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(("import_module", "__import__")):
                continue
            if not ast.unparse(node).startswith("importlib.import_module(f'decomp_ledger.cli."):
                found.append(module_of(path))
    assert {room(module) for module in found} <= {"pytorch", "__init__"}


def test_what_is_pure_imports_nothing_of_the_world() -> None:
    assert [
        (one.source, one.target)
        for one in IMPORTS
        if room(one.source) in PURE and one.target.partition(".")[0] in WORLD
    ] == []


def test_errors_import_nothing_of_ours() -> None:
    assert [one.target for one in IMPORTS if one.source == "errors"] == ["__future__"]


_IMPORT_EACH = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    for heavy in sys.argv[1].split(","):
        if sys.modules.get(heavy):
            print(name, "imports", heavy)
            del sys.modules[heavy]
"""


def test_importing_any_part_without_torch_imports_nothing_heavy() -> None:
    modules = [module_of(path) for path in sources()]
    light = [f"decomp_ledger.{name}" for name in modules if room(name) not in ("pytorch", "__main__", "__init__")]
    assert len(light) > 15
    assert run_python(_IMPORT_EACH, ",".join(HEAVY), "decomp_ledger", *light, *WAITING) == ""


_READ = """
import sys
import decomp_ledger as dl
dir(dl)
with dl.Ledger(sys.argv[1], read_only=True) as ledger:
    assert ledger.verify().ok
    for info in ledger.tables():
        ledger.table_log(info.name).blame()
    assert len(list(ledger.events())) == 2
print(*[heavy for heavy in sys.argv[2].split(",") if sys.modules.get(heavy)])
"""


def test_reading_a_ledger_imports_nothing_heavy(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        new_table(ledger).preserve(["aten::mm"])
    assert run_python(_READ, tmp_path / "ledger.db", ",".join(HEAVY)) == "\n"


_COMMAND = """
import atexit, sys
late = ("torch", "cryptography", "rich", "sqlite_utils", "numpy")
atexit.register(lambda: print(*[name for name in late if sys.modules.get(name)]))
from decomp_ledger.cli import main
main()
"""


@pytest.mark.parametrize("command", [("log", "-n", "20"), ("blame", "edge"), ("show", "edge@1"), ("verify",)])
def test_a_command_that_reads_imports_nothing_heavy(tmp_path: Path, command: tuple[str, ...]) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        new_table(ledger).preserve(["aten::mm"])
    *shown, imported = run_python(_COMMAND, "--ledger", tmp_path / "ledger.db", *command).splitlines()
    assert (len(shown) > 0, imported) == (True, "")


_WRITE = """
import sys
import decomp_ledger as dl
with dl.Ledger(sys.argv[1], actor="ann") as ledger:
    ledger.create_table("edge").preserve(["aten::mm"])
print(bool(sys.modules["torch"]))
"""


def test_changing_a_table_without_a_callable_imports_no_torch(tmp_path: Path) -> None:
    assert run_python(_WRITE, tmp_path / "ledger.db") == "False\n"


def test_every_public_name_is_found_and_no_other() -> None:
    assert set(decomp_ledger.__all__) < set(dir(decomp_ledger))
    for name in ("Ledger", "Catalog", "Snapshot", "TableState", "materialize", "Event", "LedgerError", "UnknownTable"):
        assert getattr(decomp_ledger, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nope'"):
        _ = decomp_ledger.Nope


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_the_tests_of_this_part_run_where_there_is_no_torch(name: str) -> None:
    tree = ast.parse((TESTS / name).read_text(encoding="utf-8"))
    imported = {
        alias.name: target
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias, target in zip(node.names, targets(node), strict=True)
    }
    assert imported["without_torch"] == "strategies"
    assert {target.partition(".")[0] for target in imported.values()}.isdisjoint({"torch", "numpy"})


def test_a_test_of_this_part_can_import_no_torch() -> None:
    with pytest.raises(ImportError):
        import torch  # noqa: F401
    assert run_python("try:\n    import torch\nexcept ImportError:\n    print('none')") == "none\n"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 >= MAX_FUNCTION
    }
    assert long == {}
