"""The structure of the package: imports between folders, late imports, words, lengths of functions."""

import ast
import graphlib
import importlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from strategies import new_table, run_python

import decomp_ledger
from decomp_ledger.ledger import Ledger

PACKAGE = Path(decomp_ledger.__file__).parent
ROOT = Path(__file__).parents[2]
MAX_FUNCTION = 70

# A module imports from its own folder and from the lines below it.
LAYERS = (
    {"__main__", "__init__"},
    {"pytest_plugin"},
    {"cli"},
    {"ledger"},
    {"hub"},
    {"web"},
    {"reports"},
    {"gates"},
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
OUTSIDE = {"io", "os", "pathlib", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "torch"}
HEAVY = ("torch", "numpy", "sqlite_utils")
# These modules of `pytorch` are imported before torch.
BEFORE_TORCH = ("decomp_ledger.pytorch.patches", "decomp_ledger.pytorch.recording", "decomp_ledger.pytorch.active")
# No test of these folders imports torch: their conftest.py blocks it.
TORCH_FREE_TESTS = sorted(
    path for folder in ("unit", "storage", "hub") for path in (ROOT / "tests" / folder).glob("test_*.py")
)


@attrs.frozen
class Import:
    """One imported module, and the place of the import statement."""

    source: str  # the importing module, without the name of the package
    target: str  # the full name of the imported module
    function: str  # the function that contains the statement, or ""
    for_types: bool  # whether it is within `if TYPE_CHECKING`


def sources() -> list[Path]:
    """Return the Python files of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "_migrations" not in path.parts)


def module_of(path: Path) -> str:
    """Return the module of a file, without the name of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def is_module(name: str) -> bool:
    """Return whether the package has a module of that full name."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def targets(node: ast.AST) -> Iterator[str]:
    """Yield the full names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if is_module(name) else str(node.module)


def imports_of(path: Path) -> list[Import]:
    """Return every import of a file, including those in functions and for types."""
    return list(imports_in(ast.parse(path.read_text(encoding="utf-8")), module_of(path)))


def imports_in(node: ast.AST, source: str, function: str = "", for_types: bool = False) -> Iterator[Import]:
    """Yield every import below a node of a module's syntax tree."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield from (Import(source, name, function, for_types) for name in targets(child))
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports_in(child, source, f"{function}.{child.name}".lstrip("."), for_types)
        else:
            types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from imports_in(child, source, function, for_types or types)


IMPORTS = [one for path in sources() for one in imports_of(path)]


def folder(module: str) -> str:
    """Return the folder of a module, or its own name if it is in none."""
    return module.partition(".")[0]


def layer(module: str) -> int:
    """Return the number of a module's layer; 0 is the top."""
    return next(number for number, folders in enumerate(LAYERS) if folder(module) in folders)


def own(one: Import) -> str | None:
    """Return the module of this package that an import names; None for any other."""
    if one.target == "decomp_ledger":
        return "__init__"
    return one.target.removeprefix("decomp_ledger.") if one.target.startswith("decomp_ledger.") else None


_SQL = re.compile(r"(?<!-)\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|PRAGMA|BEGIN( IMMEDIATE)?|COMMIT|ROLLBACK)\b")


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the nodes that are docstrings."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, owners) and node.body]
    return {id(node.value) for node in first if isinstance(node, ast.Expr)}


def sql_of(path: Path) -> list[str]:
    """Return the SQL texts of a file, and its calls of `execute`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose, found = docstrings(tree), []
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        if is_text and _SQL.search(node.value):
            found.append(node.value)
        if isinstance(node, ast.Attribute) and node.attr in ("execute", "executemany", "executescript"):
            found.append(ast.unparse(node))
    return found


def test_all_sql_is_in_storage_and_hub() -> None:
    found = {path: sql_of(path) for path in sources() if folder(module_of(path)) not in ("storage", "hub")}
    # The statements of `web` are Datasette's, and those that a person types.
    assert {module_of(path): texts for path, texts in found.items() if texts} == {
        "web.served_ledger": ["super().execute"]
    }
    assert len(sql_of(PACKAGE / "storage" / "event_store.py")) > 20


def test_a_change_reaches_sqlite_in_six_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks = []

    def execute(connection: sqlite3.Connection, *arguments: object) -> sqlite3.Cursor:
        if str(arguments[0]).lstrip().startswith("INSERT INTO event"):
            frame, stack = sys._getframe(1), []
            while frame is not None:
                if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                    stack.insert(0, frame.f_code.co_name)
                frame = frame.f_back
            stacks.append(stack)
        return sqlite3.Connection.execute(connection, *arguments)

    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        table = new_table(ledger)
        monkeypatch.setattr("decomp_ledger.storage.connection._execute", execute)
        table.preserve(["aten::mm"])
    # DecompTable.pop and its _take stand in the place of `preserve`: eight calls from a pop.
    # `check` of model/arguments.py stands before each public call.
    stacks = [[name for name in stack if name != "check"] for stack in stacks]
    assert stacks == [["preserve", "change", "_append_change", "append", "append", "insert_event", "execute"]]


def test_every_module_has_a_layer() -> None:
    assert {folder(module_of(path)) for path in sources()} == set().union(*LAYERS)


def test_imports_point_downwards() -> None:
    upwards = [
        (one.source, one.function, target)
        for one in IMPORTS
        if (target := own(one)) is not None and layer(target) < layer(one.source)
    ]
    assert upwards == []


def test_imports_have_no_cycle_even_in_functions_or_for_types() -> None:
    graph: dict[str, set[str]] = {}
    for one in IMPORTS:
        target = own(one)
        if target is not None:
            graph.setdefault(one.source, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()
    assert graph["ledger"] >= {"log.ledger_log", "integrity.verify", "pytorch.table"}


def test_only_pytorch_imports_torch() -> None:
    assert {folder(one.source) for one in IMPORTS if one.target.partition(".")[0] == "torch"} == {"pytorch"}


def test_only_pytorch_imports_modules_by_name() -> None:
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(("import_module", "__import__")):
                continue
            if not ast.unparse(node).startswith("importlib.import_module(f'decomp_ledger.cli."):
                found.append(module_of(path))
    assert {folder(module) for module in found} <= {"pytorch", "__init__"}


def test_pure_modules_do_no_input_or_output() -> None:
    assert [
        (one.source, one.target)
        for one in IMPORTS
        if folder(one.source) in PURE and one.target.partition(".")[0] in OUTSIDE
    ] == []


def test_errors_imports_nothing() -> None:
    assert [one.target for one in IMPORTS if one.source == "errors"] == ["__future__"]


LATE_PACKAGES = {
    "torch",
    "cryptography",
    "dateutil",
    "jinja2",
    "markupsafe",
    "psycopg",
    "rich",
    "sqlalchemy",
    "sqlite_utils",
    "tomli",
    "tomllib",
}


def modules_that_import(package: str) -> set[str]:
    """Return the modules of this package whose import imports another package."""
    at_once = [one for one in IMPORTS if not one.function and not one.for_types]
    found = {one.source for one in at_once if one.target.partition(".")[0] == package}
    while more := {one.source for one in at_once if own(one) in found} - found:
        found |= more
    return found


def test_only_slow_packages_are_imported_in_functions() -> None:
    needs_torch, needs_datasette = modules_that_import("torch"), modules_that_import("datasette")
    assert "pytorch.table" in needs_torch and "web.server" in needs_datasette
    assert needs_torch.isdisjoint(name.removeprefix("decomp_ledger.") for name in BEFORE_TORCH)
    offenders = [
        (one.source, one.function, one.target)
        for one in IMPORTS
        if one.function
        and one.target.partition(".")[0] not in LATE_PACKAGES
        # A module that has imported torch gains nothing from importing another such module late.
        and (own(one) not in needs_torch or one.source in needs_torch)
        and (own(one) not in needs_datasette or one.source in needs_datasette)
        # Every child of a recorded program runs this, and most of them import neither torch nor decomp_ledger.
        and one.source != "pytorch.startup.decomp_ledger_following"
    ]
    assert not offenders, "\n".join(map(str, offenders))


def calls_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each call of a file as the name of its function and its source text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            yield name, ast.unparse(node)


def test_one_module_registers_the_functions_for_forks() -> None:
    found = [module_of(path) for path in sources() for name, _ in calls_of(path) if name == "register_at_fork"]
    assert found == ["storage.fork_safety"]


# The other folders call int() only on numbers of the database and of checked JSON.
GETS_TEXT_OF_USERS = {"__init__", "__main__", "cli", "ledger", "queries", "log", "catalogs", "analysis"}


def test_one_module_parses_versions() -> None:
    offenders = [
        (module_of(path), text)
        for path in sources()
        for name, text in calls_of(path)
        if module_of(path) != "model.state_specs"
        if name in ("isdigit", "isdecimal", "isnumeric")
        or (name == "int" and folder(module_of(path)) in GETS_TEXT_OF_USERS)
    ]
    assert not offenders, "\n".join(map(str, offenders))


def test_the_package_uses_the_plain_words() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("scripts/check-words lists the files of a git checkout")
    command = [sys.executable, str(ROOT / "scripts" / "check-words"), "decomp_ledger/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout == ""


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py|[a-z_]+/)`", text))
    homes = {name: [PACKAGE, ROOT] if "/" in name else [PACKAGE, *PACKAGE.iterdir()] for name in named}
    assert [name for name in sorted(named) if not any((home / name).exists() for home in homes[name])] == []
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert {f"{name}/" for name in folders} <= named


def test_the_security_page_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::([a-z_0-9]+))?`", text)
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named}
    assert len(sources) > 10
    assert [(file, test) for file, test in named if f"def {test}" not in sources[file]] == []


# Attributes of torch's objects that have no public name; `internals` has a function for each that is in use.
PRIVATE_ATTRIBUTES = {
    "_dir",
    "_dispatch_cache",
    "_opname",
    "_overloadname",
    "_overloadpacket",
    "_qualified_op_name",
    "_schema",
    "deleted_custom_ops",
    "from_node",
    "is_view",
    "metadata_fns",
    "py_kernels",
}
MAY_NAME = {
    # A table has upstream's attributes, so that torch's code finds them.
    ("pytorch.table", "deleted_custom_ops"),
    # A digest is made without torch too: this compares the name of a class's module.
    ("pytorch.fingerprint.functions", "torch._ops"),
    # The names of modules to patch once the program imports them; `internals` would import torch earlier.
    ("pytorch.patches", "torch._inductor"),
    ("pytorch.patches", "torch.onnx._internal.exporter._onnx_program"),
}


def is_private_in_torch(name: str) -> bool:
    """Tell whether a dotted name leads through a private part of torch."""
    first, *rest = name.split(".")
    return first == "torch" and any(part.startswith("_") and not part.endswith("__") for part in rest)


def private_parts(path: Path) -> Iterator[str]:
    """Give the private parts of torch that a file names: by import, attribute, or in a text that is one dotted name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
            if node.attr in PRIVATE_ATTRIBUTES:
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
            if node.value in PRIVATE_ATTRIBUTES:
                yield node.value
        elif isinstance(node, ast.FunctionDef) and node.name in PRIVATE_ATTRIBUTES:
            yield node.name
        yield from (name for name in names if name.replace(".", "").isidentifier() and is_private_in_torch(name))


def test_only_internals_names_private_parts_of_torch() -> None:
    found = {(module_of(path), name) for path in sources() for name in private_parts(path)}
    assert {(module, name) for module, name in found if module != "pytorch.internals"} == MAY_NAME
    assert {name for module, name in found if module == "pytorch.internals"} >= {"_schema", "torch.library._defs"}


_IMPORT_EACH = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    for heavy in sys.argv[1].split(","):
        if sys.modules.get(heavy):
            print(name, "imports", heavy)
            del sys.modules[heavy]
"""


def test_modules_without_torch_import_no_heavy_package() -> None:
    modules = [module_of(path) for path in sources()]
    heavy = ("pytorch", "web", "__main__", "__init__")  # Datasette imports numpy where it is installed
    light = [f"decomp_ledger.{name}" for name in modules if folder(name) not in heavy]
    assert len(light) > 15
    assert run_python(_IMPORT_EACH, ",".join(HEAVY), "decomp_ledger", *light, *BEFORE_TORCH) == ""


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


def test_reading_a_ledger_imports_no_heavy_package(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        new_table(ledger).preserve(["aten::mm"])
    assert run_python(_READ, tmp_path / "ledger.db", ",".join(HEAVY)) == "\n"


_COMMAND = """
import atexit, sys
late = ("torch", "cryptography", "rich", "sqlite_utils", "jinja2", "numpy")
atexit.register(lambda: print(*[name for name in late if sys.modules.get(name)]))
from decomp_ledger.cli import main
main()
"""


@pytest.mark.parametrize("command", [("log", "-n", "20"), ("blame", "edge"), ("show", "edge@1"), ("verify",)])
def test_commands_that_read_import_no_heavy_package(tmp_path: Path, command: tuple[str, ...]) -> None:
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


_RECORD = """
import atexit, sys
atexit.register(lambda: print(*sorted(name for name in sys.modules if name.startswith("decomp_ledger."))))
from decomp_ledger.cli import main
main()
"""


def test_a_recording_imports_no_query_before_the_program_runs(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("")
    ledger, program = tmp_path / "l.db", tmp_path / "program.py"
    imported = run_python(_RECORD, "--ledger", ledger, "run", "-q", program).removesuffix("\n").split(" ")
    folders = {folder(name.removeprefix("decomp_ledger.")) for name in imported}
    assert folders == {"cli", "hub", "pytorch", "transfer", "log", "storage", "analysis", "catalogs", "model", "errors"}
    some = {name.removeprefix("decomp_ledger.") for name in imported if re.search(r"\.(cli|hub|analysis)\.", name)}
    of_hub = {"hub.connection", "hub.silence"}
    assert some == {"cli.ledger_choice", "cli.run_command", "cli.streams", *of_hub, "analysis.refusal"}


def test_the_command_line_knows_where_each_command_is() -> None:
    from decomp_ledger import cli

    found = {
        name: tuple(command.name for command in importlib.import_module(f"decomp_ledger.cli.{name}").COMMANDS)
        for name in (path.stem for path in sorted((PACKAGE / "cli").glob("*_command*.py")))
    }
    assert found == dict(sorted(cli._GROUPS.items()))


def test_the_package_knows_where_each_public_name_is() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    found = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing", "decomp_ledger.storage")
        for alias in node.names
        if alias.asname is None
    }
    assert sorted(found) == sorted(decomp_ledger.__all__)
    late = {name: f"decomp_ledger.{module}" for name, module in decomp_ledger._MODULE_OF.items()}
    assert late == {name: module for name, module in found.items() if module != "decomp_ledger.errors"}


def test_public_names_resolve_and_others_raise() -> None:
    assert set(decomp_ledger.__all__) < set(dir(decomp_ledger))
    for name in ("Ledger", "Catalog", "Snapshot", "TableState", "materialize", "Event", "LedgerError", "UnknownTable"):
        assert getattr(decomp_ledger, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nope'"):
        _ = decomp_ledger.Nope


@pytest.mark.parametrize("path", TORCH_FREE_TESTS, ids=lambda path: path.stem)
def test_torch_free_tests_import_no_torch(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {target.partition(".")[0] for node in ast.walk(tree) for target in targets(node)}
    assert imported.isdisjoint({"torch", "numpy"})
    assert "without_torch" in (path.parent / "conftest.py").read_text(encoding="utf-8")


def test_the_without_torch_fixture_blocks_torch() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("torch")
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


def test_the_errors_that_damaged_data_raises_are_listed_once() -> None:
    lists = [
        f"{module_of(path)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Tuple)
        and {"ValueError", "TypeError", "LookupError"} <= {item.id for item in node.elts if isinstance(item, ast.Name)}
    ]
    assert [place.partition(":")[0] for place in lists] == ["model.json_values"], lists
