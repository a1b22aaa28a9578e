"""PyTorch with the weights of a GGUF file, and with what llama.cpp rounds.

Source: `ggml_vec_dot_q8_0_q8_0`, `quantize_row_q8_0` and `ggml_vec_gelu_f32`, ggml of xllamacpp 2026.10.11549.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.exporters.gguf.blocks import BLOCK, Q8_0, Kind, encode
from amp_export.exporters.gguf.files import exported_file, read_facts
from amp_export.parity.quantized import round_in_blocks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_ROUTER = ".gate.weight"
"""Suffix of what chooses experts, which stays float32."""


class LlamaRounding:
    """What llama.cpp rounds that PyTorch does not.

    Weights are rounded here as the file's are, but from the checkpoint: a fault in the file is no part of the
    reference.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    @classmethod
    def of(cls, folder: Path) -> LlamaRounding:
        """Return the rounding of an export."""
        return cls(read_facts(exported_file(folder)).kind)

    @property
    def is_quantized(self) -> bool:
        """Whether products are of integers: activations are then rounded to int8, a block at a time."""
        return self._kind.is_quantized

    def give_to(self, model: PreTrainedModel) -> None:
        """Round the weights of a model to those of quantized blocks."""
        if not self._kind.is_quantized:
            return
        import torch

        outer = {id(each.weight) for each in _outer(model)}
        # convolutions stay float32, as routers do
        exact = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Conv1d)}
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or name.endswith(_ROUTER) or id(parameter) in exact:
                continue
            kind = Q8_0 if id(parameter) in outer else self._kind
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(_rounded(parameter.float().numpy(), kind)))

    @contextmanager
    def rounding_activations(self, model: PreTrainedModel) -> Iterator[None]:
        """Round the inputs of products with quantized weights, and GELU, which is a table of float16.

        Args:
            model: The model; the hooks are removed on exit.
        """
        import torch

        handles = []
        for module in model.modules():
            if self._kind.is_quantized and isinstance(module, torch.nn.Linear):
                handles.append(module.register_forward_pre_hook(round_in_blocks(BLOCK)))
            elif type(module).__name__ == "GELUTanh":
                handles.append(module.register_forward_hook(_gelu_of_table))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _outer(model: PreTrainedModel) -> list[Any]:
    """Return embedding and LM head."""
    found = (model.get_input_embeddings(), model.get_output_embeddings())
    return [each for each in found if each is not None]


def _rounded(values: Any, kind: Kind) -> Any:
    from gguf.quants import dequantize

    return dequantize(encode(values, kind), kind.ggml).reshape(values.shape)


def _gelu_of_table(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    import torch

    del module
    return torch.nn.functional.gelu(inputs[0].half().to(output.dtype), approximate="tanh").half().to(output.dtype)
