"""Run a model one layer at a time, over hidden states that are kept for all batches.

The arguments that a model passes to its layers, such as masks and rotary embeddings, are recorded once: the layers are
replaced by functions that return their input, so that only embeddings and masks are computed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.inputs.batches import Batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig


@dataclass(frozen=True)
class LayerCall:
    """The arguments of one call of a layer, other than the hidden states.

    Attributes:
        positional: Positional arguments after the hidden states.
        keywords: Keyword arguments.
    """

    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]


@dataclass(frozen=True)
class StreamBatch:
    """A batch as the layers see it.

    Attributes:
        hidden_bsh: Input of the first layer, [batch, sequence, hidden].
        calls: Arguments by layer.
        places_t: Indices of the real tokens among all, [tokens].
        returned: Number of values in the tuples that layers return; 0 if they return their output alone.
    """

    hidden_bsh: torch.Tensor
    calls: tuple[LayerCall, ...]
    places_t: torch.Tensor
    returned: int

    def real(self, hidden_bsh: torch.Tensor) -> torch.Tensor:
        """Return the hidden states of real tokens, [tokens, hidden]."""
        return hidden_bsh.reshape(-1, hidden_bsh.shape[-1])[self.places_t]

    def as_returned(self, hidden_bsh: torch.Tensor) -> Any:
        """Return hidden states in the form in which a layer returns them."""
        return in_form(hidden_bsh, self.returned)


def record_calls(model: PreTrainedModel, config: ModelConfig, batches: Iterable[Batch]) -> list[StreamBatch]:
    """Return each batch's input of the first layer, and the arguments that every layer gets.

    Args:
        model: The model; it is left as it was.
        config: Its config; it has one stack of layers.
        batches: The batches.
    """
    layers = [model.get_submodule(site.path) for site in config.sites]
    return [stream for batch in batches for stream in record_layers(model, config, [layers], batch)]


def record_layers(
    model: PreTrainedModel, config: ModelConfig, chains: Sequence[Sequence[torch.nn.Module]], batch: Batch
) -> list[StreamBatch]:
    """Return the input of the first layer of each chain, and the arguments that its layers get.

    Args:
        model: The model; it is left as it was.
        config: Its config.
        chains: The layers of each chain, in the order in which they run: of an encoder, then of a decoder.
        batch: The batch.
    """
    import torch

    base_model = model.get_submodule(config.base_model)
    # a cache would grow with every run of a layer
    switches = {"use_cache": False} if "use_cache" in inspect.signature(base_model.forward).parameters else {}
    layers = [layer for chain in chains for layer in chain]
    with torch.inference_mode(), _recording(layers) as (calls, kinds):
        base_model(**{**batch.inputs, **switches})
    streams, masks, first = [], (batch.read_mask, batch.decoder_mask), 0
    for chain, mask in zip(chains, masks, strict=False):
        own = calls[first : first + len(chain)]
        hidden_bsh = own[0][0]
        places_t = dataclasses.replace(batch, read_mask=mask).places(hidden_bsh.shape[:2])
        streams.append(StreamBatch(hidden_bsh, tuple(call for _, call in own), places_t, kinds[type(chain[0])]))
        first += len(chain)
    return streams


@contextmanager
def replaced(
    layers: Sequence[torch.nn.Module], replace: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Replace what layers compute; leaving the context restores it.

    Args:
        layers: The layers.
        replace: Returns what is called instead of a layer's forward.
    """
    try:
        for layer in layers:
            layer.forward = replace(layer.forward)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


@contextmanager
def _recording(
    layers: Sequence[torch.nn.Module],
) -> Iterator[tuple[list[tuple[torch.Tensor, LayerCall]], dict[type, int]]]:
    """Let the layers record their arguments and return the hidden states as they are."""
    calls: list[tuple[torch.Tensor, LayerCall]] = []
    kinds: dict[type, int] = {}

    def pass_on(forward: Callable[..., Any]) -> Callable[..., Any]:
        kind = type(forward.__self__)  # type: ignore[attr-defined]

        def record(hidden_bsh: torch.Tensor, *positional: Any, **keywords: Any) -> Any:
            calls.append((hidden_bsh, LayerCall(positional, keywords)))
            if kind not in kinds:  # whether a layer returns a tuple, and how long, is seen by calling one
                result = forward(hidden_bsh, *positional, **keywords)
                kinds[kind] = len(result) if isinstance(result, tuple) else 0
            return in_form(hidden_bsh, kinds[kind])

        return record

    with replaced(layers, pass_on):
        yield calls, kinds


def in_form(hidden_bsh: torch.Tensor, returned: int) -> Any:
    """Return hidden states in a tuple of so many values, of which the others are None; alone for 0."""
    return (hidden_bsh, *[None] * (returned - 1)) if returned else hidden_bsh


def token_power(stream_th: torch.Tensor) -> torch.Tensor:
    """Return the mean square of each token's hidden state, [tokens]: tokens weigh as one over it.

    The norm that reads the hidden state divides by its root.
    """
    return stream_th.float().square().mean(dim=1).clamp(min=1e-12)


def run_layer(layer: torch.nn.Module, hidden_bsh: torch.Tensor, call: LayerCall) -> torch.Tensor:
    """Return a layer's output, [batch, sequence, hidden]."""
    import torch

    with torch.inference_mode():
        result = layer(hidden_bsh, *call.positional, **call.keywords)
    output_bsh: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return output_bsh


class _Reached(Exception):  # noqa: N818 - it is no error
    """The last module that is watched has been reached."""


def watch(
    layer: torch.nn.Module,
    hidden_bsh: torch.Tensor,
    call: LayerCall,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    until: str | None = None,
) -> dict[str, torch.Tensor]:
    """Run a layer, and return the inputs and outputs of some of its modules, by `NAME.input` and `NAME.output`.

    Args:
        layer: The layer.
        hidden_bsh: Its input, [batch, sequence, hidden].
        call: Its other arguments.
        inputs: Modules whose input is returned.
        outputs: Modules whose output is returned.
        until: The module at whose input the run ends; by default it ends with the layer, and its output is returned as
            `output`.
    """
    seen: dict[str, torch.Tensor] = {}

    def before(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            seen[f"{name}.input"] = given[0]
            if name == until:
                raise _Reached

        return hook

    def after(name: str) -> Callable[[Any, Any, torch.Tensor], None]:
        def hook(_: Any, __: Any, output: torch.Tensor) -> None:
            seen[f"{name}.output"] = output.clone()  # Falcon adds to it in place

        return hook

    handles = [layer.get_submodule(name).register_forward_pre_hook(before(name)) for name in inputs]
    handles += [layer.get_submodule(name).register_forward_hook(after(name)) for name in outputs]
    try:
        with suppress(_Reached):
            seen["output"] = run_layer(layer, hidden_bsh, call)
    finally:
        for handle in handles:
            handle.remove()
    return seen
