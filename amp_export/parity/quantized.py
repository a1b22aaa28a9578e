"""PyTorch with the quantized weights of a graph, and with activations rounded as a runtime rounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amp_export.checkpoints.vision_language import read_exported_config
from amp_export.options import Operators

if TYPE_CHECKING:
    import onnx
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig
    from amp_export.exporters.onnx.quantized_weights import Owners

_LARGEST = 127.0
"""The largest int8."""


class RoundedWeights(Protocol):
    """What a runtime rounds that PyTorch does not."""

    def give_to(self, model: PreTrainedModel) -> None:
        """Replace the weights of a model by those that the runtime has."""

    def rounding_activations(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Round what the runtime rounds, until the exit."""


@dataclass(frozen=True)
class QuantizedWeights:
    """The quantized weights of a graph, for the model that it is compared with.

    Attributes:
        graph: File of the graph.
        activation_block: Number of values that are rounded to int8 with one scale before a product with these weights;
            None if the runtime does not round them.
    """

    graph: Path
    activation_block: int | None = None

    @classmethod
    def of(cls, graph: Path, model: onnx.ModelProto) -> QuantizedWeights | None:
        """Return the weights of a graph; None if they are not quantized by this package.

        Args:
            graph: File of the graph.
            model: Its content.
        """
        from amp_export.exporters.onnx.descriptions import read_quantization

        metadata = {entry.key: entry.value for entry in model.metadata_props}
        return cls(graph) if read_quantization(metadata) is not None else None

    def give_to(self, model: PreTrainedModel) -> None:
        """Replace the weights of a model by those of the graph, dequantized.

        Where the graph looks up tokens in an embedding that is not quantized, an LM head that was tied to it has a
        weight of its own afterwards.
        """
        import torch

        from amp_export.exporters.onnx.builder.layout import is_outputs_first
        from amp_export.exporters.onnx.quantized_weights import read_quantized

        for name, weight in read_quantized(self.graph):
            owners = self._owners(model, name).all
            values, old = torch.from_numpy(weight.dequantized()), owners[0].weight
            new = (values if is_outputs_first(self._config, name) else values.T).to(old.dtype).contiguous()
            assert new.shape == old.shape, f"{name} has the shape {tuple(new.shape)}, not {tuple(old.shape)}"
            parameter = torch.nn.Parameter(new, requires_grad=False)
            for owner in owners:
                owner.weight = parameter

    @contextmanager
    def rounding_activations(self, model: PreTrainedModel) -> Iterator[None]:
        """Round what is multiplied with these weights as the runtime does.

        Args:
            model: The model; the hooks are removed on exit.
        """
        from amp_export.exporters.onnx.quantized_weights import ExpertWeight, quantized_names

        with ExitStack() as stack:
            if self.activation_block is not None:
                hook = round_in_blocks(self.activation_block)
                owners = [each for name in quantized_names(self.graph) for each in self._owners(model, name).products]
                modules = [each for each in owners if not isinstance(each, ExpertWeight)]
                # all experts of a layer share a module
                experts = {id(each.experts): each.experts for each in owners if isinstance(each, ExpertWeight)}
                for module in (*modules, *experts.values()):
                    stack.callback(module.register_forward_pre_hook(hook).remove)
                for module in experts.values():
                    stack.enter_context(_rounding_neurons(module, hook))
            yield

    def _owners(self, model: PreTrainedModel, name: str) -> Owners:
        from amp_export.exporters.onnx.quantized_weights import find_owners

        return find_owners(model, self._config, name, self._operators)

    @cached_property
    def _config(self) -> ModelConfig:
        folder = self.graph.parent
        # in the layout of transformers.js, graphs are below the config
        _, config = read_exported_config(folder if (folder / "config.json").is_file() else folder.parent)
        return config

    @cached_property
    def _operators(self) -> Operators:
        from amp_export.exporters.onnx.descriptions import describe_graph

        return describe_graph(self.graph).operators


@contextmanager
def _rounding_neurons(experts: Any, hook: Callable[[Any, tuple[torch.Tensor, ...]], Any]) -> Iterator[None]:
    """Round the activations of experts, which no module takes: their function for them is replaced until the exit.

    Source: `use_experts_implementation`, `integrations/moe.py`, transformers 5.24.
    """
    compute = experts._apply_gate
    experts._apply_gate = lambda projected: hook(experts, (compute(projected),))[0]
    try:
        yield
    finally:
        del experts._apply_gate


def round_in_blocks(block: int) -> Callable[[Any, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    """Return a hook that rounds a module's input to int8, each block by its largest value.

    Source: `QuantizeARow_CompInt8`, MLAS of ONNX Runtime 1.32.
    """
    import torch

    def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        value = inputs[0]
        blocks = value.reshape(*value.shape[:-1], -1, block)
        scales = blocks.abs().amax(dim=-1, keepdim=True) / _LARGEST
        rounded = torch.where(scales > 0, (blocks / scales).round() * scales, 0.0)
        return (rounded.flatten(-2).to(value.dtype), *inputs[1:])

    return hook
