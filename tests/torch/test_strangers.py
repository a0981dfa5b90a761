"""A reference in a stranger's file is looked up without running code of the modules that it names."""

from __future__ import annotations

import pytest
import torch
from torch._decomp import decomposition_table
from torch._decomp.decompositions import silu_backward
from traps import Sprung, references, trapped_modules

import decomp_ledger.ledger
from decomp_ledger import DecompTable, Ledger, LedgerError, NotImportable, UntrustedModule
from decomp_ledger.model.events import OVERRIDE, Set
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.pytorch import decompositions
from decomp_ledger.pytorch.dispatcher import dispatcher
from decomp_ledger.pytorch.fingerprint import source_digest

MM = torch.ops.aten.mm.default


def load(module: str, qualname: str, digest: str | None = "0" * 64, build: str | None = None) -> object:
    """Load what a reference names, without trust."""
    wanted = Decomposition("import", module, qualname, digest, build)
    return decompositions.load_function("aten::mm", wanted, dispatcher.full(), (), ())


def ran_by_references(depth: int) -> tuple[int, list[str]]:
    """Load every reference into the trapped modules; return how many were tried, and what ran."""
    wrong: list[str] = []
    defaults = dispatcher.full()
    with trapped_modules() as (sprung, _, modules):
        tried = list(references(modules, depth))
        for module, qualname in tried:
            wanted = Decomposition("import", module, qualname, "0" * 64)
            try:
                decompositions.load_function("aten::mm", wanted, defaults, (), ())
                wrong.append(f"{module}.{qualname} was used")
            except LedgerError:
                pass
            if sprung:
                wrong.append(f"{module}.{qualname} ran {sprung[0]}")
                sprung.clear()
    return len(tried), wrong


def test_no_reference_runs_code_of_a_module() -> None:
    tried, wrong = ran_by_references(depth=2)
    assert wrong == [] and tried > 7_000


@pytest.mark.parametrize("make", ["source_digest", "helpers_digest", "wrappers_digest", "source_text"])
def test_no_digest_runs_code_of_an_object(make: str) -> None:
    with trapped_modules() as (sprung, objects, _):
        for name, item in objects.items():
            getattr(source_digest, make)(item)
            assert sprung == Sprung(), name


def test_a_function_with_the_recorded_source_is_found_among_traps() -> None:
    with trapped_modules() as (sprung, _, _):
        fn = decompositions._look_up("trapped", "in_keyword3")
        digest = source_digest.source_digest(fn)
        assert load("trapped", "in_keyword3", digest) is fn and sprung == []
        assert load("trapped.lazy", "in_keyword3", digest) is not fn and sprung == []


OURS = [
    (decomp_ledger.ledger, "Ledger.restore"),
    (decomp_ledger.ledger, "Ledger.__init__"),
    (decompositions, "load_function"),
    (source_digest, "source_digest"),
]


@pytest.mark.parametrize(("module", "qualname"), OURS, ids=str)
@pytest.mark.parametrize("trust", [(), ("decomp_ledger",)], ids=str)
def test_this_package_has_no_decomposition(module: object, qualname: str, trust: tuple[str, ...]) -> None:
    name = module.__name__
    fn = vars(module).get(qualname) or getattr(module.Ledger, qualname.partition(".")[2], None)
    wanted = Decomposition("import", name, qualname, source_digest.source_digest(fn))
    with pytest.raises(UntrustedModule, match="this package has none; preserve or reset aten::mm"):
        decompositions.load_function("aten::mm", wanted, dispatcher.full(), (), trust)


NAMED = [fn for fn in decomposition_table.values() if hasattr(fn, "__qualname__")]
REGISTERED = sorted({(fn.__module__, fn.__qualname__) for fn in NAMED})


def test_every_function_of_torchs_registry_is_used_with_its_digest_only(ledger: Ledger) -> None:
    found = 0
    for module, qualname in REGISTERED:
        fn = decompositions._look_up(module, qualname)
        if fn is None or not f"{module}.".startswith(decompositions.internals.DECOMPOSITION_MODULES):
            continue
        found += 1
        assert load(module, qualname, source_digest.source_digest(fn)) is fn
        assert load(module, qualname, source_digest.source_digest(fn), build="another") is fn
        with pytest.raises(LedgerError, match="is not what was recorded"):
            load(module, qualname, "0" * 64, build=torch.version.git_version)
        with pytest.raises(NotImportable, match="recorded without a digest"):
            load(module, qualname, None, build=torch.version.git_version)
    assert found > 300


@pytest.mark.parametrize("module", ["torch._refs_of_eve", "torch._prims_common", "torch._decomposition", "torch"])
def test_a_module_with_a_similar_name_does_not_hold_decompositions(module: str) -> None:
    with trapped_modules() as (sprung, _, _), pytest.raises(UntrustedModule, match="does not hold decompositions"):
        load(module, "in_keyword3")
    assert sprung == []


def test_a_function_of_torch_is_the_same_in_another_build_if_its_source_is(ledger: Ledger) -> None:
    table: DecompTable = ledger.table("edge")
    table[MM] = silu_backward
    decomposition = table.state.rules["aten::mm"].decomposition
    assert decomposition is not None and decomposition.build is None and decomposition.digest is not None
    with Ledger(ledger.path) as other:
        log = other.table_log("edge")
        log.change(Set, lambda _: [("aten::bmm", OVERRIDE, decomposition)])
        assert other.table("edge")[torch.ops.aten.bmm.default] is table[MM]
