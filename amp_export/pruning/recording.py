"""Hooks on the inputs of all output and down projections, which measure what a criterion asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Block, ModelConfig, Projection, Site
from amp_export.errors import ModelError
from amp_export.inputs.batches import Batch
from amp_export.pruning.compensation.streams import token_power
from amp_export.pruning.criteria._criterion import Evidence

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from amp_export.pruning.criteria._criterion import Criterion
    from amp_export.pruning.gradients import Traced

    Array = np.ndarray[Any, np.dtype[np.float32]]
    Hook = Callable[[Any, tuple[torch.Tensor, ...]], None]


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


@dataclass(frozen=True)
class Judged:
    """What a criterion says of a layer.

    Attributes:
        heads: Importance of its heads, [num_attention_heads].
        neurons: Importance of its neurons, [neurons] or [experts, neurons].
        channel_spread: Standard deviation over the channels of all heads, if the criterion has one.
    """

    heads: Array
    neurons: Array
    channel_spread: float | None = None


class Recorder:
    """Sums of what a criterion measures, to which hooks add; leaving the context removes the hooks.

    Args:
        model: The model to observe.
        config: Its config.
        criterion: What to measure.
    """

    def __init__(self, model: PreTrainedModel, config: ModelConfig, criterion: Criterion) -> None:
        self._model, self._config, self._criterion = model, config, criterion
        self._handles: list[Any] = []
        self._heads: dict[int, torch.Tensor] = {}
        self._neurons: dict[tuple[int, int], torch.Tensor] = {}
        self._weights: dict[int, float] = {}
        self._waiting: list[Callable[[torch.Tensor], None]] = []
        self._read: _Tokens | None = None
        self._written: _Tokens | None = None
        for number, site in enumerate(config.sites):
            layer, attention, mlp = model.get_submodule(site.path), site.stack.attention, site.stack.mlp
            if attention is not None:
                output = layer.get_submodule(attention.output.name)
                self._handles.append(output.register_forward_pre_hook(self._head_hook(number, site, attention.output)))
            if mlp is not None and mlp.has_experts:
                experts = layer.get_submodule(mlp.module)
                self._handles.append(experts.register_forward_pre_hook(self._expert_hook(number, site, mlp)))
                if (shared := mlp.pruned_shared_expert) is not None:
                    hook = self._neuron_hook(number, site, shared.output, expert=config.experts(mlp) - 1)
                    self._handles.append(layer.get_submodule(shared.output.name).register_forward_pre_hook(hook))
            elif mlp is not None:
                down = layer.get_submodule(mlp.output.name)
                self._handles.append(down.register_forward_pre_hook(self._neuron_hook(number, site, mlp.output)))
            if criterion.relative:
                self._handles.append(layer.register_forward_hook(self._relative_hook(number, site)))

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

    def judge(self, number: int, samples: int, traced: Traced | None = None) -> Judged:
        """Return the importance of a layer's heads and of its neurons, and forget what was measured of them.

        Args:
            number: Number of the layer.
            samples: Number of samples, over which the mean is taken, unless tokens weigh relatively.
            traced: What was traced of gradients, if it was.

        Raises:
            ModelError: An activation is NaN or infinite.
        """
        site = self._config.sites[number]
        layer = self._model.get_submodule(site.path)
        divisor = self._weights.pop(number) if self._criterion.relative else float(samples)
        heads, spread = self._judge_heads(layer, number, site, divisor, traced)
        neurons = self._judge_neurons(layer, number, site, divisor, traced)
        for judged in (heads, neurons, *([] if spread is None else [spread])):
            _check_finite(number, judged)
        return Judged(heads.cpu().numpy(), neurons.cpu().numpy(), None if spread is None else float(spread))

    def _judge_heads(
        self, layer: torch.nn.Module, number: int, site: Site, divisor: float, traced: Traced | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the importance of a layer's heads, [num_attention_heads], and the spread over their channels."""
        import torch

        attention, rule = site.stack.attention, self._criterion.heads
        if attention is None:
            return torch.zeros(0), None if rule.spread is None else torch.zeros(())
        measured = self._heads.pop(number) / divisor
        _check_finite(number, measured)
        weight_oi = columns(layer.get_submodule(attention.output.name), attention.output)
        known = None if traced is None else traced.heads[number]
        evidence = Evidence(measured, weight_oi, site.widths.query_heads, known)
        return rule.judge(evidence), None if rule.spread is None else rule.spread(evidence)

    def _judge_neurons(
        self, layer: torch.nn.Module, number: int, site: Site, divisor: float, traced: Traced | None
    ) -> torch.Tensor:
        """Return the importance of a layer's neurons, [neurons] or [experts, neurons]."""
        import torch

        mlp, judge, width = site.stack.mlp, self._criterion.neurons.judge, site.widths.neurons
        if mlp is None:
            return torch.zeros(0)
        if not mlp.has_experts:
            measured = self._neurons.pop((number, 0)) / divisor
            _check_finite(number, measured)
            known = None if traced is None else traced.neurons[number]
            return judge(Evidence(measured, columns(layer.get_submodule(mlp.output.name), mlp.output), width, known))
        weights = [*stacked_columns(layer, mlp.output, mlp.output.name).float()]
        if (shared := mlp.pruned_shared_expert) is not None:
            weights.append(columns(layer.get_submodule(shared.output.name), shared.output))
        return torch.stack(
            [
                judge(Evidence(self._neurons.pop((number, expert)) / divisor, weight_oi, width))
                for expert, weight_oi in enumerate(weights)
            ]
        )

    def _tokens(self, site: Site, hidden_bsi: torch.Tensor) -> _Tokens:
        import torch

        tokens = self._written if site.stack.is_decoder else self._read
        # without a mask all tokens are real
        return tokens if tokens is not None else _Tokens.of(torch.ones(hidden_bsi.shape[:2], device=hidden_bsi.device))

    def _real(self, site: Site, hidden_bsi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states of the real tokens, [tokens, inner], and their weights, [tokens]."""
        tokens = self._tokens(site, hidden_bsi)
        hidden_ti = hidden_bsi.reshape(-1, hidden_bsi.shape[-1])
        return hidden_ti if len(tokens.places) == len(hidden_ti) else hidden_ti[tokens.places], tokens.weights

    def _head_hook(self, number: int, site: Site, output: Projection) -> Hook:
        heads = site.widths.query_heads

        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hidden_ti, weights_t = self._real(site, inputs[0])

            def add(weights_t: torch.Tensor) -> None:
                measured = self._criterion.heads.measure(hidden_ti.float(), columns(module, output), weights_t, heads)
                self._heads[number] = self._heads.get(number, 0) + measured

            self._weigh(weights_t, add)

        return hook

    def _neuron_hook(self, number: int, site: Site, down: Projection, *, expert: int = 0) -> Hook:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hidden_ti, weights_t = self._real(site, inputs[0])

            def add(weights_t: torch.Tensor) -> None:
                self._add_neurons(number, expert, hidden_ti, columns(module, down), weights_t)

            self._weigh(weights_t, add)

        return hook

    def _weigh(self, weights_t: torch.Tensor, add: Callable[[torch.Tensor], None]) -> None:
        """Add tokens with their weights, at once or as soon as these are known."""
        if self._criterion.relative:
            self._waiting.append(add)
        else:
            add(weights_t)

    def _relative_hook(self, number: int, site: Site) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            # AltUp keeps several streams: arXiv 2301.13310
            stream_bsh = stream.movedim(0, -2).flatten(-2) if stream.ndim == 4 else stream
            stream_th, weights_t = self._real(site, stream_bsh)
            weights_t = weights_t / token_power(stream_th)
            self._weights[number] = self._weights.get(number, 0.0) + float(weights_t.sum())
            for add in self._waiting:
                add(weights_t)
            self._waiting.clear()

        return hook

    def _expert_hook(self, number: int, site: Site, mlp: Block) -> Hook:
        """Return a hook that measures experts; it recomputes their activations, because no submodule receives them.

        A token counts for the experts that it is routed to, and counts as zero for all others.
        """
        (gate_up,) = mlp.inputs
        into, out_of = (projection.name.rpartition(".")[2] for projection in (gate_up, mlp.output))
        biased = gate_up.bias is not False

        def hook(experts: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            weights_t = self._tokens(site, inputs[0]).all_weights
            weights, weights_eoi = getattr(experts, into), stacked_columns(experts, mlp.output, out_of)
            for expert, (weight, weight_oi) in enumerate(zip(weights, weights_eoi, strict=True)):
                places, hidden_th = _sent(mlp, inputs, expert, len(weights))
                made_ti = hidden_th @ (weight if gate_up.transposed else weight.T)
                if biased:
                    made_ti = made_ti + getattr(experts, f"{into}_bias")[expert]
                self._add_neurons(number, expert, _gated(experts, made_ti), weight_oi.float(), weights_t[places])

        return hook

    def _add_neurons(
        self, number: int, expert: int, hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor
    ) -> None:
        measured = self._criterion.neurons.measure(hidden_ti.float(), weight_oi, weights_t, hidden_ti.shape[1])
        self._neurons[number, expert] = self._neurons.get((number, expert), 0) + measured


def _sent(mlp: Block, given: Sequence[torch.Tensor], expert: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which tokens an expert is sent, [sent], and their hidden states, [sent, hidden]: `Block.scales_inputs`.

    Args:
        mlp: The experts' facts.
        given: What their module is given.
        expert: Number of the expert.
        count: Number of experts.
    """
    hidden_th = given[0].reshape(-1, given[0].shape[-1])
    if mlp.scales_inputs:
        hidden_th = hidden_th.chunk(count)[expert]
        is_sent = hidden_th.any(dim=-1)  # the router's weights for all others are zero
    else:
        is_sent = (given[1] == expert).any(dim=-1)
    places = is_sent.nonzero().squeeze(1)
    return places, hidden_th[places]


def _gated(experts: Any, made_ti: torch.Tensor) -> torch.Tensor:
    """Return the activations of an expert from what its first projection makes, [tokens, neurons]."""
    # what `use_experts_implementation` gives every class of experts: `integrations/moe.py`, transformers 5.24
    if hasattr(experts, "_apply_gate"):
        gated_ti: torch.Tensor = experts._apply_gate(made_ti)
        return gated_ti
    # `Llama4TextExperts.forward` gates them itself: `modeling_llama4.py`, transformers 5.24
    gate_ti, up_ti = made_ti.chunk(2, dim=-1)
    product_ti: torch.Tensor = up_ti * experts.act_fn(gate_ti)
    return product_ti


def _check_finite(number: int, values: torch.Tensor) -> None:
    if not values.isfinite().all():
        raise ModelError(
            f"Layer {number} gives activations that are NaN or infinite, so nothing can be scored.\n"
            "The weights are damaged, or the model overflows in its dtype: try a bfloat16 or float32 copy."
        )


def stacked_columns(module: torch.nn.Module, projection: Projection, name: str) -> torch.Tensor:
    """Return a stacked projection's weights, [experts, outputs, inputs], by its name in a module."""
    weights = module.get_parameter(name).detach()
    return weights.transpose(1, 2) if projection.transposed else weights


def columns(module: Any, projection: Projection) -> torch.Tensor:
    """Return a projection's weight in float32, [outputs, inputs]."""
    weight: torch.Tensor = module.weight.T if projection.transposed else module.weight
    return weight.detach().float()
