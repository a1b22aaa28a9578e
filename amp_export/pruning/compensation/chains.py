"""Chains of layers, each of which reads what the one before returns: one, or those of an encoder and of a decoder.

The layers of a decoder also read the encoder's states, which pruning changes: of what a layer is given besides hidden
states, they alone are not the same for the dense model and the pruned one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from amp_export.inputs.batches import Batch
from amp_export.pruning.compensation.streams import LayerCall, StreamBatch, in_form, record_layers, replaced

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import Block, ModelConfig

DECODER_INPUTS = "decoder_"
"""How the names of inputs begin that only a decoder reads."""


@dataclass(frozen=True)
class ChainLayer:
    """A layer of a chain, which may have several entries in a plan: one for each attention.

    Attributes:
        path: Its module path.
        sites: Numbers of the plan's entries.
    """

    path: str
    sites: tuple[int, ...]

    def mixing(self, config: ModelConfig) -> Iterator[tuple[int, Block]]:
        """Yield what mixes tokens in it, with the numbers of the entries, in the order in which they run."""
        for number in self.sites:
            for block in config.sites[number].stack.mixing:
                yield number, block

    def fitted_mlps(self, config: ModelConfig) -> Iterator[tuple[int, Block]]:
        """Yield its MLP, with the number of the entry, unless it has none or consists of experts."""
        for number in self.sites:
            if (block := config.sites[number].stack.mlp) is not None and not block.has_experts:
                yield number, block


@dataclass(frozen=True)
class Chain:
    """Layers that run one after the other.

    Attributes:
        layers: The layers.
        is_decoder: Whether they also read the states of the chain before.
    """

    layers: tuple[ChainLayer, ...]
    is_decoder: bool


def chains_of(config: ModelConfig) -> list[Chain]:
    """Return the chains of a model, in the order in which they run."""
    found: dict[str, dict[str, list[int]]] = {}
    for number, site in enumerate(config.sites):
        found.setdefault(site.path.rpartition(".")[0], {}).setdefault(site.path, []).append(number)
    return [
        Chain(
            tuple(ChainLayer(path, tuple(numbers)) for path, numbers in layers.items()),
            is_decoder=any(config.sites[number].stack.is_decoder for numbers in layers.values() for number in numbers),
        )
        for layers in found.values()
    ]


@dataclass(frozen=True)
class RecordedBatch:
    """A batch as the layers of all chains see it.

    Attributes:
        batch: The batch.
        streams: What the layers of each chain see.
        states: What the decoder's layers were given as the encoder's states; None without a decoder.
    """

    batch: Batch
    streams: tuple[StreamBatch, ...]
    states: torch.Tensor | None

    def with_states(self, stream: StreamBatch, states_bsh: torch.Tensor) -> StreamBatch:
        """Return a decoder's stream whose layers are given other states of the encoder."""
        return replace(stream, calls=tuple(_with_states(call, self.states, states_bsh) for call in stream.calls))


def record_chains(
    model: PreTrainedModel, config: ModelConfig, chains: Sequence[Chain], batches: Sequence[Batch]
) -> list[RecordedBatch]:
    """Return the input of each chain's first layer, and the arguments that every layer gets, for each batch.

    Args:
        model: The model; it is left as it was.
        config: Its config.
        chains: Its chains.
        batches: The batches.
    """
    recorded = []
    layers = [[model.get_submodule(layer.path) for layer in chain.layers] for chain in chains]
    encoder = model.get_encoder() if len(chains) > 1 else None
    for batch in batches:
        seen: list[torch.Tensor] = []

        def keep(_: Any, __: Any, output: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append(output.last_hidden_state)

        handle = encoder.register_forward_hook(keep) if encoder is not None else None
        try:
            streams = record_layers(model, config, layers, batch)
        finally:
            if handle is not None:
                handle.remove()
        recorded.append(RecordedBatch(batch, tuple(streams), seen[0] if seen else None))
    return recorded


def encoder_states(
    model: PreTrainedModel, chain: Chain, recorded: RecordedBatch, hidden_bsh: torch.Tensor
) -> torch.Tensor:
    """Return the states that a decoder is given, when the encoder's last layer returns these hidden states.

    Args:
        model: The model; it is left as it was.
        chain: The chain of the encoder.
        recorded: The batch.
        hidden_bsh: Output of the last layer, [batch, sequence, hidden].
    """
    import torch

    returned = in_form(hidden_bsh, recorded.streams[0].returned)
    inputs = {name: value for name, value in recorded.batch.inputs.items() if not name.startswith(DECODER_INPUTS)}
    inputs.pop("use_cache", None)
    layers = [model.get_submodule(layer.path) for layer in chain.layers]
    with torch.inference_mode(), replaced(layers, lambda _: lambda *_, **__: returned):
        states_bsh: torch.Tensor = model.get_encoder()(**inputs, return_dict=True).last_hidden_state
    return states_bsh


def _with_states(call: LayerCall, old: torch.Tensor | None, new: torch.Tensor) -> LayerCall:
    given = [*call.positional, *call.keywords.values()]
    assert any(value is old for value in given), "a decoder's layer reads the encoder's states"
    return LayerCall(
        tuple(new if value is old else value for value in call.positional),
        {name: new if value is old else value for name, value in call.keywords.items()},
    )
