"""Trace what a criterion asks of the gradients of all output and down projections, in a backward pass.

The loss is the negative log-likelihood of tokens that are sampled from the model's own predictions, so that second
moments of its gradients are the Fisher information. Weights get no gradients. Where activations of all layers would
take too much memory, each layer runs again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from amp_export.hardware.placement import model_bytes
from amp_export.inputs.batches import Batch
from amp_export.pruning.compensation.streams import replaced
from amp_export.pruning.recording import columns

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig, Projection
    from amp_export.pruning.criteria._criterion import Criterion, Unit

GRADIENT_TOKENS = 8192
"""Tokens to trace, at most: each costs three times a forward pass."""

GRADIENT_SHARE = 4
"""One of so many of the tokens that are scored on is traced."""

FEWEST_GRADIENT_TOKENS = 2048
"""Tokens to trace, if there are so many."""

RERUN_BYTES = 4 << 30
"""Size of a model from which layers run again in the backward pass, which is a third slower."""


@dataclass(frozen=True)
class Traced:
    """What was traced, by number of the layer.

    Attributes:
        heads: Sums over tokens for heads.
        neurons: Sums over tokens for neurons.
    """

    heads: dict[int, torch.Tensor] = field(default_factory=dict)
    neurons: dict[int, torch.Tensor] = field(default_factory=dict)


def trace_gradients(
    model: PreTrainedModel,
    config: ModelConfig,
    criterion: Criterion,
    batches: Sequence[Batch],
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Traced:
    """Return what a criterion traces.

    Args:
        model: A decoder; it is left as it was.
        config: Its config.
        criterion: The criterion.
        batches: Text to trace on.
        seed: Seed of the tokens that are sampled.
        on_progress: Called with the number of batches done and the total.
    """
    traced = Traced()
    layers = [model.get_submodule(site.path) for site in config.sites]
    with _hooks(model, config, criterion, traced) as begin:
        run_backward(model, layers, batches, begin=begin, seed=seed, on_progress=on_progress)
    return traced


def run_backward(
    model: PreTrainedModel,
    layers: Sequence[torch.nn.Module],
    batches: Sequence[Batch],
    *,
    begin: Callable[[Batch], None],
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Run a decoder on text, and backward from the log-likelihood of tokens that are drawn from its own predictions.

    Args:
        model: A decoder; it is left as it was.
        layers: Its layers.
        batches: Text to run it on.
        begin: Called with each batch before it runs; hooks on modules' outputs see the gradients, of those outputs that
            require some: layers may run twice.
        seed: Seed of the tokens.
        on_progress: Called with the number of batches done and the total.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    rerun = replaced(layers, _rerunning) if model_bytes(model) >= RERUN_BYTES else nullcontext()
    with _frozen(model), rerun, torch.enable_grad():
        for number, batch in enumerate(batches):
            begin(batch)
            places_t = batch.places(batch.inputs["input_ids"].shape)
            logits_bsv = model(**batch.inputs).logits
            logits_tv = logits_bsv.reshape(-1, logits_bsv.shape[-1])[places_t].float()
            # on the CPU, so that a GPU's samples are the same
            chances_tv = logits_tv.detach().softmax(dim=1).cpu()
            sampled_t = torch.multinomial(chances_tv, 1, generator=generator).squeeze(1).to(logits_tv.device)
            torch.autograd.backward(torch.nn.functional.cross_entropy(logits_tv, sampled_t, reduction="sum"))
            if on_progress is not None:
                on_progress(number + 1, len(batches))


def _rerunning(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer that keeps its input alone, and runs again when its gradients are wanted."""
    from torch.utils.checkpoint import checkpoint

    def run(hidden_bsh: torch.Tensor, *positional: Any, **keywords: Any) -> Any:
        # without graph at first, so that hooks on gradients are set once
        return checkpoint(partial(forward, **keywords), hidden_bsh, *positional, use_reentrant=True)

    return run


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Let gradients flow from the embeddings on, but to no weight."""
    wanted = {name: weight.requires_grad for name, weight in model.named_parameters()}
    model.requires_grad_(False)
    handle = model.get_input_embeddings().register_forward_hook(lambda *given: given[-1].requires_grad_())
    try:
        yield
    finally:
        handle.remove()
        for name, weight in model.named_parameters():
            weight.requires_grad_(wanted[name])


@contextmanager
def _hooks(
    model: PreTrainedModel, config: ModelConfig, criterion: Criterion, traced: Traced
) -> Iterator[Callable[[Batch], None]]:
    """Trace in hooks, and yield a function that says what the next batch is."""
    places: list[torch.Tensor] = []

    def begin(batch: Batch) -> None:
        places[:] = [batch.places(batch.inputs["input_ids"].shape)]

    handles = []
    for number, site in enumerate(config.sites):
        layer, attention, mlp = model.get_submodule(site.path), site.stack.attention, site.stack.mlp
        parts = []
        if attention is not None:
            parts.append((attention.output, criterion.heads, site.widths.query_heads, traced.heads))
        if mlp is not None:
            parts.append((mlp.output, criterion.neurons, site.widths.neurons, traced.neurons))
        for projection, unit, units, sums in parts:
            module = layer.get_submodule(projection.name)
            handles.append(module.register_forward_hook(_hook(projection, unit, units, places, sums, number)))
    try:
        yield begin
    finally:
        for handle in handles:
            handle.remove()


def _hook(
    projection: Projection,
    unit: Unit,
    units: int,
    places: Sequence[torch.Tensor],
    sums: dict[int, torch.Tensor],
    number: int,
) -> Callable[..., None]:
    def hook(module: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if not output.requires_grad:
            return
        inputs, (places_t,) = given[0].detach(), places

        def add(gradient: torch.Tensor) -> None:
            assert unit.trace is not None
            inputs_ti, gradients_to = (
                each.reshape(-1, each.shape[-1])[places_t].float() for each in (inputs, gradient)
            )
            found = unit.trace(inputs_ti, gradients_to, columns(module, projection), units)
            sums[number] = sums.get(number, 0) + found

        output.register_hook(add)  # type: ignore[no-untyped-call]

    return hook
