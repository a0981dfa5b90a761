"""A recording in a notebook, in a real kernel of Jupyter."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from decomp_ledger import Ledger

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
CELLS = (
    "import torch, decomp_ledger as dl\nrecording = dl.record('nb.db', actor='Ada')\nrecording.__enter__()",
    "def backend_table():\n    table = torch.export.default_decompositions()\n"
    "    table.pop(torch.ops.aten.linear.default)\n    return table",
    "# a comment\n\ntable = backend_table()\n\ntable.pop(torch.ops.aten.silu.default)",
    "other = torch.export.default_decompositions()\nother.pop(torch.ops.aten.silu.default)",
    "recording.__exit__(None, None, None)",
)


def executed(folder: Path, **variables: str) -> list[tuple[str, list[str]]]:
    """Run the cells in a kernel; return (table, the lines of its call site) of each event that changed a rule."""
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, CELLS)))
    client: Any = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, **variables})
    with Ledger(folder / "nb.db", read_only=True) as ledger:
        events = [event for event in ledger.events(kind="popped") if event.call_site is not None]
        return [(event.table, [str(frame) for frame in event.call_site.frames]) for event in events]


def test_a_call_site_in_a_notebook_is_the_cell_with_its_line(tmp_path: Path) -> None:
    first, second, third = executed(tmp_path, JPY_SESSION_NAME=str(tmp_path / "analysis.ipynb"))
    assert first[0] == second[0] == "analysis/backend_table/1"
    assert first[1][:2] == ["analysis.ipynb In[2]:3 in backend_table", "analysis.ipynb In[3]:3 in <module>"]
    assert second[1][:1] == ["analysis.ipynb In[3]:5 in <module>"]
    assert third[0] == "analysis/module/1"
    assert [line for _, lines in (first, second, third) for line in lines if "IPython" in line] == []
    assert third[1][:1] == ["analysis.ipynb In[4]:2 in <module>"]


def test_without_the_file_the_cell_is_named_alone(tmp_path: Path) -> None:
    first, *_ = executed(tmp_path, JPY_SESSION_NAME="")
    assert first[0] == "notebook/backend_table/1"
    assert first[1][:2] == ["In[2]:3 in backend_table", "In[3]:3 in <module>"]


def test_the_notebook_of_the_documentation_gives_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas", reason="needs pandas: pip install -e .[dev]")
    pytest.importorskip("transformers", reason="needs transformers: pip install -e .[dev]")
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "documentation"))
    import example_notebook

    kept, now = example_notebook.read(ROOT), example_notebook.executed(ROOT)
    assert [cell.execution_count for cell in now.cells if cell.cell_type == "code"] == list(range(1, 15))
    found = example_notebook.stable_outputs(now)
    assert all(text.startswith("text/") for texts in found for text in texts)  # no warning, no error
    assert sum("decomp-ledger" in text for texts in found for text in texts) == 7
    assert len(torch_of(kept)) == 1
    if torch_of(kept) == torch_of(now):
        assert found == example_notebook.stable_outputs(kept)


def torch_of(notebook: Any) -> set[str]:
    """Return the torch versions that the outputs of a notebook name."""
    return set(re.findall(r"torch (\d+\.\d+\.\d+)\+", str([cell.get("outputs") for cell in notebook.cells])))
