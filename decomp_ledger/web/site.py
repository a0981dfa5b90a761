"""The pages: Datasette with this package's templates, links, questions and reports, and with no other plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from datasette.app import Datasette
from datasette.plugins import pm

from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.views import LABELS, QUESTIONS, VIEWS
from decomp_ledger.web import plugin
from decomp_ledger.web.served_ledger import ServedLedger

__all__ = ["Site", "site_of"]

NAME = "ledger"  # of the database in addresses
_TEMPLATES = Path(__file__).parent / "templates"
# The parts of Datasette that the pages use. Others log in, publish, or print what a request caused to the terminal.
_KEPT = {
    "datasette.facets",
    "datasette.filters",
    "datasette.sql_functions",
    "datasette.default_permissions",
    "datasette.blob_renderer",
    "datasette.forbidden",
}
_SETTINGS = {
    "num_sql_threads": 0,  # there is one connection, and the threads would outlive the server
    "allow_download": False,
    "allow_csv_stream": False,
    "default_cache_ttl": 0,  # the ledger may grow at any time
    "suggest_facets": False,
    "sql_time_limit_ms": 2000,
}


class Site(Datasette):  # type: ignore[misc]
    """Datasette for one ledger.

    Args:
        ledger: the ledger, for reports.
        ledger_file: the same file, opened for reading only, for everything else.
    """

    def __init__(self, ledger: LedgerLog, ledger_file: Database) -> None:
        self.ledger, self.ledger_file = ledger, ledger_file
        # Without files, Datasette would add a database in memory.
        super().__init__(files=[], template_dir=str(_TEMPLATES), settings=_SETTINGS, metadata=_metadata(ledger))
        self.remove_database("_memory")
        self.add_database(ServedLedger(self, ledger_file), name=NAME)


@contextmanager
def site_of(ledger: LedgerLog, ledger_file: Database) -> Iterator[Callable[..., Any]]:
    """Give the ASGI application for a ledger."""
    _plugins.drop_others()
    try:
        yield Site(ledger, ledger_file).app()
    finally:
        _plugins.bring_back()


class _Plugins:
    """The plugins of Datasette in this process.

    While a ledger is served, Datasette has only what the pages use: a plugin of the environment could write, or send
    what it reads elsewhere.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._served = 0
        self._others: list[tuple[str, ModuleType]] = []

    def drop_others(self) -> None:
        """Leave only the plugins of these pages."""
        with self._lock:
            self._served += 1
            if self._served > 1:
                return
            self._others = pm.list_name_plugin()
            for name, _ in self._others:
                if name not in _KEPT:
                    pm.unregister(name=name)
            pm.register(plugin, plugin.__name__)

    def bring_back(self) -> None:
        """Put the plugins back in their order, once no ledger is served."""
        with self._lock:
            self._served -= 1
            if self._served:
                return
            for name, _ in pm.list_name_plugin():
                pm.unregister(name=name)
            for name, other in self._others:
                pm.register(other, name)


_plugins = _Plugins()


def _metadata(ledger: LedgerLog) -> dict[str, Any]:
    """Return the titles, descriptions, labels and questions as Datasette takes them."""
    tables: dict[str, dict[str, Any]] = {
        name: {"description": view.about, "columns": dict(view.columns), "facets": list(view.facets)}
        for name, view in VIEWS.items()
    }
    tables.update({name: {"label_column": column} for name, column in LABELS.items()})
    queries = {
        name: {"title": each.title, "description": each.about, "sql": each.sql.strip()}
        for name, each in QUESTIONS.items()
    }
    return {
        "title": Path(ledger.path).name,
        "databases": {NAME: {"tables": tables, "queries": queries}},
    }
