"""One op through all releases of torch, from the shipped catalogs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from decomp_ledger import InvalidName, Ledger, available_catalogs, catalog, explain_releases
from decomp_ledger.cli import cli


@pytest.mark.parametrize(
    ("op", "steps"),
    [
        ("aten::linear", ("in the default table in all releases from 2.5.1 to 2.15.0",)),
        ("aten::elu", ("in the default table until 2.7.1", "kept in graphs since 2.8.0")),
        ("aten::qr", ("in the default table until 2.13.0", "not in torch since 2.14.1")),
        ("aten::chunk", ("always decomposed in all releases from 2.5.1 to 2.15.0",)),
        ("aten::silu_", ("functionalized in all releases from 2.5.1 to 2.15.0",)),
    ],
)
def test_the_steps_of_an_op(op: str, steps: tuple[str, ...]) -> None:
    (found,) = explain_releases(op)
    assert [each.torch for each in found.releases] == list(available_catalogs())
    for each in found.releases:
        entry = catalog(f"torch:{each.torch}").ops.get(op)
        assert (each.treatment is None) == (entry is None)
        assert entry is None or each.origin == entry.origin
    assert found.steps == steps


def test_a_behaviour_is_compared_with_the_release_before() -> None:
    behaviours = {each.torch: each.behaviour for each in explain_releases("aten.linear.default")[0].releases}
    assert behaviours["2.5.1"] == ""
    assert behaviours["2.13.0"] == "behaves the same on all samples"
    assert {each.behaviour for each in explain_releases("aten::mm")[0].releases} == {""}


@pytest.mark.parametrize(("op", "hint"), [("aten::lineer", "did you mean aten::linear"), ("lib::f", "torch itself")])
def test_an_op_that_no_release_has_is_refused(op: str, hint: str) -> None:
    with pytest.raises(InvalidName, match=hint):
        explain_releases(op)


def test_the_command_needs_no_ledger() -> None:
    shown = CliRunner().invoke(cli, ["--ledger", "missing.db", "explain", "aten::elu", "--all-torch"])
    assert shown.exit_code == 0
    assert "in the default table until 2.7.1; kept in graphs since 2.8.0" in shown.output
    data = json.loads(CliRunner().invoke(cli, ["explain", "aten::elu", "--all-torch", "--json"]).output)
    assert data == [each.to_json() for each in explain_releases("aten::elu")]
    refused = CliRunner().invoke(cli, ["explain", "aten::elu", "edge", "--all-torch"])
    assert refused.exit_code == 2 and "no STATE" in refused.output


def test_a_ledger_answers_too(ledger: Ledger) -> None:
    assert ledger.explain_releases("aten::elu") == explain_releases("aten::elu")


def test_a_family_means_its_overloads() -> None:
    assert [each.op for each in explain_releases("elu")] == ["aten::elu", "aten::elu.out"]
