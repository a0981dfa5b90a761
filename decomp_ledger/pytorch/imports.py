"""Record what the libraries that a program imports register with torch, and what that changes in torch's default table.

All ways of `torch.library` to register something end in a few functions, which are wrapped while a recording lasts:
`Library.define`, `impl` and `_destroy`, the store of fake kernels, torch's registry of decompositions, and `py_impl`.
None of them looks at the frame of its caller, so the wrappers change nothing. What C++ registers shows in the
dispatcher, which is read after a shared library is loaded.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import torch
from torch.library import Library

from decomp_ledger.analysis.imports import ImportReport, LibraryImport, Registration, TableChange, table_changes
from decomp_ledger.errors import InvalidName, LedgerError
from decomp_ledger.log import provenance
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.model import op_names
from decomp_ledger.model.catalog import Entry
from decomp_ledger.model.display import displayed, guarded
from decomp_ledger.model.safe_text import safe_repr
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.dispatcher import dispatcher, op_names_of
from decomp_ledger.storage.block_lock import BlockLock

__all__ = ["ImportRecording"]

_PACKAGE = str(Path(__file__).parents[1]) + "/"
_TORCH = str(Path(str(torch.__file__)).parent) + "/"
# The files of torch that register for a caller, who is the one to name.
_PARTS = ("library.py", "_library/", "_ops.py", "_custom_op", "_decomp/__init__.py", "utils/_pytree.py")
_MACHINERY = (*(_TORCH + name for name in _PARTS), _PACKAGE, "<frozen ")
_CIA = "CompositeImplicitAutograd"
_REGISTRY, _DECOMPOSITION = "registry", "decomposition"  # the origin of a decomposition, and how it is registered


class _Site(NamedTuple):
    """Where something is registered.

    Attributes:
        library: what groups registrations: the top folder in `site-packages`, `torch/`, or a file.
        file: the file, for people.
        line: the line.
        function: the function.
        program: the innermost line of the program itself that is in another file, as text; "" if none is.
    """

    library: str
    file: str
    line: int
    function: str
    program: str


@displayed
class ImportRecording:
    """Records what is registered with torch within a `with` block. It can be entered once.

    Attributes:
        report: what was registered; None until the block has ended.
    """

    def __init__(self) -> None:
        self.report: ImportReport | None = None
        self._lock = BlockLock()
        self._undo: list[Callable[[], None]] = []
        self._registrations: dict[str, list[Registration]] = {}
        self._changes: dict[str, list[TableChange]] = {}
        self._imported_at: dict[str, str] = {}
        self._others: list[TableChange] = []
        self._missed: list[str] = []
        self._library = ""  # whose registrations come now
        # Op, and whether in the registry of decompositions -> the library that registered for it since the last look.
        self._named: dict[tuple[str, bool], str] = {}
        self._first: dict[str, tuple[Entry, object]] = {}
        self._last = self._first
        self._seen = _Dispatcher()

    @guarded
    def __repr__(self) -> str:
        return f"<ImportRecording: {'not ended' if self.report is None else repr(self.report)}>"

    def __enter__(self) -> ImportRecording:
        if self.report is not None or self._undo:
            raise LedgerError("a recording of imports: it was entered before; make another one")
        self._first = self._last = _default_table()
        self._seen.news(everything=True)
        holder = internals.fake_kernel_holder()
        self._wrap(Library, "define", self._defined)
        self._wrap(Library, "impl", self._implemented)
        self._wrap(Library, "_destroy", self._destroyed)
        self._wrap(holder, "register", self._faked)
        self._wrap(*internals.decomposition_registrar(), self._decomposed)
        self._wrap(internals.OperatorBase, "py_impl", self._implemented_in_python)
        self._wrap(type(torch.ops), "load_library", self._loaded)
        self._wrap(ExtensionFileLoader, "create_module", self._loaded_module)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in reversed(self._undo):
            undo()
        self._try(self._look_at_dispatcher, everything=True)
        self._try(self._close)
        names = _Distributions()
        self.report = ImportReport(
            torch=str(torch.__version__),
            size=(len(self._first), len(self._last)),
            libraries=tuple(
                LibraryImport(
                    names.name(library),
                    self._imported_at[library],
                    tuple(registrations),
                    tuple(self._changes.get(library, ())),
                )
                for library, registrations in self._registrations.items()
            ),
            others=tuple(self._others),
            missed=tuple(dict.fromkeys(self._missed)),
        )

    def _wrap(self, owner: Any, name: str, seen: Callable[..., None]) -> None:
        """Call `seen` with the site and the arguments of each call of a function that returned."""
        original = getattr(owner, name, None)
        if original is None:
            self._missed.append(f"what goes through {name}, which this torch does not have")
            return
        signature = inspect.signature(original)

        @functools.wraps(original)
        @hidden
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            site = _site(sys._getframe(1))
            self._try(self._enter_library, site)
            result = original(*args, **kwargs)
            self._try(seen, site, *signature.bind(*args, **kwargs).args)
            return result

        def undo() -> None:
            # Only if it is still ours, because another tool may have wrapped it since and calls ours.
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)

        setattr(owner, name, wrapper)
        self._undo.append(undo)

    def _try(self, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call a function of ours, whose failure must not reach the program."""
        try:
            with self._lock:
                function(*args, **kwargs)
        except Exception as error:
            self._missed.append(safe_repr(error, 300))

    # Whose changes are whose

    def _enter_library(self, site: _Site) -> None:
        """Give the changes so far to the libraries that made them, before another one makes more."""
        if site.library != self._library:
            self._look_at_dispatcher()
            self._close()
            self._library = site.library

    def _close(self) -> None:
        """Compare the default table with the last look, and give each change to the library that named its op."""
        now = _default_table()
        for change in table_changes(self._last, now):
            entry = (now.get(change.op) or self._last[change.op])[0]
            library = self._named.get((change.op, entry.origin == _REGISTRY))
            (self._others if library is None else self._changes.setdefault(library, [])).append(change)
        self._last = now
        self._named.clear()

    def _add(self, what: str, op: str, key: str, site: _Site) -> None:
        name = _stored(op)
        self._named[name, what == _DECOMPOSITION] = site.library
        self._seen.known.add((name, key))
        self._imported_at.setdefault(site.library, site.program)
        found = Registration(what, name, key, site.file, site.line, site.function)
        self._registrations.setdefault(site.library, []).append(found)

    # What each of the wrapped functions did

    def _defined(self, site: _Site, library: Any, schema: str, *others: Any) -> None:
        self._add("op", f"{library.ns}::{schema.split('(')[0].strip()}", "", site)

    def _implemented(self, site: _Site, library: Any, op: Any, fn: Any, key: str = "", *others: Any) -> None:
        name = op if isinstance(op, str) else op.name()
        name = name if "::" in name else f"{library.ns}::{name}"
        self._add("kernel", name, key or library.dispatch_key or _CIA, site)

    def _destroyed(self, site: _Site, library: Any) -> None:
        for name, key in internals.names_of_library(library):  # torch keeps them in the library
            self._add("destroyed kernel" if key else "destroyed op", name, key, site)

    def _faked(self, site: _Site, holder: Any, *others: Any) -> None:
        self._add("fake kernel", holder.qualname, "", site)

    def _decomposed(self, site: _Site, registry: Any, op: Any, fn: Any) -> None:
        name = internals.registry_name(registry)
        if name:  # else it is a dict of the library's own
            for each in op_names_of(op):
                self._add(_DECOMPOSITION, each, name, site)

    def _implemented_in_python(self, site: _Site, op: Any, key: Any) -> None:
        # It returns a decorator; the function stands there.
        name = internals.operator_name(op)
        if name is not None:
            self._add("kernel", name, str(key).rpartition(".")[2], site)

    def _loaded(self, site: _Site, ops: Any, path: Any) -> None:
        self._look_at_dispatcher(str(path), site, everything=True)

    def _loaded_module(self, site: _Site, loader: Any, spec: Any) -> None:
        self._look_at_dispatcher(str(spec.origin), site)

    def _look_at_dispatcher(self, path: str = "", site: _Site | None = None, *, everything: bool = False) -> None:
        """Record what is in the dispatcher since the last look, and was not seen: what C++ registered.

        Args:
            path: the shared library that was loaded; "" if that is not known.
            site: where it was loaded.
            everything: whether to look at every kernel of every op, not only at new ops and new CIA kernels.
        """
        library = provenance.shortened(path) if path else _UNSEEN
        program = "" if site is None else site.program or f"{site.file}:{site.line}"
        for op, key, file, line in self._seen.news(everything=everything):
            self._add("kernel" if key else "op", op, key, _Site(library, provenance.shortened(file), line, "", program))


_UNSEEN = "code whose loading was not seen"


class _Dispatcher:
    """What the dispatcher had at the last look.

    Attributes:
        known: op and dispatch key, or "", of everything that was seen.
    """

    def __init__(self) -> None:
        self.known: set[tuple[str, str]] = set()
        self._names: set[str] = set()
        self._cia: set[str] = set()

    def news(self, *, everything: bool) -> list[tuple[str, str, str, int]]:
        """Return what is there and was not known: op, dispatch key or "", file, line (5 ms, or 0.2 s for everything).

        Args:
            everything: whether to look at every kernel of every op, not only at new ops and new CIA kernels.
        """
        names, cia = set(internals.dispatcher_names()), set(internals.cia_registrations())
        looked_at = names if everything else (names - self._names) | (cia - self._cia)
        self._names, self._cia = names, cia
        found = []
        for name in sorted(looked_at):
            for key, file, line in internals.registered_at(name):
                if (_stored(name), key) not in self.known:
                    self.known.add((_stored(name), key))
                    found.append((name, key, file, line))
        return found


def _default_table() -> dict[str, tuple[Entry, object]]:
    """Return torch's default table: op -> its entry, and what tells one function from another."""
    defaults = dispatcher.full()
    ops = defaults.catalog.ops
    return {op: (ops[op], _identity(defaults.table[live])) for op, live in defaults.by_name.items()}


def _identity(fn: Any) -> object:
    # Torch makes the callable of a C++ kernel again for each table.
    return None if internals.op_of_cia_partial(fn) is not None else _Same(fn)


class _Same:
    """Equal only for the same function, whatever its class says."""

    __slots__ = ("fn",)

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.fn is self.fn

    __hash__ = None  # type: ignore[assignment]


def _stored(name: str) -> str:
    """Return the stored form of an op's name; the name itself if it has none."""
    try:
        return op_names.normalize(name)
    except InvalidName:
        return name


def _site(frame: FrameType | None) -> _Site:
    """Return where code registers something: the innermost frame that is not torch's machinery."""
    while frame is not None and frame.f_code.co_filename.startswith(_MACHINERY):
        frame = frame.f_back
    if frame is None:
        return _Site("unknown", "unknown", 0, "", "")
    here, line, function = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
    while frame is not None and (frame.f_code.co_filename == here or not provenance.is_own(frame.f_code.co_filename)):
        frame = frame.f_back
    program = "" if frame is None else f"{provenance.shortened(frame.f_code.co_filename)}:{frame.f_lineno}"
    file = provenance.shortened(here)
    return _Site(file if provenance.is_own(here) else file.partition("/")[0], file, line, function, program)


class _Distributions:
    """The distributions of top-level packages, read when one is asked for (0.1 s)."""

    def __init__(self) -> None:
        self._of: Any = None

    def name(self, library: str) -> str:
        """Return the distribution and version of what a site calls its library; else that."""
        if library == "torch" or "/" in library or library.endswith((".so", ".dylib", ".pyd")):
            return library
        if self._of is None:
            self._of = importlib.metadata.packages_distributions()
        found = self._of.get(library.removesuffix(".py"), ())
        return f"{found[0]} {importlib.metadata.version(found[0])}" if found else library
