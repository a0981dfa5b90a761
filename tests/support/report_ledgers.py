"""Ledgers to make pages of: one as a project has it, and one of a stranger with hostile text in every field."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import attrs
from strategies import catalog_of, new_table

from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import OVERRIDE, CallSite, Emission, Event, Exported, Frame, RootModule, Saved, Set
from decomp_ledger.model.rules import Decomposition

# Texts that would run, load or show something else if a page or a pull request took them for markup.
HOSTILE = (
    "<script>window.ran = 1; alert(1)</script>",
    "\"'><img src=x onerror=window.ran=1><svg onload=window.ran=1>",
    "</style></title></pre></code><h1>evil</h1><style>*{display:none}</style>",
    "--><!--]]><![CDATA[<base href=http://evil.example/>",
    "<meta http-equiv=refresh content=0;url=http://evil.example/><iframe src=http://evil.example/></iframe>",
    "javascript:window.ran=1",
    "{{ 7 * 7 }} {% include '/etc/passwd' %} {# x #} ${7*7} #{7*7}",
    "[link](http://evil.example/) ![image](http://evil.example/x.png) <http://evil.example/> https://evil.example/",
    "`code` ``more`` **bold** _it_ ~~gone~~ | cell | \\| \\` @team #1 GH-1 &lt;b&gt; &#60;b&#62;",
    "</details></summary><details open><summary>evil",
    "```\n# evil\n```\n\n# evil\n\n<b>x</b>\n|a|b|\n|---|---|\n|1|2|\n",
    "a\x1b[31mred\x1b]0;title\x07\x9b2J\0 \x85\u2028\u2029",
    "\u202eevil\u202c \u2066x\u2069 \u200b\ufeff\u00ad",
    "   ",
    "x" * 5000,
)


def sample_ledger(path: Path) -> tuple[int, int]:
    """Make a ledger with one table, whose first export succeeds and whose second fails; return their numbers."""
    catalog = catalog_of("aten::gelu", "aten::linear", "aten::mm", "aten::silu", "aten::view", torch="2.9.1")
    with Ledger(path, actor="Ada <ada@example.org>") as ledger:
        table = new_table(ledger)
        table.preserve(["aten::linear", "mylib::late"], reason="XNNPACK has a fused kernel")
        for body in ("return x * torch.sigmoid(1.702 * x)", "return x * torch.sigmoid(1.7 * x)"):
            overridden(table, f'def gelu(x, approximate="none"):\n    {body}\n')
        table.tag("release-1.0")
        snapshot = table.materialize(catalog)
        good = exported(table, catalog, snapshot.digest)
        bad = exported(
            table, catalog, snapshot.digest,
            ("RuntimeError", "aten.gelu: expected float\n  while lowering block 3"), ("aten::silu", "aten::gelu"),
        )  # fmt: skip
        return good.seq, bad.seq


def overridden(table: TableLog, source: str) -> None:
    digest = hashlib.sha256(source.encode()).hexdigest()
    given = Decomposition("import", "mypkg.lower", "gelu", digest=digest, source=source)
    table.change(Set, lambda _: [("aten::gelu", OVERRIDE, given)], reason="The backend has a table for sigmoid")


def exported(
    table: TableLog,
    catalog: Catalog,
    snapshot: str,
    error: tuple[str, str] | None = None,
    raised: tuple[str, ...] | None = None,
) -> Event:
    before = {"aten::linear": 4, "aten::gelu": 2, "aten::silu": 1, "aten::view": 3}
    after = {"aten::linear": 4, "aten::mul.Tensor": 5, "aten::sigmoid": 3, "aten::view": 3}
    made = (
        Emission("aten::linear", 4, (), "aten::linear"),
        Emission("aten::view", 3, (), "aten::view"),
        Emission("aten::mul.Tensor", 4, ("aten::gelu",), "aten::gelu"),
        Emission("aten::sigmoid", 2, ("aten::gelu",), "aten::gelu"),
        Emission("aten::mul.Tensor", 1, ("aten::silu", "aten::silu_inner"), "aten::silu"),
        Emission("aten::sigmoid", 1, ("aten::silu",), "aten::silu"),
    )
    body = Exported(
        catalog.digest, snapshot, "b" * 64, None if error else "a" * 64, before, {} if error else after,
        {"aten::gelu": 2, "aten::silu": 1}, 812, error, declined={}, emitted=None if error else made,
        raised=raised, kinds={}, early={},
    )  # fmt: skip
    event = table.exported(body, table.version)
    assert event is not None
    return event


def hostile_ledger(path: Path, text: str, torch: str | None = "2.14.1") -> int:
    """Make a ledger of a stranger with a text in every field that a page shows; return the number of its export.

    Without a torch version the text is that too, and then each shipped torch counts as a newer one.
    """
    catalog = catalog_of("aten::gelu", "aten::mm", torch=text if torch is None else torch)
    catalog.build["accelerator"] = text  # type: ignore[index]
    site = CallSite(text, 7, text, (Frame(text, 1, text),), (Frame(f"other/{text}", 2, text),))
    environment: dict[str, Any] = {
        "torch": text, "python": text, "platform": text, "host": text, "git_commit": text, "git_dirty": text,
        "ci_run": text, "python_libraries": [text, text],
    }  # fmt: skip
    with Ledger(path, actor="ann") as ledger:
        origin = (text or "ann", site, environment)
        ledger.origin = lambda: origin  # type: ignore[method-assign]
        table = new_table(ledger)
        given = Decomposition("import", text, text, digest="7" * 64, source=f"{text}\n{text}")
        table.change(Set, lambda _: [("aten::gelu", OVERRIDE, given)], reason=text)
        other = attrs.evolve(given, digest="8" * 64, source=f"changed {text}\n{text}")
        table.change(Set, lambda _: [("aten::gelu", OVERRIDE, other)], reason=text)
        snapshot = table.materialize(catalog)
        name = text.encode("ascii", "backslashreplace").decode()  # a key of canonical JSON is ASCII
        counts = {"aten::gelu": 2, name: 3, f"aten::{name}": 1}
        made = (Emission(text, 2, (text, f"b{text}"), text), Emission(f"aten::{text}", 1, (), text))
        body = Exported(
            catalog.digest, snapshot.digest, text, text, counts, counts, {"aten::gelu": 2, name: 1}, 3, None,
            (text,), {name: 1}, made, None, {}, {name: text},
            RootModule(text, text, 7), (text, 3), (text,),
        )  # fmt: skip
        first = table.exported(body, table.version)
        assert first is not None
        ledger.append("edge", table.version, Saved(first.seq, text, text, 7, text))
        raised = (text, "aten::gelu")
        failed = attrs.evolve(body, error=(text, f"{text}\n{text}"), ops_after={}, emitted=None, raised=raised)
        table.exported(failed, table.version)
        return first.seq
