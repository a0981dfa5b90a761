"""The limits of what is read, because a file of a stranger may unpack to much more than its size.

Each is some times what an honest file needs, and small enough that any read of a small file takes less than 256 MB of
memory and 10 seconds. What is over a limit is one error, and it is refused when it is written too, so that everything
that was stored can be read. The number of events, of lines and of weights has no limit.
"""

from __future__ import annotations

__all__ = [
    "CATALOG_OPS",
    "COMMAND_BYTES",
    "DUMP_LINE",
    "DUMP_VALUES",
    "EXPANSION",
    "EXPANSION_FREE",
    "FILE_BYTES",
    "JSON_BYTES",
    "JSON_VALUES",
    "SAMPLE_CALLS",
    "SQLITE_BYTES",
    "STAMP_EXPORTS",
    "ZIP_DIRECTORY",
]

_MIB = 1024 * 1024

# One JSON text: the fields of an event, an environment, a decomposition, a catalog, a stamp. Torch's catalog has 1 MiB.
JSON_BYTES = 8 * _MIB
# Values in one JSON text, counted as its commas, colons and opening brackets. A value of two bytes takes 64 bytes of
# memory. Torch's catalog has 71,000.
JSON_VALUES = 500_000
# Ops of one catalog. Torch has 3,700.
CATALOG_OPS = 50_000
# How many times its stored size a catalog may have, beyond the first EXPANSION_FREE bytes. Torch's has 12 times.
EXPANSION = 25
EXPANSION_FREE = 64 * 1024
# Bytes and values of one line of a dump: a JSON text with its digests, in ASCII, which takes up to three times as much.
DUMP_LINE = 3 * JSON_BYTES + 4096
DUMP_VALUES = JSON_VALUES + 100
# One text or blob in a row of a ledger, in bytes.
SQLITE_BYTES = 2 * JSON_BYTES
# Exports in one stamp. A program that is lowered once has one.
STAMP_EXPORTS = 100
# The directory of a `.pt2` in bytes: 50,000 weights and more.
ZIP_DIRECTORY = 8 * _MIB
# Fields of an `.onnx`, and of one entry of its metadata. Torch writes ten and more for each function and opset.
ONNX_FIELDS = 20_000
# Sample calls in one file. The shipped file has 2,900; a call takes up to a second to trace.
SAMPLE_CALLS = 10_000
# A file of signers, of a key, of one checkpoint, of sample calls or of a project's settings.
FILE_BYTES = _MIB
# What git prints of a working tree.
COMMAND_BYTES = 4 * _MIB
