"""The tensors of experts: llama.cpp has one for all experts of a layer, and checkpoints have one for each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Experts, LayerWidths, expert_name
from amp_export.exporters.gguf.planned import PlannedTensor

if TYPE_CHECKING:
    import numpy as np

    from amp_export.checkpoints.reading import Checkpoint

    Array = np.ndarray[Any, np.dtype[Any]]


def planned_experts(checkpoint: Checkpoint, block: str, source: str, widths: LayerWidths) -> Iterator[PlannedTensor]:
    """Yield the router and the experts of a layer.

    Args:
        checkpoint: The checkpoint.
        block: Name of the layer in the file.
        source: Name of the layer in the checkpoint.
        widths: The layer's widths; all experts have as many neurons.
    """
    config, experts = checkpoint.config, checkpoint.config.architecture.mlp
    assert isinstance(experts, Experts)
    assert experts.output.stacked is not None
    router = f"{source}.{experts.router.name}.weight"
    yield PlannedTensor(
        f"{block}.ffn_gate_inp.weight", checkpoint.tensors[router].shape, partial(checkpoint.read, router)
    )
    count, neurons = config.size(experts.output.stacked), widths.neurons
    (gate_up,) = experts.inputs
    for name, projection, rows in (
        ("ffn_gate_exps", gate_up, slice(neurons)),
        ("ffn_up_exps", gate_up, slice(neurons, 2 * neurons)),
        ("ffn_down_exps", experts.output, slice(config.hidden_size)),
    ):
        sources = [expert_name(f"{source}.{projection.name}", number) for number in range(count)]
        shape = (count, rows.stop - (rows.start or 0), checkpoint.tensors[sources[0]].shape[1])
        yield PlannedTensor(f"{block}.{name}.weight", shape, partial(_stack, checkpoint, sources, rows, shape))


def _stack(checkpoint: Checkpoint, names: list[str], rows: slice, shape: tuple[int, ...]) -> Array:
    """Return some rows of several matrices."""
    import numpy as np

    stacked: Array | None = None
    for number, name in enumerate(names):
        taken = checkpoint.read(name)[rows]
        stacked = np.empty(shape, taken.dtype) if stacked is None else stacked
        stacked[number] = taken
    assert stacked is not None
    return stacked
