"""The stamp of an `.onnx`: an entry of its `metadata_props`. Read as bytes, without the `onnx` package.

An `.onnx` is one protobuf message, a `ModelProto`: a sequence of fields, each with a number and a size. All fields but
`metadata_props` are skipped by their size, so the graph and the weights are never read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

from decomp_ledger.errors import MissingStamp, StampError
from decomp_ledger.model.limits import JSON_BYTES, ONNX_FIELDS

__all__ = ["KEY", "read_text"]

KEY = "decomp_ledger.stamp"  # of the entry
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2  # field numbers of `onnx.proto`
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_FIXED = {_FIXED64: 8, _FIXED32: 4}


def read_text(file: IO[bytes], name: str) -> bytes:
    """Return the text of the stamp of an `.onnx`.

    Args:
        file: the file, seekable, at its beginning.
        name: its name, for messages.

    Raises:
        MissingStamp: it has none.
        StampError: it is not an `.onnx`, has two stamps, or one over the limit.
    """
    found = [value for key, value in _metadata(file, name) if key == KEY.encode()]
    if not found:
        raise MissingStamp(
            f"{name}: has no stamp: it was saved outside of a recording, or no recorded export is known to have led to "
            "it; save it within a recording, with ONNXProgram.save() or torch.onnx.export(dynamo=True)"
        )
    if len(found) > 1:
        raise StampError(f"{name}: has {len(found)} stamps, so neither can be trusted; save it again")
    return found[0]


def _metadata(file: IO[bytes], name: str) -> Iterator[tuple[bytes, bytes]]:
    """Give the key and the value of each entry of `metadata_props`."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    for number, size in _fields(file, end, name):
        if number == _METADATA_PROPS and size <= JSON_BYTES:
            last = file.tell() + size
            entry = dict.fromkeys((_KEY, _VALUE), b"")
            for inner, length in _fields(file, last, name):
                if inner in entry:
                    entry[inner] = file.read(length)
            yield entry[_KEY], entry[_VALUE]
        elif number == _METADATA_PROPS:
            raise StampError(f"{name}: its metadata has {size} bytes, over the limit of {JSON_BYTES}; save it again")


def _fields(file: IO[bytes], end: int, name: str) -> Iterator[tuple[int, int]]:
    """Give the number and the size of each field with bytes, the file at their beginning; then go on after them."""
    for _ in range(ONNX_FIELDS):
        if file.tell() >= end:
            return
        tag = _varint(file, name)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _varint(file, name)
            continue
        if wire not in (_BYTES, *_FIXED):
            raise StampError(f"{name}: not an .onnx file, or a damaged one; name another file")
        size = _varint(file, name) if wire == _BYTES else _FIXED[wire]
        start = file.tell()
        if size > end - start:
            raise StampError(f"{name}: not an .onnx file, or a damaged one: it is cut off; name another file")
        if wire == _BYTES:
            yield number, size
        file.seek(start + size)
    raise StampError(
        f"{name}: not an .onnx file, or a damaged one: it has more than {ONNX_FIELDS} fields; name another file"
    )


def _varint(file: IO[bytes], name: str) -> int:
    """Read a number of up to ten bytes, the lowest seven bits first."""
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return value
    raise StampError(f"{name}: not an .onnx file, or a damaged one; name another file")
