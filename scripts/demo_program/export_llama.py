"""Export a small Llama with random weights; an ordinary script that does not import decomp_ledger.

Its backend has kernels for linear layers and for silu-and-multiply. The model is exported to ONNX too.
"""

import warnings

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

warnings.filterwarnings("ignore")


def backend_table() -> dict:
    """Return the decomposition table of the backend; the ops that it has kernels for stay in the graph."""
    table = torch.export.default_decompositions()
    table.pop(torch.ops.aten.linear.default)
    table.pop(torch.ops.fused_ops.silu_mul.default)
    return table


def small_llama() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval()


def fuse() -> None:
    """Load the library of the backend and use its op in the model."""
    import fused_ops  # noqa: F401

    def forward(self: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.ops.fused_ops.silu_mul(self.gate_proj(x), self.up_proj(x)))

    LlamaMLP.forward = forward


def main() -> None:
    fuse()
    table = backend_table()
    model = small_llama()
    tokens = torch.arange(16).reshape(1, 16)
    program = torch.export.export(model, (), {"input_ids": tokens}, strict=False)
    lowered = program.run_decompositions(table)
    kept = sorted({str(node.target) for node in lowered.graph.nodes if node.op == "call_function"})
    print(f"lowered: {len(lowered.graph.nodes)} nodes; kept {[op for op in kept if 'linear' in op or 'fused' in op]}")
    onnx = torch.onnx.export(model, (), kwargs={"input_ids": tokens}, dynamo=True, verbose=False)
    print(f"ONNX: {len(list(onnx.model.graph))} nodes")


if __name__ == "__main__":
    main()
