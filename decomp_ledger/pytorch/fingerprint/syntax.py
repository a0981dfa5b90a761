"""Find a Python function in its file, and write its syntax in one form for all versions of Python.

The form leaves out what cannot change a result: annotations, docstrings, asserts, ``torch._check`` calls, registration
decorators, the function's own name. It is the same on Python 3.10 to 3.13, where ``ast.dump`` and byte code differ.

Only the standard library is imported, because this file is also a part of the standalone capture program.
"""

import ast
import contextlib
import json
import linecache
import re
import textwrap
import types
import warnings
import weakref
import zipimport
from collections.abc import Iterator
from typing import Any, NamedTuple

_FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FILE_NAME = "<source of decomp_ledger>"  # in the warnings of what is compiled here
_IGNORED_FIELDS = frozenset({"annotation", "returns", "type_params", "type_comment", "type_ignores", "kind", "ctx"})


class FunctionSource(NamedTuple):
    """A function as it stands in its file.

    Attributes:
        dump: The canonical form of its syntax.
        names: The dotted names in it, without those in decorators and those of its own variables.
        decorators: The dotted names of its decorators.
        imports: The modules that its file imports by their full name, as in ``import a.b``.
        top: File and line of the top-level definition that contains it.
        text: Its dedented text, decorators included.
    """

    dump: str
    names: tuple[tuple[str, ...], ...]
    decorators: tuple[tuple[str, ...], ...]
    imports: frozenset[str]
    top: tuple[str, int]
    text: str


def find_source(fn: types.FunctionType) -> FunctionSource | None:
    """Find a function in its file.

    Each function is looked up once. Each file is parsed once, until `linecache` notices that it changed.

    Args:
        fn: A plain Python function or lambda.

    Returns:
        The function in its file; None when it has no text, because ``exec`` made it, or when the file no longer has a
        function of that name on that line.
    """
    if fn not in _sources:
        _sources[fn] = _look_up(fn)
    return _sources[fn]


def parse_file(text: str) -> ast.Module:
    """Parse the text of a file, without the warnings that Python gives for it.

    Python gave them when it compiled the file for the program. With ``-W error`` each would be a SyntaxError here.

    Args:
        text: Of the whole file.

    Raises:
        SyntaxError: It is not Python.
        ValueError: It has a null character.
        RecursionError: It is nested too deeply.
    """
    with _without_warnings():
        return ast.parse(text, _FILE_NAME)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Give no warnings for what is compiled under the name `_FILE_NAME`.

    This is not `warnings.catch_warnings`: that makes Python show warnings of the program again that it has shown, and
    takes those of other threads.
    """
    ignored = ("ignore", None, Warning, re.compile(f"{_FILE_NAME}$"), 0)
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters.insert(0, ignored)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the program has emptied the list
            filters.remove(ignored)


def _look_up(fn: types.FunctionType) -> FunctionSource | None:
    code = fn.__code__
    linecache.checkcache(code.co_filename)
    # Other loaders are not asked, because a module may set any object as its own.
    is_zipped = type(fn.__globals__.get("__loader__")) is zipimport.zipimporter
    lines = linecache.getlines(code.co_filename, fn.__globals__ if is_zipped else None)
    file = _files.get(code.co_filename)
    if file is None or file.lines is not lines:  # linecache gives a new list for a changed file
        if not lines:
            return None
        file = _files[code.co_filename] = _File(code.co_filename, lines)
    return file.find(code)


class _File:
    """A parsed file, its functions indexed by the line where their code starts and their name."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.lines = lines
        self._name = name
        self._nodes: dict[tuple[int, str], list[tuple[Any, ast.stmt]]] = {}
        self._found: dict[ast.AST, FunctionSource] = {}
        self._imports: frozenset[str] = frozenset()
        self._casts = False
        try:
            tree = parse_file("".join(lines))
        except (SyntaxError, ValueError, RecursionError):  # not Python, as a notebook's cell may be
            return
        plain = [node for node in tree.body if isinstance(node, ast.Import)]
        self._imports = frozenset(alias.name for node in plain for alias in node.names)
        typing = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "typing"]
        self._casts = any(alias.name == "cast" for node in typing for alias in node.names)
        for statement in tree.body:
            for node in ast.walk(statement):
                if isinstance(node, _FUNCTION_NODES):
                    key = (_first_line(node), getattr(node, "name", "<lambda>"))
                    self._nodes.setdefault(key, []).append((node, statement))

    def find(self, code: types.CodeType) -> FunctionSource | None:
        """Return the function of a code object, or None."""
        nodes = self._nodes.get((code.co_firstlineno, code.co_name), [])
        if len(nodes) > 1:
            nodes = [item for item in nodes if _compiles_to(item[0], code)] or nodes
        if not nodes:
            return None
        node, top = nodes[0]
        if node not in self._found:
            self._found[node] = self._describe(node, top)
        return self._found[node]

    def _describe(self, node: Any, top: ast.stmt) -> FunctionSource:
        dump, names = _canonical(node, self._casts)
        decorators = [d.func if isinstance(d, ast.Call) else d for d in getattr(node, "decorator_list", ())]
        text = "".join(self.lines[_first_line(node) - 1 : node.end_lineno])
        return FunctionSource(
            dump=dump,
            names=names,
            decorators=tuple(map(_dotted, decorators)),
            imports=self._imports,
            top=(self._name, top.lineno),
            text=textwrap.dedent(text),
        )


_files: dict[str, _File] = {}
# Weak, so that the cache keeps no function and no closure alive.
_sources: "weakref.WeakKeyDictionary[types.FunctionType, FunctionSource | None]" = weakref.WeakKeyDictionary()


def _first_line(node: Any) -> int:
    """Return the line that the function's code object has as its first."""
    decorators = getattr(node, "decorator_list", ())
    return int(decorators[0].lineno if decorators else node.lineno)


def _compiles_to(node: Any, code: types.CodeType) -> bool:
    """Tell whether a lambda compiles to a code object, because several lambdas may share a line."""
    free = [ast.arg(name) for name in code.co_freevars]
    arguments = ast.arguments(posonlyargs=[], args=free, kwonlyargs=[], kw_defaults=[], defaults=[])
    tree = ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, node)))
    with _without_warnings():
        outer = _inner_codes(compile(tree, _FILE_NAME, "eval", dont_inherit=True))[-1]
    return _code_key(_inner_codes(outer)[-1]) == _code_key(code)


def _inner_codes(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _code_key(code: types.CodeType) -> tuple[object, ...]:
    constants = [_code_key(c) if isinstance(c, types.CodeType) else (type(c), repr(c)) for c in code.co_consts]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_code, constants, names, code.co_argcount)


class _Token(str):
    """Punctuation of the dump, of a type that strings in the source do not have."""


def _canonical(root: ast.AST, casts: bool) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """Dump a function's syntax, and list the dotted names in it.

    Args:
        root: The function's node.
        casts: Whether ``cast`` is the one of `typing`, which does nothing.
    """
    tokens: list[str] = []
    names: set[tuple[str, ...]] = set()
    left_out = {id(n) for d in getattr(root, "decorator_list", ()) for n in ast.walk(d)} | _own_variables(root)
    stack: list[Any] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, _Token):
            tokens.append(item)
        elif isinstance(item, list):
            stack += [_Token("]"), *reversed(item), _Token("[")]
        elif isinstance(item, ast.AST):
            if isinstance(item, ast.Call) and _has_idle_argument(item, casts):
                item = ast.Call(item.func, item.args[1:], item.keywords)
            if id(_first(item)) not in left_out:
                names.add(_dotted(item))
            stack += [_Token(")"), *reversed(_parts(item, item is root))]
        else:
            tokens.append(json.dumps(item))
    return " ".join(tokens), tuple(sorted(names - {()}))


def _own_variables(root: ast.AST) -> set[int]:
    """Return the `id` of each node that names a variable of the function or of a scope within it.

    The code object has these only from Python 3.12 on, where a comprehension's variables are those of the function.
    """
    found: set[int] = set()
    stack: list[tuple[ast.AST, frozenset[str]]] = [(root, frozenset())]
    while stack:
        node, known = stack.pop()
        if isinstance(node, ast.Name) and node.id in known:
            found.add(id(node))
        inner = known | _bindings(node)
        stack += [(child, inner if within else known) for child, within in _children(node)]
    return found


def _children(node: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Yield the evaluated parts of a node, each with whether it is within the scope that the node opens."""
    if isinstance(node, (*_FUNCTION_NODES, ast.ClassDef)):
        around: list[Any] = [*getattr(node, "decorator_list", ()), *getattr(node, "bases", ())]
        if not isinstance(node, ast.ClassDef):
            around += [*node.args.defaults, *node.args.kw_defaults]
        yield from ((part, False) for part in around if part is not None)
        yield from ((part, True) for part in (node.body if isinstance(node.body, list) else [node.body]))
    elif isinstance(node, _COMPREHENSIONS):
        first = node.generators[0].iter
        yield first, False
        parts = [part for each in node.generators for part in ast.iter_child_nodes(each) if part is not first]
        results = [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.comprehension)]
        yield from ((part, True) for part in (*parts, *results))
    else:
        yield from ((part, True) for part in ast.iter_child_nodes(node))


def _bindings(scope: ast.AST) -> set[str]:
    """Return the variables of the scope that a node opens."""
    if isinstance(scope, _COMPREHENSIONS):
        targets = [name for each in scope.generators for name in ast.walk(each.target)]
        return {name.id for name in targets if isinstance(name, ast.Name)}
    if not isinstance(scope, (*_FUNCTION_NODES, ast.ClassDef)):
        return set()
    bound: set[str] = set()
    elsewhere: set[str] = set()
    if not isinstance(scope, ast.ClassDef):
        every = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs, scope.args.vararg, scope.args.kwarg]
        bound.update(argument.arg for argument in every if argument is not None)
    stack = [part for part, within in _children(scope) if within]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            elsewhere.update(node.names)
        elif isinstance(name := getattr(node, "name", None), str):  # a definition, an exception, a pattern
            bound.add(name)
        if isinstance(node, _COMPREHENSIONS):
            stack += [named.target for named in ast.walk(node) if isinstance(named, ast.NamedExpr)]
        elif not isinstance(node, (*_FUNCTION_NODES, ast.ClassDef)):
            stack += ast.iter_child_nodes(node)
    return bound - elsewhere


def _parts(node: ast.AST, is_root: bool) -> list[Any]:
    """List a node's type, and the names and values of its fields that count."""
    kind, fields = type(node).__name__, dict(ast.iter_fields(node))
    if isinstance(node, ast.Constant):
        return [_Token("(Constant"), _Token(_literal(node.value))]
    if isinstance(node, ast.AnnAssign):
        kind, fields = "Assign", {"targets": [node.target], "value": node.value}
    elif isinstance(node, ast.JoinedStr):
        fields = {"values": _joined(node.values)}
    if "decorator_list" in fields:
        fields["decorator_list"] = _lasting_decorators(node)
    if is_root:
        fields.pop("name", None)
    parts: list[Any] = [_Token(f"({kind}")]
    for name, value in fields.items():
        if isinstance(value, list):
            value = [item for item in value if not _is_noise(item)]
        if name not in _IGNORED_FIELDS and value is not None and value != []:
            parts += [_Token(name), value]
    return parts


def _has_idle_argument(call: ast.Call, casts: bool) -> bool:
    """Tell whether the first argument has no effect: a type for ``cast``, a 0 for ``range``."""
    if len(call.args) != 2 or call.keywords:
        return False
    name, first = _dotted(call.func), call.args[0]
    if name == ("range",):
        return isinstance(first, ast.Constant) and first.value == 0
    return name == ("typing", "cast") or (casts and name == ("cast",))


def _literal(value: Any) -> str:
    """Write a constant of the source; not with ``repr``, which differs between versions of Python for strings."""
    if isinstance(value, (float, complex)):
        parts = (value.real.hex(), value.imag.hex())
        return f"{type(value).__name__} {parts[0]} {parts[1]}"
    if isinstance(value, (str, bool)) or value is None:
        return json.dumps(value)
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    return hex(value) if isinstance(value, int) else str(value)


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Merge the adjacent texts of an f-string, because versions of Python cut them differently."""
    merged: list[ast.expr] = []
    for value in values:
        last = merged[-1] if merged else None
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            merged[-1] = ast.Constant(f"{last.value!s}{value.value!s}")
        else:
            merged.append(value)
    return [v for v in merged if not (isinstance(v, ast.Constant) and v.value == "")]


def _lasting_decorators(node: Any) -> list[ast.expr]:
    """List the decorators that may change what a function does.

    One that registers a function returns it unchanged. Torch adds and moves such registrations often, and the op is
    known from the table.
    """
    lasting = []
    for decorator in getattr(node, "decorator_list", ()):
        named = decorator.func if isinstance(decorator, ast.Call) else decorator
        last = named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")
        if not (last.startswith("register") or last == "py_impl"):
            lasting.append(decorator)
    return lasting


def _is_noise(node: Any) -> bool:
    """Tell whether a node is a statement that only documents or checks."""
    if isinstance(node, (ast.Assert, ast.Pass)):
        return True
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or _is_check(node.value)
    if isinstance(node, ast.Raise):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return raised is not None and _dotted(raised) == ("AssertionError",)
    if isinstance(node, (ast.If, ast.For)):
        return all(map(_is_noise, node.body)) and all(map(_is_noise, node.orelse))
    return False


def _is_check(expression: ast.expr) -> bool:
    """Tell whether an expression is a call of ``torch._check`` or one of its kind."""
    name = _dotted(expression.func) if isinstance(expression, ast.Call) else ()
    return len(name) == 2 and name[0] == "torch" and name[1].startswith("_check")


def _first(node: ast.AST) -> ast.AST:
    """Return the node of a dotted name's first part, or of the expression in its place."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def _dotted(node: ast.AST) -> tuple[str, ...]:
    """Return the parts of a dotted name, or () for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()
