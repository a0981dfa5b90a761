"""The clients: programs that lower a model with a tool that people use, and what each needs."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Client:
    """A tool that lowers programs.

    Attributes:
        name: its name on the command line.
        script: the file that uses it; it takes the folder that it writes to.
        requires: what pip installs for it; the first is the tool, whose version is shown.
        is_quick: whether it needs only what the tests need too.
    """

    name: str
    script: str
    requires: tuple[str, ...]
    is_quick: bool = False

    @property
    def path(self) -> Path:
        return FOLDER / self.script


_CLIENTS = (
    Client("onnx", "to_onnx.py", ("onnxscript==0.7.2", "onnx==1.23.2"), is_quick=True),
    Client("llama", "lower_llama.py", ("transformers==5.23.0",), is_quick=True),
    Client("bert", "lower_bert.py", ("transformers==5.23.0",)),
    Client("vit", "lower_vit.py", ("transformers==5.23.0",)),
    Client("whisper", "lower_whisper.py", ("transformers==5.23.0",)),
    Client("torchao", "to_quantized.py", ("torchao==0.18.0",)),
    Client("executorch", "to_xnnpack.py", ("executorch==1.5.1",)),
    Client("openvino", "to_openvino.py", ("openvino==2026.4.1",)),
    Client("coremltools", "to_coreml.py", ("coremltools==9.0",)),
    Client("litert", "to_litert.py", ("litert-torch==0.10.0",)),
    Client("iree", "to_iree.py", ("iree-turbine==3.9.0", "iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0")),
)
CLIENTS = {client.name: client for client in _CLIENTS}
