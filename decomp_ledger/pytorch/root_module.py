"""Tell which module a program was exported from: its class, and where the class is defined.

Torch keeps the name of the class with each node, and the lines that led to it. Both survive saving and loading, so they
tell the same of a loaded program. The class itself is not looked up, because another class may have its name by then.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from decomp_ledger.log import provenance
from decomp_ledger.model.events import RootModule
from decomp_ledger.pytorch.fingerprint.syntax import parse_file

__all__ = ["root_module"]

_NODES, _FILES = 200, 6  # that are looked at
_FILE = re.compile(r'^ *File "([^"\n]+)", line \d+', re.MULTILINE)


def root_module(program: Any) -> RootModule | None:
    """Return the class of the module that a program was exported from; None if its nodes do not tell."""
    nodes = list(islice(program.graph.nodes, _NODES))
    name = next((name for node in nodes if (name := _class_of(node)) is not None), None)
    if name is None:
        return None
    for file in islice(_files(nodes), _FILES):
        line = _line_of(file, name)
        if line is not None:
            return RootModule(name, provenance.shortened(file), line)
    return RootModule(name)


def _class_of(node: Any) -> str | None:
    """Return the full name of the root module's class, which torch writes as that of the module without a path."""
    stack = node.meta.get("nn_module_stack")
    for entry in stack.values() if isinstance(stack, dict) else ():
        if isinstance(entry, tuple) and len(entry) == 2 and entry[0] == "":
            found = entry[1]
            return f"{found.__module__}.{found.__qualname__}" if isinstance(found, type) else str(found)
    return None


def _files(nodes: list[Any]) -> Iterator[str]:
    """Give the files of the lines that led to nodes, each once, outermost first."""
    seen: dict[str, None] = {}
    for node in nodes:
        text = node.meta.get("stack_trace")
        for file in _FILE.findall(text) if isinstance(text, str) else ():
            if file not in seen:
                seen[file] = None
                yield file


@lru_cache(maxsize=256)  # parsing a file of a thousand lines takes 20 ms
def _line_of(file: str, name: str) -> int | None:
    """Return the line of the class in a file; None if the file does not define it, or defines it twice."""
    text = "".join(linecache.getlines(file))
    own = name.rpartition(".")[2]
    found = re.findall(rf"^[ \t]*class {re.escape(own)}\b", text, re.MULTILINE)
    if not found:
        return None
    try:
        lines = [line for qualified, line in _classes(parse_file(text)) if f".{name}".endswith(f".{qualified}")]
    except (SyntaxError, ValueError, RecursionError):  # not the source any more
        return None
    return lines[0] if len(lines) == 1 else None


def _classes(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Give the qualified name and the line of each class of a file."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield f"{prefix}{node.name}", node.lineno
            yield from _classes(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _classes(node, f"{prefix}{node.name}.<locals>.")
        else:
            yield from _classes(node, prefix)
