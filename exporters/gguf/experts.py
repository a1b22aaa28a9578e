"""The tensors of experts: llama.cpp has one for all experts of a layer, and checkpoints have one for each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from amp_export.architectures import LayerWidths
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.gguf.planned import PlannedTensor

if TYPE_CHECKING:
    import numpy as np

    from amp_export.checkpoints.reading import Checkpoint

    Array = np.ndarray[Any, np.dtype[Any]]

_NAMES = {
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
}
"""Module of the experts, and their gate, up and down projections in files: `conversion_mapping.py`, transformers
5.24."""


def planned_experts(checkpoint: Checkpoint, block: str, source: str, widths: LayerWidths) -> Iterator[PlannedTensor]:
    """Yield the router and the experts of a layer.

    Args:
        checkpoint: The checkpoint.
        block: Name of the layer in the file.
        source: Name of the layer in the checkpoint.
        widths: The layer's widths; all experts have as many neurons.

    Raises:
        UnsupportedModelError: The checkpoint names its experts otherwise.
    """
    config = checkpoint.config
    module, *projections = _NAMES[config.architecture.model_type]
    count = int(config.fields["num_local_experts"])
    router = f"{source}.{module}.gate.weight"
    wide, tall = (count, widths.neurons, config.hidden_size), (count, config.hidden_size, widths.neurons)
    shapes = {"ffn_gate_exps": wide, "ffn_up_exps": wide, "ffn_down_exps": tall}
    names = {
        name: [f"{source}.{module}.experts.{expert}.{projection}.weight" for expert in range(count)]
        for name, projection in zip(shapes, projections, strict=True)
    }
    needed = [router, *chain.from_iterable(names.values())]
    if missing := [name for name in needed if name not in checkpoint.tensors]:
        raise UnsupportedModelError(
            f"{checkpoint.path} holds no tensor {missing[0]}: its experts are stored in an unknown form.\n"
            "Load it with transformers 5.24 and save it with save_pretrained()."
        )
    yield PlannedTensor(
        f"{block}.ffn_gate_inp.weight", checkpoint.tensors[router].shape, partial(checkpoint.read, router)
    )
    for name, shape in shapes.items():
        yield PlannedTensor(f"{block}.{name}.weight", shape, partial(_stack, checkpoint, names[name], shape))


def _stack(checkpoint: Checkpoint, names: list[str], shape: tuple[int, ...]) -> Array:
    import numpy as np

    first = checkpoint.read(names[0])
    stacked = np.empty(shape, first.dtype)
    for number, name in enumerate(names):
        stacked[number] = checkpoint.read(name)
    return stacked
