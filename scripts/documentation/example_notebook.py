"""docs/notebook.ipynb: run its cells in a kernel of its own, and keep what they give."""

import html
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOTEBOOK = Path("docs") / "notebook.ipynb"
HOME = "/home/ada/models"  # the folder that the outputs name, in place of a temporary one
ENVIRONMENT = {
    "DECOMP_LEDGER_ACTOR": "Ada <ada@example.org>",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCH_LOGS": "-all",
}
_TIMEOUT = 300  # seconds for one cell
# What differs between two runs: times, digests and ids, durations, the folder, the version of torch.
_VARYING = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
    (r"\b[0-9a-f]{12,64}\b", "HEX"),
    (r"\b\d+ ms\b", "DURATION"),
    (r"\b\d+\.\d+\.\d+\+\w+", "TORCH"),
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A notebook</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 16px 20px; font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; background: #fff; color: #212121; }}
.in {{ display: flex; gap: 10px; margin: 14px 0 6px; }}
.in span {{ color: #5b6570; font-family: monospace; min-width: 4ch; padding-top: 6px; }}
.in pre {{ flex: 1; margin: 0; padding: 6px 10px; background: #f5f6f7; border: 1px solid #dfe3e8; overflow-x: auto; }}
.out {{ margin-left: calc(4ch + 18px); overflow-x: auto; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #111; color: #e0e0e0; }}
  .in span {{ color: #a3acb8; }} .in pre {{ background: #1c1f23; border-color: #333a42; }}
}}
</style></head><body>
{}
</body></html>
"""


def read(root: Path) -> Any:
    """Return the notebook as it is kept."""
    import nbformat

    return nbformat.read(root / NOTEBOOK, as_version=4)


def executed(root: Path) -> Any:
    """Return the notebook with what its cells give now.

    Raises:
        CellExecutionError: a cell failed.
    """
    from nbclient import NotebookClient

    notebook = read(root)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("DECOMP_LEDGER")}
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        variables = {"PYTHONPATH": paths, "JPY_SESSION_NAME": str(Path(folder) / NOTEBOOK.name)}
        client = NotebookClient(
            notebook, timeout=_TIMEOUT, record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute(env={**outside, **ENVIRONMENT, **variables})
        folders = sorted({folder, str(Path(folder).resolve())}, key=len, reverse=True)
    for cell in notebook.cells:
        cell.metadata.clear()
        for data in (output.get("data", {}) for output in cell.get("outputs", ())):
            for kind, text in data.items():
                for name in folders:
                    text = text.replace(name, HOME)
                data[kind] = text
    notebook.metadata.language_info = {"name": "python"}  # the rest is the version of Python here
    return notebook


def write(root: Path) -> None:
    """Run the notebook, and write what its cells give."""
    import nbformat

    nbformat.write(executed(root), root / NOTEBOOK)


def stable_outputs(notebook: Any) -> list[list[str]]:
    """Return the texts of each cell's outputs, without what differs between two runs."""
    return [
        [_stable(text) for output in cell.outputs for text in _texts(output)]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def as_page(notebook: Any, shown: Callable[[str], bool] = lambda source: True) -> str:
    """Return code cells with their outputs as one HTML page, about as Jupyter shows them.

    Args:
        notebook: the notebook.
        shown: tells whether to show a cell, by its source.
    """
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and shown(cell.source):
            parts.append(
                f'<div class="in"><span>[{cell.execution_count}]:</span><pre>{html.escape(cell.source)}</pre></div>'
            )
            for output in cell.outputs:
                data = output.get("data", {})
                text = "".join(data.get("text/plain", output.get("text", "")))
                parts.append(f'<div class="out">{data.get("text/html") or f"<pre>{html.escape(text)}</pre>"}</div>')
    return _PAGE.format("\n".join(parts))


def _texts(output: Any) -> list[str]:
    if output.output_type == "stream":
        return [f"{output.name}: {output.text}"]
    data = output.get("data", {})
    return [f"{kind}: {''.join(data[kind])}" for kind in sorted(data)] or [f"{output.output_type}: no data"]


def _stable(text: str) -> str:
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text)
    return re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
