"""No test of this folder imports torch."""

from strategies import without_torch  # noqa: F401  # a fixture that every module here uses
