"""The pytest plugin of decomp_ledger: its option and its fixture; `decomp_ledger/pytest_plugin.py` has what they need.

This is a module of its own, because pytest imports a plugin in every run, also in one that does not use it, and an
import of the package takes 0.2 s.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from decomp_ledger.pytest_plugin import PytestSession, RecordedTest

_session = pytest.StashKey["PytestSession"]()
_test = pytest.StashKey["RecordedTest"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("decomp-ledger").addoption(
        "--decomp-ledger",
        metavar="FILE",
        help="record the decomposition tables and exports of each test in this ledger, under the name of the test",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell at once if the ledger cannot be used."""
    if config.getoption("--decomp-ledger") is not None:
        config.pluginmanager.register(_session_of(config), "decomp_ledger.pytest_plugin.PytestSession")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the ledger."""
    if _session in config.stash:
        config.stash[_session].close()


# Setup and teardown, not the protocol around both, because a warning that is an error (-W error) fails the test here,
# and ends pytest there.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Begin to record a test, before its first fixture is set up."""
    if item.config.getoption("--decomp-ledger") is not None or "decomp_ledger" in getattr(item, "fixturenames", ()):
        _begin(item)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """End the recording of a test, after its last fixture is torn down."""
    try:
        return (yield)
    finally:
        if _test in item.stash:
            test = item.stash[_test]
            del item.stash[_test]
            test.end()


@pytest.fixture
def decomp_ledger(request: pytest.FixtureRequest) -> RecordedTest:
    """The recording of this test: its ledger, its exports, and assertions about what became of an op."""
    if _test not in request.node.stash:  # `getfixturevalue` asked for it while the test ran
        _begin(request.node)
    return request.node.stash[_test]  # type: ignore[no-any-return]


def _begin(item: pytest.Item) -> None:
    item.stash[_test] = _session_of(item.config).begin(item.nodeid)


def _session_of(config: pytest.Config) -> PytestSession:
    if _session not in config.stash:
        from decomp_ledger.errors import LedgerError
        from decomp_ledger.pytest_plugin import PytestSession

        try:
            session = PytestSession(config.getoption("--decomp-ledger"))
        except LedgerError as error:
            raise pytest.UsageError(f"decomp-ledger: {error}") from None
        config.option.decomp_ledger = session.path  # absolute, for the workers of pytest-xdist
        config.stash[_session] = session
    return config.stash[_session]
