"""What rounding does to the weights of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.exporters.onnx.builder.formats import choose_formats
from amp_export.exporters.onnx.builder.layout import is_outputs_first
from amp_export.exporters.onnx.builder.weights import to_nearest
from amp_export.exporters.onnx.quantized_weights import find_owners

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.onnx.builder.weights import Rounding
    from amp_export.exporters.onnx.quantization import Quantization
    from amp_export.exporters.onnx.quantized_weights import Owners
    from amp_export.options import Operators


@dataclass(frozen=True)
class Change:
    """What rounding does to a weight.

    Attributes:
        change_oi: What is added to it, [outputs, inputs].
        owners: Modules whose weight it is.
        transposed: Whether the modules' weight is [inputs, outputs].
    """

    change_oi: torch.Tensor
    owners: Owners
    transposed: bool = False


def find_changes(
    model: PreTrainedModel,
    checkpoint: Checkpoint,
    quantization: Quantization,
    operators: Operators,
    *,
    rounding: Rounding | None = None,
) -> dict[str, Change]:
    """Return what rounding does to each weight, on the model's device.

    Args:
        model: The model, in float32.
        checkpoint: Its checkpoint.
        quantization: How weights are quantized.
        operators: Operators of the graph.
        rounding: How weights are rounded; by default each to its nearest code.
    """
    import numpy as np
    import torch

    config = checkpoint.config
    formats = choose_formats(config, checkpoint.widths, quantization, operators)
    changes = {}
    for name, form in formats.items():
        owners = find_owners(model, config, name, operators)
        weight = owners.all[0].weight.detach()
        weight_oi = weight if is_outputs_first(config, name) else weight.T
        rounded = (rounding or to_nearest)(name, weight_oi.cpu().numpy(), form, np.dtype(np.float32))
        change_oi = torch.from_numpy(rounded.dequantized()).to(weight.device) - weight_oi
        changes[name] = Change(change_oi, owners, transposed=weight_oi is not weight)
    return changes


@contextmanager
def changed(changes: Mapping[str, Change]) -> Iterator[None]:
    """Add changes to the weights of their modules; leaving the context restores them."""
    with replacing_weights() as replace:
        for change in changes.values():
            added = change.change_oi.T if change.transposed else change.change_oi
            replace(change.owners.all, change.owners.all[0].weight + added)
        yield


@contextmanager
def replacing_weights() -> Iterator[Callable[[Sequence[Any], torch.Tensor], None]]:
    """Yield a function that gives modules a weight, which they share; leaving the context restores theirs."""
    import torch

    before: list[tuple[Any, torch.nn.Parameter]] = []

    def replace(modules: Sequence[Any], weight: torch.Tensor) -> None:
        parameter = torch.nn.Parameter(weight, requires_grad=False)
        for module in modules:
            before.append((module, module.weight))
            module.weight = parameter

    try:
        yield replace
    finally:
        for module, weight in reversed(before):
            module.weight = weight
