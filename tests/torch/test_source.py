"""What is the same function, and what is another one."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import linecache
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from decomp_ledger.pytorch.capture_program import fingerprint_program
from decomp_ledger.pytorch.fingerprint.source_digest import (
    MAX_SOURCE_BYTES,
    helpers_digest,
    source_digest,
    source_text,
    wrappers_digest,
)

# Everything whose syntax tree differs between Pythons, or might.
EVERY_SYNTAX = '''
import functools
from typing import cast

def decorate(scale=2.0):
    def make(fn):
        @functools.wraps(fn)
        def inner(*args, **kwargs):
            return fn(*args, **kwargs) * scale
        return inner
    return make

@decorate(scale=0.1)
def f(a, /, b: int = 3, *rest: str, key: "float" = 1e-5, **more) -> None:
    """Documented."""
    x: int = a[1:-1, ..., None]
    y: "str"
    text = f"{a!r:>{b}} and {key:.3f}{{}}" "joined" f"{x=}"
    other = u"old" + "\\u00e9\\U0001f600\\x7f" + chr(b)
    many = {**more, 1: 2j, b"z": (yes := True), None: {1, 2}}
    assert x, "checked"
    if not isinstance(a, int):
        raise AssertionError(f"no int: {a}")
    match a:
        case {"k": [1, *_]} | None: pass
        case str(value) if value: return value
    with open(a) as one, open(b) as two:
        del one, two
    try:
        lambda p, q=(lambda: 1): [i for i in p if not q] if a else 10 ** 400
    except (OSError, ValueError) as error:
        raise RuntimeError from error
    else:
        global z
    return cast("Tensor", x), range(0, b), [v for u in rest for v in u], text, other, many
'''
EVERY_SYNTAX_DIGEST = "2536f71b55e39a908ebc96965b2509e9a9336d48637c6d800e53a4600f31c175"

_modules = itertools.count()


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Write a module of that text, and import it."""

    def load(text: str) -> ModuleType:
        name = f"throwaway_module_{next(_modules)}"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def digest(value: object) -> str:
    made = source_digest(value)
    assert made is not None and len(made) == 64
    return made


PLAIN = "def f(x, dim=1):\n    return x.sum(dim) * 2\n"

SAME = {
    "annotations": "def f(x: 'Tensor', dim: int = 1) -> 'Tensor':\n    return x.sum(dim) * 2\n",
    "a docstring": 'def f(x, dim=1):\n    """Sum."""\n    return x.sum(dim) * 2\n',
    "an assert": "def f(x, dim=1):\n    assert dim, 'no dim'\n    return x.sum(dim) * 2\n",
    "a raised AssertionError": (
        "def f(x, dim=1):\n    if not dim:\n        raise AssertionError('no dim')\n    return x.sum(dim) * 2\n"
    ),
    "a torch._check": "def f(x, dim=1):\n    torch._check(dim > 0, lambda: 'no')\n    return x.sum(dim) * 2\n",
    "a loop of checks": (
        "def f(x, dim=1):\n    for d in x:\n        torch._check_type(d, lambda: 'no')\n    return x.sum(dim) * 2\n"
    ),
    "a declaration": "def f(x, dim=1):\n    y: int\n    return x.sum(dim) * 2\n",
    "comments and layout": "\ndef f(\n    x,\n    dim=1,\n):\n    # twice\n    return (x.sum(dim)\n     * 2)\n",
    "another name": "def g(x, dim=1):\n    return x.sum(dim) * 2\nf = g\n",
    "another place": "if True:\n    def f(x, dim=1):\n        return x.sum(dim) * 2\n",
    "a registration": "register = lambda fn: fn\n@register\ndef f(x, dim=1):\n    return x.sum(dim) * 2\n",
}

DIFFERENT = {
    "a constant": "def f(x, dim=1):\n    return x.sum(dim) * 3\n",
    "the type of a constant": "def f(x, dim=1):\n    return x.sum(dim) * 2.0\n",
    "a default": "def f(x, dim=2):\n    return x.sum(dim) * 2\n",
    "the value of a default": "ONE = 2\ndef f(x, dim=ONE):\n    return x.sum(dim) * 2\n",
    "a decorator": "once = lambda fn: fn\n@once\ndef f(x, dim=1):\n    return x.sum(dim) * 2\n",
    "another method": "def f(x, dim=1):\n    return x.prod(dim) * 2\n",
    "a keyword": "def f(x, *, dim=1):\n    return x.sum(dim) * 2\n",
    "another kind of function": "async def f(x, dim=1):\n    return x.sum(dim) * 2\n",
    "a check that decides": (
        "def f(x, dim=1):\n    if dim:\n        return x\n"
        "    else:\n        raise AssertionError\n    return x.sum(dim) * 2\n"
    ),
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME.keys())
def test_what_changes_no_result_changes_no_digest(load: Any, text: str) -> None:
    assert digest(load(text).f) == digest(load(PLAIN).f)


@pytest.mark.parametrize("text", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_may_change_a_result_changes_the_digest(load: Any, text: str) -> None:
    assert digest(load(text).f) != digest(load(PLAIN).f)


def test_closure_cells_count_by_value(load: Any) -> None:
    make = load("def make(k):\n    return lambda x: x * k\n").make
    assert digest(make(2)) == digest(make(2))
    assert len({digest(make(k)) for k in (2, 3, 2.0, "2", None, True, (2,), [2], {2}, {2: 2}, b"2", len, str)}) == 13


def test_sets_and_dicts_count_without_their_order(load: Any) -> None:
    make = load("def make(k):\n    return lambda x: x * k\n").make
    assert digest(make({"a", "b", "c"})) == digest(make({"c", "b", "a"}))
    assert digest(make({"a": 1, "b": 2})) == digest(make({"b": 2, "a": 1}))


def test_objects_count_by_type_only(load: Any) -> None:
    make = load("def make(k):\n    return lambda x: x * k\n").make
    assert digest(make(object())) == digest(make(object()))


def test_functions_in_cells_count_by_their_source(load: Any) -> None:
    text = "def make(k):\n    return lambda x: k(x)\ndef one(x):\n    return x\ndef two(x):\n    return -x\n"
    first, second = load(text), load(text)
    assert digest(first.make(first.one)) == digest(second.make(second.one))
    assert digest(first.make(first.one)) != digest(first.make(first.two))


def test_a_function_that_holds_itself_has_a_digest(load: Any) -> None:
    text = (
        "def make():\n    held = []\n    def f(n):\n        return f(n - 1) if n else held\n"
        "    held += [held, f]\n    return f\n"
    )
    assert digest(load(text).make()) == digest(load(text).make())


def test_partial_arguments_count(load: Any) -> None:
    f = load(PLAIN).f
    assert digest(functools.partial(f, dim=1)) == digest(functools.partial(f, dim=1))
    made = [functools.partial(f, dim=1), functools.partial(f, dim=2), functools.partial(f, 1), f]
    assert len(set(map(digest, made))) == 4


def test_methods_and_callable_objects_count_with_what_they_hold(load: Any) -> None:
    text = (
        "class Scale:\n"
        "    def __init__(self, by):\n        self.by = by\n"
        "    def __call__(self, x):\n        return self.apply(x)\n"
        "    def apply(self, x):\n        return x * self.by\n"
    )
    module, edited = load(text), load(text.replace("x * self", "x + self"))
    for take in (lambda scale: scale, lambda scale: scale.apply):
        assert digest(take(module.Scale(2))) == digest(take(module.Scale(2)))
        assert digest(take(module.Scale(2))) != digest(take(module.Scale(3)))
        assert digest(take(module.Scale(2))) != digest(take(edited.Scale(2)))
    assert digest(module.Scale) != digest(edited.Scale)


WRAPPED = """
import functools

def twice(fn):
    @functools.wraps(fn)
    def inner(x):
        return fn(x) * 2
    return inner

def f(x):
    return x

wrapped = twice(f)

@twice
def g(x):
    return x

def make(k):
    def scaled(fn):
        @functools.wraps(fn)
        def inner(x):
            return fn(x) * k
        return inner

    @scaled
    def h(x):
        return x
    return h
"""


def test_a_wrapper_counts_by_its_own_text(load: Any) -> None:
    module, edited = load(WRAPPED), load(WRAPPED.replace("fn(x) * 2", "fn(x) * 3"))
    assert digest(module.wrapped) != digest(module.f)
    assert digest(module.wrapped) != digest(edited.wrapped)


def test_a_decorator_counts_by_name_and_its_text_among_the_wrappers(load: Any) -> None:
    module, edited = load(WRAPPED), load(WRAPPED.replace("fn(x) * 2", "fn(x) * 3"))
    assert digest(module.g) == digest(edited.g)
    assert wrappers_digest(module.g) != wrappers_digest(edited.g)
    assert wrappers_digest(module.g) is not None
    assert wrappers_digest(module.f) is None


def test_what_a_decorator_holds_counts_where_it_can_differ(load: Any) -> None:
    make = load(WRAPPED).make
    assert digest(make(2)) == digest(make(2))
    assert digest(make(2)) != digest(make(3))


def test_a_decorator_that_leads_to_itself_has_a_digest(load: Any) -> None:
    text = (
        "import functools\ndef keep(fn):\n    @functools.wraps(fn)\n    def inner(*a):\n        return fn(*a)\n"
        "    return inner\n@keep\ndef keep(fn):\n    return fn\n"
    )
    assert digest(load(text).keep) == digest(load(text).keep)


def test_the_right_lambda_of_a_line_is_found(load: Any) -> None:
    module = load("first, second, third = lambda x: x + 1, lambda x: x + 2, lambda x, y=lambda: 5: y\n")
    alone = load("first = lambda x: x + 1\nsecond = lambda x: x + 2\nthird = lambda x, y=lambda: 5: y\n")
    for name in ("first", "second", "third"):
        assert digest(getattr(module, name)) == digest(getattr(alone, name))
    assert digest(module.third.__defaults__[0]) == digest(alone.third.__defaults__[0])
    assert len({digest(getattr(module, name)) for name in ("first", "second", "third")}) == 3


def test_lambdas_of_a_line_that_close_over_something_are_distinguished(load: Any) -> None:
    module = load("def make(a, b):\n    return (lambda x: x * a), (lambda x: x * b), (lambda x: x)\n")
    assert len(set(map(digest, module.make(1, 1)))) == 3


def test_without_its_text_a_function_counts_by_its_code() -> None:
    spaces: list[dict[str, Any]] = [{}, {}, {}]
    for space, text in zip(spaces, (PLAIN, PLAIN, PLAIN.replace("* 2", "* 3")), strict=True):
        exec(text, space)
    one, same, other = (space["f"] for space in spaces)
    assert digest(one) == digest(same) != digest(other)
    assert source_text(one) is None
    assert helpers_digest(one) is not None


def test_a_file_that_has_changed_since_is_not_taken_for_the_source(load: Any, tmp_path: Path) -> None:
    module = load(PLAIN)
    assert module.__file__ is not None
    Path(module.__file__).write_text("# nothing here any more\n" * 40)
    assert source_text(module.f) is None
    assert digest(module.f) != digest(load(PLAIN).f)


def test_a_cell_of_a_notebook_need_not_be_python() -> None:
    text = PLAIN + "%matplotlib inline\n"
    linecache.cache["<a cell>"] = (len(text), None, text.splitlines(keepends=True), "<a cell>")
    space: dict[str, Any] = {}
    exec(compile(PLAIN, "<a cell>", "exec"), space)
    assert source_text(space["f"]) is None
    assert digest(space["f"])


def test_functions_in_an_interactive_session_have_their_source(load: Any) -> None:
    linecache.cache["<input 1>"] = (len(PLAIN), None, PLAIN.splitlines(keepends=True), "<input 1>")
    space: dict[str, Any] = {}
    exec(compile(PLAIN, "<input 1>", "exec"), space)
    assert digest(space["f"]) == digest(load(PLAIN).f)


@pytest.mark.parametrize("value", [len, "text", 3, None, [].append], ids=["builtin", "text", "int", "none", "method"])
def test_what_has_no_python_source_has_no_digest(value: object) -> None:
    assert source_digest(value) is None
    assert helpers_digest(value) is None
    assert source_text(value) is None


def test_operators_of_torch_have_no_digest() -> None:
    torch = pytest.importorskip("torch")
    for operator in (torch.ops.aten.linear.default, torch.ops.aten.linear, torch.ops.higher_order.cond):
        assert source_digest(operator) is None


def test_values_of_torch_count_by_what_they_are(load: Any) -> None:
    torch = pytest.importorskip("torch")
    make = load("def make(k):\n    return lambda x: x * k\n").make
    ones = torch.ones(2, 3)
    assert digest(make(ones)) == digest(make(torch.ones(2, 3)))
    assert digest(make(ones.t())) == digest(make(torch.ones(3, 2)))
    assert digest(make(torch.nn.Parameter(ones))) == digest(make(ones))
    different = [
        ones,
        torch.zeros(2, 3),
        torch.ones(3, 2),
        ones.to(torch.bfloat16),
        ones.to(torch.float64),
        torch.tensor(1.0),
        torch.empty(0),
        torch.ones(2, 3, device="meta"),
        ones.to_sparse(),
        torch.view_as_complex(torch.ones(3, 2)).conj(),
        torch.float32,
        torch.float16,
        torch.device("cpu"),
        torch.strided,
        torch.channels_last,
        torch.ops.aten.add.Tensor,
        torch.ops.aten.add.Scalar,
        torch.ops.aten.add,
        torch.ops.higher_order.cond,
        torch._C.DispatchKey.CPU,
        torch._C.DispatchKey.CUDA,
    ]
    assert len({digest(make(value)) for value in different}) == len(different)


HELPED = """
import math
import json.decoder

def far():
    return 4

def near(x):
    return far() + x

def f(x):
    unused: near = 1
    near = 3
    return math.sqrt(helper(x))

def helper(x):
    return near(x) * x

def alone(x):
    return x
"""


def test_helpers_count_where_they_are_called(load: Any) -> None:
    module = load(HELPED)
    for old, new in (("return near(x) * x", "return near(x) + x"), ("return 4", "return 5")):
        edited = load(HELPED.replace(old, new))
        assert digest(edited.f) == digest(module.f)
        assert helpers_digest(edited.f) != helpers_digest(load(HELPED).f)
        assert helpers_digest(edited.alone) == helpers_digest(module.alone)


OWN = [
    "def f(near): return near(1)",
    "def f(*near, **x): return near",
    "def f(x):\n    near = x\n    return near",
    "def f(x): return [near for near in x]",
    "def f(x): return {near: 1 for y in x for near in y if near}",
    "def f(x): return [(near := y) for y in x], near",
    "def f(x): return lambda near: near(x)",
    "def f(x):\n    def near(y): return y\n    return near",
    "def f(x):\n    def inner(y): return near\n    near = 2\n    return inner",
    "def f(x):\n    import os as near\n    return near.sep",
    "def f(x):\n    try: pass\n    except OSError as near: print(near)",
    "def f(x):\n    for near, y in x: print(near)",
    "def f(x):\n    match x:\n        case [1, *near]: return near",
]
GLOBAL = [
    "def f(x): return near(x)",
    "def f(x): return [near for y in x]",
    "def f(x): return [near for near in near(x)]",
    "def f(x):\n    def inner(near): return near\n    return inner(near)",
    "def f(x): return lambda near=near: near",
    "def f(x):\n    global near\n    near = near\n    return near",
    "def f(x):\n    def inner(y): return near(y)\n    return inner",
    "def f(x):\n    class Inner:\n        value = near\n    return Inner",
]


@pytest.mark.parametrize(
    ("text", "counts"), [*((text, False) for text in OWN), *((text, True) for text in GLOBAL)], ids=str
)
def test_a_variable_of_a_function_does_not_count_as_a_helper_of_its_name(text: str, counts: bool, load: Any) -> None:
    one, other = (load(f"def near(x):\n    return {value}\n\n{text}\n").f for value in (4, 5))
    assert (helpers_digest(one) != helpers_digest(other)) == counts


def test_helpers_count_as_far_as_asked(load: Any) -> None:
    module, edited = (load(text).f for text in (HELPED, HELPED.replace("return 4", "return 5")))
    assert helpers_digest(module, depth=2) == helpers_digest(edited, depth=2)
    assert helpers_digest(module, depth=3) != helpers_digest(edited, depth=3)


def test_helpers_of_other_packages_do_not_count(load: Any) -> None:
    other = load("def helper(x):\n    return 2\n")
    module, again = load("def f(x):\n    return helper(x)\n"), load("def f(x):\n    return helper(x)\n")
    module.helper = other.helper
    assert helpers_digest(module.f) == helpers_digest(again.f)


def test_the_text_is_for_people(load: Any) -> None:
    module = load("def make():\n" + "    " + PLAIN.replace("\n", "\n    ") + "\n    return f\n")
    assert source_text(module.make()) == PLAIN
    assert source_text(functools.partial(module.make(), dim=2)) == PLAIN
    wrapped = load(WRAPPED)
    assert source_text(wrapped.g) == "@twice\ndef g(x):\n    return x\n"
    assert "fn(x) * 2" in str(source_text(wrapped.wrapped))


def test_the_text_is_cut(load: Any) -> None:
    module = load("def f():\n    '''" + "é" * MAX_SOURCE_BYTES + "'''\n")
    text = source_text(module.f)
    assert text is not None
    assert MAX_SOURCE_BYTES - 1 <= len(text.encode()) <= MAX_SOURCE_BYTES


def _program(path: Path) -> str:
    """Return a program that prints the digest of f in that file, and needs nothing of ours installed."""
    return (
        f"{fingerprint_program()}\nimport runpy, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('sample', {str(path)!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "print(source_digest(module.f), helpers_digest(module.f), wrappers_digest(module.f))\n"
    )


def test_digests_are_those_that_shipped_catalogs_have(load: Any) -> None:
    # Another value here means that all of decomp_ledger/catalogs must be captured again.
    assert digest(load(EVERY_SYNTAX).f) == EVERY_SYNTAX_DIGEST


@pytest.mark.parametrize("seed", ["0", "1", "77"])
def test_digests_do_not_depend_on_the_process(load: Any, seed: str) -> None:
    module = load(EVERY_SYNTAX)
    expected = [digest(module.f), helpers_digest(module.f), wrappers_digest(module.f)]
    done = subprocess.run(
        [sys.executable, "-I", "-"] if seed == "0" else [sys.executable, "-"],
        input=_program(Path(str(module.__file__))),
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": seed},
        check=True,
    )
    assert done.stdout.split() == expected


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_digests_do_not_depend_on_the_version_of_python(load: Any, version: str) -> None:
    interpreter = shutil.which(f"python{version}")
    if interpreter is None or subprocess.run([interpreter, "--version"], capture_output=True).returncode:
        pytest.skip(f"Python {version} is not installed")
    module = load(EVERY_SYNTAX)
    done = subprocess.run(
        [interpreter, "-"], input=_program(Path(str(module.__file__))), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [digest(module.f), helpers_digest(module.f), wrappers_digest(module.f)]
