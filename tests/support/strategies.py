"""Shared by the tests without torch: Hypothesis strategies, small ledgers, other processes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

import decomp_ledger
from decomp_ledger.ledger import Ledger
from decomp_ledger.log import provenance
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import (
    OVERRIDE,
    PRESERVE,
    RESET,
    CallSite,
    Change,
    Created,
    Event,
    Exported,
    Materialized,
    Passed,
    Popped,
    Reset,
    Reverted,
    RootModule,
    Saved,
    Set,
    Tagged,
    Updated,
)
from decomp_ledger.model.rules import Decomposition, Rule, TableState

IMPORT_ROOT = str(Path(decomp_ledger.__file__).parent.parent)
MAX_INT = 2**53 - 1

# Without a deadline, because a busy machine must not fail a test.
settings.register_profile("tests", parent=settings(), deadline=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="module")
def without_torch() -> Iterator[None]:
    """Hide torch from the tests of the module that imports this fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        patch.setattr(provenance, "torch_facts", None)
        yield


# JSON: every value that canonical JSON holds.

texts = st.text(st.characters(exclude_categories=["Cs"]))
ascii_keys = st.text(st.characters(max_codepoint=127))
integers = st.integers(-MAX_INT, MAX_INT)
json_values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ascii_keys, inner, max_size=4),
    max_leaves=20,
)

# Names, as torch gives them.

OPS = ("aten::add.Tensor", "aten::linear", "aten::gelu", "aten::mm", "cond", "mylib::late", "mylib::late.out")
ops = st.sampled_from(OPS)
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
overloads = st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)

# Decompositions, states and catalogs.

decompositions = st.one_of(
    st.builds(
        Decomposition, st.sampled_from(["cia", "registry", "py_cia"]), build=st.sampled_from(["a" * 40, "b" * 40])
    ),
    st.builds(Decomposition, st.just("import"), st.just("mypkg"), st.sampled_from(["f", "g"]), digest=digests),
    st.builds(Decomposition, st.just("opaque"), digest=digests, source=texts),
)
rules = st.just(Rule(PRESERVE)) | decompositions.map(lambda decomposition: Rule(OVERRIDE, decomposition))
states = st.builds(
    TableState,
    st.just("edge"),
    st.integers(1, 9),
    st.sampled_from(["torch", "empty"]),
    st.dictionaries(ops, rules),
)
entries = st.builds(
    Entry,
    st.sampled_from([None, "cia", "registry", "py_cia"]),
    st.booleans(),
    st.sampled_from(["", "aliasing", "no kernel"]),
    st.sampled_from(["", "(Tensor x) -> Tensor"]),
    st.sampled_from([(), ("core",), ("cia", "functional")]),
    st.none() | words,
    st.none() | words,
    st.none() | digests,
    st.none() | digests,
    others=st.sampled_from([(), ("registry",), ("cia", "registry")]),
)
builds = st.fixed_dictionaries({"torch": st.sampled_from(["2.13.0", "2.6.0"]), "git": st.just("a" * 40)})
catalogs = st.builds(Catalog, builds, st.dictionaries(ops, entries))

# Events.

changes = st.one_of(
    st.builds(Change, texts, st.sampled_from([PRESERVE, RESET])),
    st.builds(Change, texts, st.just(OVERRIDE), digests),
)
change_lists = st.lists(changes, max_size=4).map(tuple)
pending_lists = st.lists(texts, max_size=3).map(tuple)
bodies = st.one_of(
    st.builds(Created, st.sampled_from(["torch", "empty"]), st.none() | st.tuples(texts, integers)),
    *(st.builds(cls, change_lists, pending=pending_lists) for cls in (Set, Popped, Updated, Reset)),
    st.builds(Reverted, change_lists, pending=pending_lists, to=integers),
    st.builds(Passed, change_lists, pending=pending_lists, entries=integers, later=pending_lists, caller=texts),
    st.builds(Tagged, texts),
    st.builds(Materialized, digests, digests, pending_lists),
    st.builds(
        Exported,
        digests,
        digests,
        st.none() | digests,
        st.none() | digests,
        *[st.dictionaries(ascii_keys, integers, max_size=3)] * 3,
        integers,
        st.none() | st.tuples(texts, texts),
        pending_lists,
        module=st.none() | st.builds(RootModule, texts, st.none() | texts, st.none() | integers),
        made_from=st.none() | st.tuples(digests, integers),
    ),
    st.builds(Saved, integers, texts, texts, integers, digests, st.booleans()),
)

# Small ledgers.


def new_table(ledger: Ledger, name: str = "edge", base: str = "torch") -> TableLog:
    """Create or open a table without torch."""
    return ledger.create_table(name, base=base)


def decomposition(name: str) -> Decomposition:
    """Describe a function of the user's."""
    return Decomposition("import", "mypkg.lower", name, digest="5" * 64)


def override(log: TableLog, op: str, name: str, *, reason: str | None = None) -> Event | None:
    """Give an op a decomposition, as `table[op] = fn` does."""
    return log.change(Set, lambda _: [(op, OVERRIDE, decomposition(name))], reason=reason)


def catalog_of(*names: str, torch: str = "2.13.0") -> Catalog:
    """Make a catalog in which torch decomposes each of the ops by default."""
    return Catalog({"torch": torch}, {name: Entry("cia", default=True) for name in names})


# Other processes.


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start another Python, which has no torch, with pipes to its standard input, output and errors."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.modules['torch'] = None\n{code}", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [IMPORT_ROOT, os.environ.get("PYTHONPATH")]))},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process, assert that it succeeds, and return what it printed."""
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out


def run_python(code: str, *arguments: object) -> str:
    """Run code in another Python, assert that it succeeds, and return what it printed."""
    return finish(start_python(code, *arguments))


_DROP = """
import os, sys
import urllib.parse  # which pathlib imports late, from Python 3.13 on
from decomp_ledger import errors
from decomp_ledger.ledger import Ledger

Ledger(":memory:").close()  # does the late imports
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


def run_unprivileged(code: str, *arguments: object) -> str:
    """Run code as a user to whom file permissions apply.

    Root is not subject to them, so it becomes another user. It does so after the imports, because that user may not
    be able to read the Python that runs the tests.
    """
    return run_python(_DROP + code, *arguments)


@contextmanager
def public_folder() -> Iterator[Path]:
    """Give a folder that every user can read, because pytest's are private."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            folder.chmod(0o755)


# What a minimal stamp may not hold.

private_texts = st.from_regex(r"private[a-z0-9]{8}[ \"\\\u00e9\U0001f512]{0,3}", fullmatch=True)


def private_export(path: Path, reason: str, actor: str, host: str, ci_run: str, folder: str) -> int:
    """Make a ledger with one export, whose events have these private facts; return the export's number."""
    site = CallSite(f"{folder}/lower.py", 7, f"{folder}_function")
    environment: dict[str, Json] = {
        "torch": "2.13.0",
        "python": "3.11.7",
        "platform": "Linux x86_64",
        "host": host,
        "ci_run": ci_run,
        "git_commit": folder,
        "loaded_libraries": [f"{folder}.so"],
    }
    with Ledger(path) as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "origin", lambda: (actor, site, environment))
        table = new_table(ledger, "edge")
        table.preserve(["aten::mm", "mylib::late"], reason=reason)
        override(table, "aten::add.Tensor", "add", reason=reason)
        catalog = catalog_of("aten::mm", "aten::add.Tensor")
        snapshot = table.materialize(catalog)
        counts = {"aten::mm": 1}
        event = table.exported(
            Exported(catalog.digest, snapshot.digest, "b", "a", counts, counts, {}, 3), table.version
        )
    assert event is not None
    return event.seq
