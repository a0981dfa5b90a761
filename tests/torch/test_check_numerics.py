"""Decompositions run on real values: each planted fault is found, and the first cause is named."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from click.testing import CliRunner
from torch.library import Library
from wrong_values import WRONG

import decomp_ledger as dl
from decomp_ledger import Ledger, LedgerError, OpNumerics, SampleError, UnusableValue, catalogs
from decomp_ledger.cli import cli
from decomp_ledger.pytorch.dispatcher import resolve
from decomp_ledger.pytorch.numerics import check_op

aten = torch.ops.aten


def silu(x: Any) -> Any:
    return x * torch.sigmoid(x)


def checked(op: str, fn: Any, *calls: str) -> OpNumerics:
    return check_op(op, fn, "fn", calls or catalogs.samples()[op])


# One op: each fault is found


def writing(x: Any) -> Any:
    result = silu(x)
    x.zero_()
    return result


# What is wrong with a decomposition of silu, by kind.
FAULTS: dict[str, Callable[[Any], Any]] = {
    "values": lambda x: silu(x) * (1 + 1e-4),
    "dtype": lambda x: silu(x).to(torch.float64),
    "shape": lambda x: silu(x)[None],
    "strides": lambda x: silu(x).mT.contiguous().mT,
    "inputs": writing,
    "results": lambda x: (silu(x), x),
    "raises": lambda x: torch.mm(x, "no"),
    "layout": lambda x: silu(x).to_sparse(),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_is_found_and_named(kind: str) -> None:
    found = checked("aten::silu", FAULTS[kind], "(f32[2, 3])")
    assert (found.verdict, found.kinds) == ("differs", (kind,))
    assert [run.values for run in found.differing] == ["filled", "signed"]


@pytest.mark.parametrize(
    ("op", "fn", "call"),
    [
        ("aten::alias", lambda x: x.clone(), "(f32[2, 3])"),
        ("aten::permute", lambda x, dims: x.permute(dims).clone(), "(f32[2, 3], [1, 0])"),
        ("aten::clone", lambda x, memory_format=None: x, "(f32[2, 3])"),
    ],
)
def test_memory_is_shared_exactly_where_the_kernel_shares_it(op: str, fn: Any, call: str) -> None:
    assert "aliasing" in checked(op, fn, call).kinds


@pytest.mark.parametrize(
    "op",
    ["aten::silu", "aten::leaky_relu_", "aten::masked_fill.Scalar", "aten::hardswish",
     "aten::native_dropout_backward", "aten::unsafe_split.Tensor", "aten::embedding_dense_backward"],
)  # fmt: skip
def test_the_decomposition_of_torch_is_the_same(op: str) -> None:
    fn = torch.export.default_decompositions()[resolve(op)]
    found = checked(op, fn)
    assert (found.verdict, found.differing) == ("same", ())
    assert found == checked(op, fn)


def test_a_fault_that_only_negative_numbers_show_is_found() -> None:
    found = checked("aten::relu", lambda x: x.clone(), "(f32[2, 3])")
    assert [(run.values, bool(run.differences)) for run in found.runs] == [("filled", False), ("signed", True)]


def test_an_op_that_changes_its_input_is_compared_by_what_it_leaves() -> None:
    def right(x: Any) -> Any:
        return x.copy_(torch.clamp_min(x, 0))

    assert checked("aten::relu_", right, "(f32[2, 3])").verdict == "same"
    found = checked("aten::relu_", lambda x: torch.clamp_min(x, 0), "(f32[2, 3])")
    assert set(found.kinds) == {"aliasing", "inputs"}


@pytest.mark.parametrize(("call", "count"), [("(f32[3], f32[4])", 1), ("(f32[2, 3], i64([9]))", 1)])
def test_what_the_kernel_refuses_the_decomposition_must_refuse_too(call: str, count: int) -> None:
    def accepts(x: Any, y: Any) -> Any:
        return torch.zeros(1)

    def refuses(x: Any, y: Any) -> Any:
        raise ValueError("no")

    op = "aten::mul.Tensor" if "i64" not in call else "aten::embedding"
    assert checked(op, refuses, call).runs[0].outcome == "refused"
    found = checked(op, accepts, call)
    assert (found.verdict, found.kinds, len(found.differing)) == ("differs", ("accepts",), count)
    assert "the kernel raises" in found.differing[0].differences[0].text


def test_a_kernel_that_refuses_only_some_values_is_compared_on_the_others() -> None:
    def loss(x: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
        return -(target * x.log() + (1 - target) * (1 - x).log()).mean()

    found = checked("aten::binary_cross_entropy", loss, "(f32[3], f32[3])")  # of numbers between 0 and 1
    assert ([run.values for run in found.runs], found.verdict) == (["filled"], "same")


def test_random_results_are_compared_by_shape_and_dtype_alone() -> None:
    assert checked("aten::bernoulli", torch.zeros_like, "(f32[2, 3])").verdict == "same shapes"
    assert checked("aten::bernoulli", lambda x: x.to(torch.int64), "(f32[2, 3])").kinds == ("dtype",)
    assert checked("aten::empty_like", torch.ones_like, "(f32[2, 3])").verdict == "same shapes"


def test_random_numbers_of_the_process_go_on_as_if_nothing_ran() -> None:
    before = torch.get_rng_state()
    checked("aten::bernoulli", torch.bernoulli, "(f32[2, 3])")
    assert torch.equal(before, torch.get_rng_state())


def test_a_half_result_as_near_to_float64_as_the_kernels_does_not_differ() -> None:
    def exact(x: Any, dim: Any, keepdim: bool = False, dtype: Any = None) -> Any:
        return x.double().sum(dim, keepdim).to(x.dtype)

    def rough(x: Any, dim: Any, keepdim: bool = False, dtype: Any = None) -> Any:
        total = torch.zeros_like(x[0])
        for row in x:
            total = total + row
        return total * 1.02

    call = "(bf16[300, 3], [0])"
    assert checked("aten::sum.dim_IntList", exact, call).verdict == "same"
    assert checked("aten::sum.dim_IntList", rough, call).kinds == ("values",)


def test_a_decomposition_that_leaves_the_op_is_not_judged() -> None:
    found = checked("aten::silu", lambda x: NotImplemented, "(f32[3])")
    assert ({run.outcome for run in found.runs}, found.verdict) == ({"kept"}, "unknown")


def test_a_kernel_without_code_for_a_dtype_is_not_judged() -> None:
    if not hasattr(torch.ops.aten.baddbmm, "dtype"):
        pytest.skip("this torch has no baddbmm.dtype")
    found = checked("aten::baddbmm.dtype", lambda *args: args[0], *catalogs.samples()["aten::baddbmm.dtype"])
    assert ({run.outcome for run in found.runs}, found.verdict) == ({"no kernel"}, "unknown")


def test_a_kernel_that_disagrees_with_itself_is_not_taken_for_the_truth(library: Library) -> None:
    numbers = iter(range(1, 1000))
    library.define("odd(Tensor x) -> Tensor")
    library.impl("odd", lambda x: x + next(numbers), "CPU")
    name = f"{library.ns}::odd"
    assert checked(name, torch.clone, "(f32[3])").verdict == "same shapes"
    assert checked(name, lambda x: x[None].clone(), "(f32[3])").kinds == ("shape",)


# Tables


@pytest.fixture
def overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of overrides that no import has loaded yet."""
    name = f"overrides_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        "import torch\n\ndef good(x):\n    return x * torch.sigmoid(x)\n\n"
        "def bad(x, approximate='none'):\n    return x * torch.sigmoid(1.702 * x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def recorded(ledger: Ledger, overrides: str) -> str:
    """A ledger whose table has a right and a wrong override, of a module that is not imported."""
    module = __import__(overrides)
    table = ledger.table("edge")
    table[aten.silu.default] = module.good
    table[aten.gelu.default] = module.bad
    table.pop(aten.linear.default)
    table.preserve("mylib::kept")
    return str(ledger.path)


def verdicts(found: dl.NumericsCheck) -> dict[str, str]:
    return {each.op: each.verdict for each in found.ops}


def test_a_table_is_checked_from_its_object_its_ledger_and_its_spec(ledger: Ledger, recorded: str) -> None:
    head = ledger.event_store.head()
    found = ledger.check_numerics("edge")
    assert verdicts(found) == {"aten::gelu": "differs", "aten::silu": "same"}
    assert (
        found
        == ledger.table("edge").check_numerics()
        == dl.check_numerics("edge@3", ledger=ledger).__class__("edge@5", str(torch.__version__), found.ops)
    )
    assert verdicts(ledger.check_numerics("edge@2")) == {"aten::silu": "same"}
    assert ledger.event_store.head() == head  # nothing is recorded


def test_a_custom_op_is_checked_on_given_samples(ledger: Ledger, library: Library, tmp_path: Path) -> None:
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    name = f"{library.ns}::twice"
    table = ledger.table("edge")
    table[name] = lambda x: x + x
    assert verdicts(table.check_numerics()) == {name: "not sampled"}
    (tmp_path / "samples.json").write_text(json.dumps({"format": 1, "samples": {name: ["(f32[3])", "(i64[3])"]}}))
    for samples in ({name: ["(f32[3])", "(i64[3])"]}, {name: "(f32[3])"}, tmp_path / "samples.json"):
        assert verdicts(ledger.check_numerics("edge", samples=samples)) == {name: "same"}  # type: ignore[arg-type]
    table[name] = lambda x: x + x + 1
    assert verdicts(table.check_numerics(samples={name: ["(i64[3])"]})) == {name: "differs"}
    with pytest.raises(SampleError):
        table.check_numerics(samples={name: ["(open('x'))"]})


def test_an_op_that_is_not_loaded_is_not_run(ledger: Ledger) -> None:
    table = ledger.table("edge")
    table["mylib::later"] = silu
    assert verdicts(table.check_numerics()) == {"mylib::later": "not loaded"}


def test_a_default_that_is_the_kernel_itself_is_not_compared_with_itself(ledger: Ledger) -> None:
    table = ledger.table("edge", base="empty")
    table[aten.linear.default] = torch.export.default_decompositions()[aten.linear.default]
    assert verdicts(table.check_numerics()) == {"aten::linear": "own kernel"}


def test_torchs_defaults_are_run_and_mostly_the_same() -> None:
    steps: list[tuple[int, int]] = []
    found = dl.check_numerics(defaults=True, progress=lambda *step: steps.append(step))
    assert steps[-1] == (len(found.ops), len(found.ops)) and len(found.ops) > 900
    assert found.counts["same"] > 350
    assert len(found.differing) < 0.1 * found.counts["same"]
    assert {"aten::silu", "aten::native_dropout_backward", "aten::hardswish"} <= {each.op for each in found.of("same")}


@pytest.mark.parametrize("arguments", [{"spec": "edge", "defaults": True}, {"spec": "torch:2.13.0"}])
def test_what_has_no_overrides_is_refused(ledger: Ledger, arguments: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="defaults"):
        ledger.check_numerics(**arguments)


def calls(ledger: Ledger) -> Iterator[Callable[[], object]]:
    """Give calls that each have one wrong argument."""
    for value in WRONG:
        for name in ("spec", "defaults", "samples", "trust"):
            if not (name == "trust" and value in ((), [], {})) and not (name == "defaults" and value is True):
                yield lambda name=name, value=value: ledger.check_numerics(**{name: value})
        yield lambda value=value: ledger.check_numerics("empty", samples={value: ["(1)"]} if hash_of(value) else {3: 4})
        yield lambda value=value: ledger.check_numerics("empty", samples={"aten::mm": value})
        yield lambda value=value: ledger.check_program(value, "empty")
        yield lambda value=value: ledger.check_program(models.exported("mutating"), "empty", inputs=value)


def hash_of(value: object) -> int | None:
    try:
        return hash(value)
    except TypeError:
        return None


def test_a_wrong_argument_gives_one_clear_error(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger.create_table("empty")
    refused = 0
    for call in calls(ledger):
        try:
            call()
        except LedgerError as error:
            refused += 1
            text = str(error)
            assert text and "\n" not in text and len(text) < 1000, text
            text.encode()  # it can be printed
    assert refused > 100


# Programs

PLANTED: dict[str, tuple[Any, Callable[..., Any], tuple[str, ...]]] = {
    "gelu": (
        aten.gelu.default,
        lambda x, approximate="none": x * torch.sigmoid(1.702 * x),
        ("dynamic",),
    ),
    # It is called by the decomposition of lstm.
    "linear": (
        aten.linear.default,
        lambda x, w, b=None: torch.matmul(x, w.t()) * 1.01 + (0 if b is None else b),
        ("lstm",),
    ),
    "addmm": (aten.addmm.default, lambda a, b, c, beta=1, alpha=1: torch.mm(b, c) + 1.01 * a, ("dynamic",)),
    "silu": (aten.silu.default, lambda x: x * torch.sigmoid(1.1 * x), ("branches", "upsampled")),
}


@pytest.mark.parametrize(("name", "model"), [(name, model) for name in PLANTED for model in PLANTED[name][2]])
def test_a_planted_wrong_override_is_named(ledger: Ledger, name: str, model: str) -> None:
    table = ledger.table("edge")
    op, fn, _ = PLANTED[name]
    table[op] = fn
    other_branch = "(f32([[-1.0, -2.0, 0.5], [0.1, 0.2, -3.0]]))" if model == "branches" else None
    found = ledger.check_program(models.exported(model), "edge", inputs=other_branch)
    assert (found.passed, found.culprit) == (False, op.name()), found
    assert found.culprit in found.fired and found.error is not None and found.error > 1e-5


@pytest.mark.parametrize("model", ["convolution", "gru", "upsampled", "mutating"])
def test_a_right_table_gives_the_same_results(ledger: Ledger, model: str) -> None:
    table = ledger.table("edge")
    table[aten.silu.default] = silu
    program = models.exported(model)
    before = {name: value.clone() for name, value in program.state_dict.items()}
    for found in (ledger.check_program(program, "edge"), dl.check_program(program, defaults=True)):
        assert (found.passed, found.culprit, found.differences) == (True, None, ())
    assert all(torch.equal(program.state_dict[name], value) for name, value in before.items())


class Chain(torch.nn.Module):
    """Three ops, one after another."""

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.hardswish(torch.nn.functional.gelu(torch.nn.functional.silu(x)))


def chain() -> Any:
    return torch.export.export(Chain(), (torch.tensor([[-1.0, 0.5, 2.0]]),))


ORDER = (aten.silu.default, aten.gelu.default, aten.hardswish.default)


@pytest.mark.parametrize("wrong", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_of_several_wrong_overrides_the_first_is_named(ledger: Ledger, wrong: tuple[int, ...]) -> None:
    table = ledger.table("edge")
    right = [torch.nn.functional.silu, torch.nn.functional.gelu, torch.nn.functional.hardswish]
    for number in wrong:
        table[ORDER[number]] = lambda x, approximate="none", fn=right[number]: fn(x) * 1.01
    assert ledger.check_program(chain(), "edge").culprit == ORDER[wrong[0]].name()


def test_an_override_that_raises_is_the_cause(ledger: Ledger) -> None:
    def broken(x: Any, approximate: str = "none") -> Any:
        raise KeyError("weights")

    table = ledger.table("edge")
    table[aten.gelu.default] = broken
    found = ledger.check_program(chain(), "edge")
    assert (found.culprit, found.passed, found.differences[0].kind) == ("aten::gelu", False, "raises")
    assert "weights" in found.raised


def test_a_cause_that_cannot_be_found_is_not_guessed(ledger: Ledger, library: Library) -> None:
    library.define("inner(Tensor x) -> Tensor")  # it has no kernel, so it cannot stay in a graph
    inner = getattr(torch.ops, library.ns).inner.default
    table = ledger.table("edge")
    table[aten.silu.default] = inner
    table[inner] = lambda x: x * 0.5
    found = ledger.check_program(chain(), "edge")
    assert (found.passed, found.culprit) == (False, None)
    assert found.reason.startswith("with only the first 1 of the decompositions that fired, it raises ")


def test_a_difference_that_no_decomposition_makes_is_not_blamed_on_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = torch.export.ExportedProgram.run_decompositions
    other = torch.export.export(torch.nn.Hardswish(), (torch.ones(1, 3),))
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", lambda _, table: lower(other, table))
    found = dl.check_program(chain(), defaults=True)
    assert (found.passed, found.culprit) == (False, None)
    assert found.reason.startswith("they differ also without the decompositions that fired: result 0: values differ")
    ledger.create_table("empty", base="empty")
    assert ledger.check_program(chain(), "empty").reason == "no decomposition fired"


def test_what_a_program_leaves_in_its_buffers_counts(ledger: Ledger) -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x: Any) -> Any:
            self.seen.add_(torch.nn.functional.silu(x))
            return x + 1

    program = torch.export.export(Counting(), (torch.ones(3),))
    table = ledger.table("edge")
    table[aten.silu.default] = lambda x: x * 0.5
    found = ledger.check_program(program, "edge")
    assert (found.passed, found.culprit) == (False, "aten::silu")
    assert {each.kind for each in found.differences} == {"inputs"}


def test_a_random_program_is_compared_by_dtypes_and_shapes(ledger: Ledger) -> None:
    program = torch.export.export(torch.nn.Dropout(0.5).train(), (torch.ones(4, 5),))
    ledger.table("edge")
    found = ledger.check_program(program, "edge")
    assert (found.random, found.passed, found.error) == (True, True, None)


def test_a_program_is_run_on_given_inputs(ledger: Ledger) -> None:
    class Positive(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.silu(x)

    program = torch.export.export(Positive(), (torch.zeros(2, 3),))
    table = ledger.table("edge")
    table[aten.silu.default] = torch.zeros_like
    assert ledger.check_program(program, "edge").passed
    assert not ledger.check_program(program, "edge", inputs="(f32[2, 3])").passed
    assert not ledger.check_program(program, "edge", inputs=[torch.ones(2, 3)]).passed
    with pytest.raises(LedgerError, match=r"does not run on its inputs.*give other inputs"):
        ledger.check_program(program, "edge", inputs="(f32[2, 3], 5)")
    program._example_inputs = None
    with pytest.raises(LedgerError, match="no example inputs; give inputs"):
        ledger.check_program(program, "edge")
    with pytest.raises(UnusableValue, match="not an ExportedProgram"):
        ledger.check_program(torch.nn.Linear(2, 2), "edge")


# The command


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def test_the_command_imports_only_what_is_trusted(ledger: Ledger, recorded: str, overrides: str) -> None:
    ledger.close()
    del sys.modules[overrides]
    done = invoke("--ledger", recorded, "check", "numerics")
    assert (done.return_value, overrides in sys.modules) == (2, False)
    assert f"aten::gelu: not run: its decomposition is {overrides}.bad" in done.output
    assert isinstance(
        invoke("--ledger", recorded, "check", "numerics", "--program", "none", "edge").exception, Exception
    )
    done = invoke("--ledger", recorded, "check", "numerics", "edge", "--trust", overrides)
    assert done.return_value == 1
    assert f"aten::gelu: {overrides}.bad differs on 8 of 8 runs: values by up to 0.03" in done.output
    assert "same on all sample calls: 1 (aten::silu" in done.output
    done = invoke("--ledger", recorded, "check", "numerics", "edge@2", "--trust", overrides, "--json")
    assert (done.return_value, json.loads(done.output)["passed"]) == (0, True)


def test_the_command_names_the_first_wrong_decomposition_of_a_program(
    ledger: Ledger, recorded: str, overrides: str, tmp_path: Path
) -> None:
    ledger.close()
    path = str(tmp_path / "raw.pt2")
    torch.export.save(chain(), path)
    command = ("--ledger", recorded, "check", "numerics", "--program", path, "--trust", overrides)
    done = invoke(*command, "edge")
    assert done.return_value == 1
    assert done.output.endswith("the first decomposition that makes them differ: aten::gelu\n")
    assert json.loads(invoke(*command, "edge", "--json").output)["culprit"] == "aten::gelu"
    done = invoke(*command, "edge@2")
    assert (done.return_value, "the same results before and after edge@2" in done.output) == (0, True)
    assert invoke(*command, "--defaults", "--inputs", "(f32[1, 3])").return_value == 0


@pytest.mark.parametrize(
    "arguments", [("--inputs", "(1)"), ("--samples", "s.json", "--program", "s.json"), ("edge", "--defaults")]
)
def test_options_that_exclude_each_other_are_wrong_use(
    recorded: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.json").write_text("{}")
    done = invoke("--ledger", recorded, "check", "numerics", *arguments)
    assert done.exception is not None and "give" in str(getattr(done.exception, "message", done.exception))


def test_what_is_not_a_program_is_one_line_and_torch_logs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.pt2"
    text.write_text("text", encoding="utf-8")
    for ask in (lambda: dl.check_program(text, defaults=True), lambda: dl.reproduce_export(text, program=text)):
        with pytest.raises(LedgerError, match=r"text\.pt2: (it is )?not a \.pt2 file.*; name ") as raised:
            ask()
        assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""
