"""Hooks on the inputs of all output and down projections, which measure importance while a model runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Block, ModelConfig, Projection, Site
from amp_export.errors import ModelError
from amp_export.inputs.batches import Batch

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    Array = np.ndarray[Any, np.dtype[np.float32]]
    Hook = Callable[[Any, tuple[torch.Tensor, ...]], None]

CHUNK_TOKENS = 512
"""Tokens per chunk of one head's contributions: small enough for the cache of a core."""


@dataclass(frozen=True)
class _Tokens:
    """Real tokens, without padding, of the input or of the decoder's part of a batch.

    Attributes:
        places: Their indices among all tokens of the batch, [real tokens].
        weights: Weight of each: one over the length of its sample, [real tokens].
        all_weights: Weights of all tokens, 0 for padding, [tokens].
    """

    places: torch.Tensor
    weights: torch.Tensor
    all_weights: torch.Tensor

    @classmethod
    def of(cls, mask_bs: torch.Tensor) -> _Tokens:
        all_weights = (mask_bs / mask_bs.sum(dim=1, keepdim=True)).flatten().float()
        places = mask_bs.flatten().nonzero().squeeze(1)
        return cls(places, all_weights[places], all_weights)


class Recorder:
    """Sums of importance, to which hooks add; leaving the context removes the hooks.

    Args:
        model: The model to observe.
        config: Its config.
    """

    def __init__(self, model: PreTrainedModel, config: ModelConfig) -> None:
        import torch

        self._handles: list[Any] = []
        self._heads: list[torch.Tensor] = []
        self._neurons: list[torch.Tensor] = []
        self._read: _Tokens | None = None
        self._written: _Tokens | None = None
        for number, site in enumerate(config.sites):
            layer = model.get_submodule(site.path)
            output = site.stack.attention.output
            self._heads.append(torch.zeros(site.widths.query_heads))
            hook = self._head_hook(number, site, output)
            self._handles.append(layer.get_submodule(output.name).register_forward_pre_hook(hook))
            self._neurons.append(self._watch_neurons(number, site, layer, config))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def begin_batch(self, batch: Batch) -> None:
        """Set which tokens of the next batch are real."""
        self._read, self._written = (
            None if mask_bs is None else _Tokens.of(mask_bs) for mask_bs in (batch.read_mask, batch.decoder_mask)
        )

    def averages(self, samples: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return the importance of heads and of neurons by layer, averaged over samples.

        Raises:
            ModelError: An activation is NaN or infinite.
        """
        for layer, (heads, neurons) in enumerate(zip(self._heads, self._neurons, strict=True)):
            if not (heads.isfinite().all() and neurons.isfinite().all()):
                raise ModelError(
                    f"Layer {layer} gives activations that are NaN or infinite, so nothing can be scored.\n"
                    "The weights are damaged, or the model overflows in its dtype: try a bfloat16 or float32 copy."
                )
        return (
            tuple((heads / samples).numpy() for heads in self._heads),
            tuple((neurons / samples).numpy() for neurons in self._neurons),
        )

    def _watch_neurons(self, number: int, site: Site, layer: torch.nn.Module, config: ModelConfig) -> torch.Tensor:
        import torch

        mlp = site.stack.mlp
        if mlp is None:
            return torch.zeros(0)
        if mlp.output.stacked is not None:
            experts = layer.get_submodule(mlp.module)
            self._handles.append(experts.register_forward_pre_hook(self._expert_hook(number, site, mlp)))
            return torch.zeros(config.size(mlp.output.stacked), site.widths.neurons)
        down = layer.get_submodule(mlp.output.name)
        self._handles.append(down.register_forward_pre_hook(self._neuron_hook(number, site)))
        return torch.zeros(site.widths.neurons)

    def _tokens(self, site: Site, hidden_bsi: torch.Tensor) -> _Tokens:
        import torch

        tokens = self._written if site.stack.is_decoder else self._read
        # without a mask all tokens are real
        return tokens if tokens is not None else _Tokens.of(torch.ones(hidden_bsi.shape[:2]))

    def _real(self, site: Site, hidden_bsi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states of the real tokens, [tokens, inner], and their weights, [tokens]."""
        tokens = self._tokens(site, hidden_bsi)
        hidden_ti = hidden_bsi.reshape(-1, hidden_bsi.shape[-1])
        return hidden_ti if len(tokens.places) == len(hidden_ti) else hidden_ti[tokens.places], tokens.weights

    def _head_hook(
        self, number: int, site: Site, output: Projection
    ) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hidden_ti, weights_t = self._real(site, inputs[0])
            weight_oi = module.weight.T if output.transposed else module.weight
            self._heads[number] += head_contributions(
                hidden_ti.float(), weight_oi.float(), weights_t, num_heads=len(self._heads[number])
            )

        return hook

    def _neuron_hook(self, number: int, site: Site) -> Hook:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hidden_ti, weights_t = self._real(site, inputs[0])
            self._neurons[number] += weights_t @ hidden_ti.abs().float()

        return hook

    def _expert_hook(self, number: int, site: Site, mlp: Block) -> Hook:
        """Return a hook that scores experts; it recomputes their activations, because no submodule receives them.

        A token counts for the experts that it is routed to, and counts as zero for all others.
        """
        (gate_up,) = mlp.inputs
        parameter = gate_up.name.rpartition(".")[2]

        def hook(experts: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hidden_th, chosen_tk = inputs[0].reshape(-1, inputs[0].shape[-1]), inputs[1]
            weights_t = self._tokens(site, inputs[0]).all_weights
            for expert, weight_ih in enumerate(getattr(experts, parameter)):
                sent = (chosen_tk == expert).any(dim=-1).nonzero().squeeze(1)
                gate_ti, up_ti = (hidden_th[sent] @ weight_ih.T).chunk(2, dim=-1)
                active_ti = (experts.act_fn(gate_ti) * up_ti).abs().float()
                self._neurons[number][expert] += weights_t[sent] @ active_ti

        return hook


def head_contributions(
    hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, *, num_heads: int
) -> torch.Tensor:
    """Return the weighted sum over tokens of the L1 norm of each head's contribution to the residual stream.

    Heads and chunks of tokens are processed one at a time: [tokens, heads, hidden] would not fit in memory.

    Args:
        hidden_ti: The output projection's input, [tokens, num_heads * head_dim].
        weight_oi: Its weight, [hidden_size, num_heads * head_dim].
        weights_t: Weight of each token, [tokens].
        num_heads: Number of query heads.

    Returns:
        Sums by head, [num_heads].
    """
    import torch

    totals = torch.zeros(num_heads)
    chunks = max(1, math.ceil(len(hidden_ti) / CHUNK_TOKENS))
    for chunk_ti, chunk_weights_t in zip(hidden_ti.chunk(chunks), weights_t.chunk(chunks), strict=True):
        contribution_to = chunk_ti.new_empty(len(chunk_ti), len(weight_oi))
        heads = zip(chunk_ti.chunk(num_heads, dim=1), weight_oi.chunk(num_heads, dim=1), strict=True)
        for head, (head_td, weight_od) in enumerate(heads):
            torch.mm(head_td, weight_od.T, out=contribution_to)
            totals[head] += chunk_weights_t @ torch.linalg.vector_norm(contribution_to, ord=1, dim=1)
    return totals
