"""A script that exports to ONNX, and knows nothing of us, makes the same file under the recorder, but for its stamp."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import decomp_ledger

_SCRIPT = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = torch.nn.functional.normalize(self.inner(x, x, x, need_weights=False)[0])
        return torch.nn.functional.gelu(y).std(-1).logit(1e-3)

torch.manual_seed(0)
torch.onnx.export(Model().eval(), (torch.ones(1, 3, 8),), "model.onnx", dynamo=True, verbose=False, external_data=False)
"""


def without_metadata(file: bytes) -> bytes:
    """Return an ONNX file without its metadata, as the onnx package writes it."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(file)
    assert [each.key for each in model.metadata_props] == ["decomp_ledger.stamp"]
    del model.metadata_props[:]
    return bytes(model.SerializeToString())


def test_the_file_is_the_same_but_for_its_stamp(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(decomp_ledger.__file__).parent.parent)}

    def run(*arguments: str) -> bytes:
        command = [sys.executable, "-W", "ignore", *arguments]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def made(*arguments: str) -> bytes:
        run(*arguments)
        file = (tmp_path / "model.onnx").read_bytes()
        (tmp_path / "model.onnx").unlink()
        return file

    plain, recorded = made("script.py"), made("-m", "decomp_ledger", "run", "script.py")
    assert without_metadata(recorded) == plain != recorded
    (export,) = json.loads(run("-m", "decomp_ledger", "exports", "--json"))
    assert export["body"]["fired"]["aten::std.dim"] == 1
    (passed,) = json.loads(run("-m", "decomp_ledger", "log", "--kind", "passed", "--json"))
    assert passed["body"]["caller"].startswith("torch/onnx/")
    answer = run(
        "-m", "decomp_ledger", "explain", "aten::scaled_dot_product_attention", f"export:{export['seq']}"
    ).decode()
    answer = " ".join(answer.split())  # its lines are folded
    assert "missing from the dict that was made from the table of torch/onnx/" in answer
    assert "passed by torch/onnx/" in answer and "preserved" not in answer
