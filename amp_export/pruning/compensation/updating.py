"""Prune a model layer after layer, and fit each output and down projection to the dense model's residual stream.

For each layer, on hidden states that are kept for all batches:

1. run the dense layer on the dense stream, and keep what attention and MLP add to it;
2. slice the layer; fit the attention's output projection on the pruned stream, so that the stream after it is nearest
   to the dense one; then the MLP's down projection, on what the updated attention gives;
3. run the pruned layer on the pruned stream.

Errors of earlier layers are thus made up for by later ones. The dense stream is the target wherever a projection's
output is added to it as it is; where a norm lies between (Gemma 2, OLMo 2), and in encoders, the target is the dense
projection's own output. Each token weighs as one over the squared norm of its hidden state, because the next norm
divides by it: in SmolLM2-135M, the first token of a text has a norm of 23,700 from layer 12 on, and would outweigh the
rest. The idea is that of ZipLM and OSSCAR (arXiv 2302.04089 and 2403.12983), with targets of our own choice.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from amp_export.pruning.compensation.chains import Chain, ChainLayer, chains_of, encoder_states, record_chains
from amp_export.pruning.compensation.least_squares import Moments, fit
from amp_export.pruning.compensation.results import Compensation, Update
from amp_export.pruning.compensation.shortcuts import Shortcut, find_shortcut, skipped
from amp_export.pruning.compensation.streams import LayerCall, StreamBatch, run_layer, token_power, watch
from amp_export.pruning.slicing import prune_layer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import Block, LayerWidths, ModelConfig, Projection
    from amp_export.inputs.batches import Batch
    from amp_export.pruning.plan import Plan

HOLD_OUT = 5
"""Every fifth row of the batches chooses the ridges."""


def prune_and_compensate(
    model: PreTrainedModel,
    config: ModelConfig,
    plan: Plan,
    batches: Sequence[Batch],
    *,
    widths: Sequence[LayerWidths] | None = None,
    origin: str = "unknown",
    on_layer: Callable[[int, torch.nn.Module], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Compensation:
    """Resize the layers of a model in memory, as `prune_module` does, and update what is kept.

    Args:
        model: The dense model, which is changed.
        config: Its config.
        plan: Heads and neurons that each layer keeps.
        batches: Text to fit on.
        widths: Widths of the layers if they are zero-padded; by default the widths of the plan.
        origin: Description of the samples, for the result.
        on_layer: Called with the number of each layer and the layer, once it is final.
        on_progress: Called with the number of layers done and the total.
    """
    started = time.perf_counter()
    chains = chains_of(config)
    recorded = record_chains(model, config, chains, batches)
    pruning = _Pruning(model, config, plan, widths, on_layer, on_progress)
    lanes: list[_Lane] = []
    for place, chain in enumerate(chains):
        encoded, lanes = lanes, _start_lanes([each.streams[place] for each in recorded])
        if chain.is_decoder:
            for lane, encoder_lane, each in zip(lanes, encoded, recorded, strict=True):
                lane.dense_calls, lane.pruned_calls = (
                    each.with_states(lane.batch, encoder_states(model, chains[0], each, hidden_bsh)).calls
                    for hidden_bsh in (encoder_lane.dense_bsh, encoder_lane.pruned_bsh)
                )
        pruning.run(chain, lanes)
    taken = (time.perf_counter() - started) / pruning.dense_seconds
    return Compensation(tuple(pruning.updates), taken, origin)


class _Pruning:
    """Prunes the layers of chains, and fits what is kept.

    Attributes:
        updates: The projections that were fitted so far.
        dense_seconds: Time of the dense layers so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: ModelConfig,
        plan: Plan,
        widths: Sequence[LayerWidths] | None,
        on_layer: Callable[[int, torch.nn.Module], None] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._model, self._config, self._plan, self._widths = model, config, plan, widths
        self._on_layer, self._on_progress = on_layer, on_progress
        self._factors = _stream_factors(config)
        self._shortcuts: dict[tuple[type, tuple[str, ...]], list[Shortcut]] = {}
        self._done = 0
        self.updates: list[Update] = []
        self.dense_seconds = 0.0

    def run(self, chain: Chain, lanes: Sequence[_Lane]) -> None:
        """Prune the layers of a chain, one after the other."""
        for place, each in enumerate(chain.layers):
            mixing, mlps = list(each.mixing(self._config)), list(each.fitted_mlps(self._config))
            blocks = [block for _, block in (*mixing, *mlps)]
            self._run_dense(each.path, lanes, place, [block.output.name for block in blocks])
            for number in each.sites:
                layer = prune_layer(self._model, self._config, self._plan, number, widths=self._widths)
            shortcuts = self._find_shortcuts(layer, blocks, lanes[0])
            for number, block in mixing:
                stack = self._config.sites[number].stack
                if block is stack.attention:
                    beside = [] if stack.mixer is None else [stack.mixer.output.name]
                    fitted = _update_attention(layer, block.output, beside, number, lanes, self._factors)
                    self.updates.append(fitted)
            names = [block.output.name for _, block in mixing]
            for number, block in mlps:
                fitted = _update_mlp(layer, block.output, names, number, lanes, self._factors, shortcuts)
                self.updates.append(fitted)
            for lane in lanes:
                with skipped(layer, lane.take_known(shortcuts)):
                    lane.pruned_bsh = run_layer(layer, lane.pruned_bsh, lane.pruned_call)
            self._finish(each, layer)

    def _run_dense(self, path: str, lanes: Sequence[_Lane], place: int, outputs: Sequence[str]) -> None:
        dense = copy.deepcopy(self._model.get_submodule(path))
        began = time.perf_counter()
        for lane in lanes:
            lane.run_dense(dense, outputs, place)
        self.dense_seconds += time.perf_counter() - began

    def _find_shortcuts(self, layer: torch.nn.Module, blocks: Sequence[Block], lane: _Lane) -> list[Shortcut]:
        """Return the shortcuts of a layer's blocks, which are looked for once in layers of a kind."""
        kind = type(layer), tuple(block.module for block in blocks)
        if kind not in self._shortcuts:
            found = (find_shortcut(layer, block, lane.pruned_bsh, lane.pruned_call) for block in blocks)
            self._shortcuts[kind] = [shortcut for shortcut in found if shortcut is not None]
        return self._shortcuts[kind]

    def _finish(self, chain_layer: ChainLayer, layer: torch.nn.Module) -> None:
        for number in chain_layer.sites:
            self._done += 1
            if self._on_layer is not None:
                self._on_layer(number, layer)
            if self._on_progress is not None:
                self._on_progress(self._done, len(self._config.sites))


class _Lane:
    """One batch on its way through the layers: the dense stream and the pruned one.

    Attributes:
        batch: The batch.
        held_out_t: Which of its real tokens choose the ridges, [tokens].
        dense_calls: Arguments of the dense layers.
        pruned_calls: Arguments of the pruned layers, which differ in what a decoder reads of its encoder.
        dense_bsh: The dense stream, [batch, sequence, hidden].
        pruned_bsh: The pruned stream.
        apart_th: By how much the dense stream exceeds the pruned one before the layer, [tokens, hidden].
        pruned_call: Arguments of the layer that is pruned now.
        given_th: Outputs of the dense layer's projections, by name, [tokens, hidden].
        weights_t: Weight of each token, [tokens].
        inputs: Inputs of the projections that were fitted, by name, [batch, sequence, inputs].
    """

    apart_th: torch.Tensor
    pruned_call: LayerCall
    given_th: dict[str, torch.Tensor]
    weights_t: torch.Tensor

    def __init__(self, batch: StreamBatch, held_out_t: torch.Tensor) -> None:
        self.batch, self.held_out_t = batch, held_out_t
        self.dense_calls = self.pruned_calls = batch.calls
        self.dense_bsh = self.pruned_bsh = batch.hidden_bsh
        self.inputs: dict[str, torch.Tensor] = {}

    def known(self, shortcuts: Sequence[Shortcut]) -> list[tuple[Shortcut, torch.Tensor]]:
        """Return the shortcuts of blocks whose projections' inputs are known, with these."""
        return [(each, self.inputs[name]) for each in shortcuts if (name := each.block.output.name) in self.inputs]

    def take_known(self, shortcuts: Sequence[Shortcut]) -> list[tuple[Shortcut, torch.Tensor]]:
        """Do the same, and forget the inputs."""
        known = self.known(shortcuts)
        self.inputs.clear()
        return known

    def run_dense(self, layer: torch.nn.Module, outputs: Sequence[str], place: int) -> None:
        """Run the dense layer on the dense stream, and keep what its projections give."""
        seen = watch(layer, self.dense_bsh, self.dense_calls[place], outputs=outputs)
        self.apart_th = self.batch.real(self.dense_bsh).float() - self.batch.real(self.pruned_bsh).float()
        self.given_th = {name: self.batch.real(seen[f"{name}.output"]).float() for name in outputs}
        self.dense_bsh, self.pruned_call = seen["output"], self.pruned_calls[place]
        self.weights_t = 1 / token_power(self.batch.real(self.dense_bsh))

    def target(
        self, output: str, seen: Mapping[str, torch.Tensor], others: Sequence[str], factors: Mapping[str, float] | None
    ) -> torch.Tensor:
        """Return what a projection of the pruned layer should give, [tokens, hidden].

        Args:
            output: Its name.
            seen: Outputs of the pruned layer's projections, as `watch` returns them.
            others: Names of those that are added to the stream before or beside it.
            factors: See `_stream_factors`.
        """
        if factors is None:
            return self.given_th[output]
        apart_th = self.apart_th
        for name in others:
            apart_th = apart_th + factors[name] * (self.given_th[name] - self.batch.real(seen[f"{name}.output"]))
        return self.given_th[output] + apart_th / factors[output]


def _start_lanes(batches: Sequence[StreamBatch]) -> list[_Lane]:
    rows = sum(len(batch.hidden_bsh) for batch in batches)
    hold_out = min(HOLD_OUT, rows)
    first, lanes = 0, []
    for batch in batches:
        rows_t = first + batch.places_t // batch.hidden_bsh.shape[1]
        lanes.append(_Lane(batch, rows_t % hold_out == hold_out - 1))
        first += len(batch.hidden_bsh)
    return lanes


def _stream_factors(config: ModelConfig) -> Mapping[str, float] | None:
    """Return what the output of each block is multiplied by before it is added to the stream, by its projection's name.

    Returns:
        The multipliers; None if they are no numbers, or not known.
    """
    computation = config.architecture.computation
    if computation is None:
        return None
    if config.order.after_attention is not None or config.order.after_mlp is not None:
        return None
    shared = config.factor(computation.residual_factor)
    outputs = [block.output for stack in config.architecture.stacks for block in stack.all_blocks]
    return {output.name: shared * math.prod(config.write_factors(output)) for output in outputs}


def _update_attention(
    layer: torch.nn.Module,
    output: Projection,
    beside: Sequence[str],
    number: int,
    lanes: Sequence[_Lane],
    factors: Mapping[str, float] | None,
) -> Update:
    """Fit the output projection of an attention.

    Args:
        layer: The pruned layer.
        output: The projection.
        beside: Names of the output projections of what else mixes tokens, and is not fitted.
        number: Number of the plan's entry.
        lanes: The batches.
        factors: See `_stream_factors`.
    """
    fitting = _Fitting(layer, output)
    names = [output.name, *beside]
    for lane in lanes:
        # what is beside may run after the attention
        until = None if beside else output.name
        seen = watch(layer, lane.pruned_bsh, lane.pruned_call, inputs=names, outputs=beside, until=until)
        lane.inputs.update({name: seen[f"{name}.input"] for name in names})
        target_th = lane.target(output.name, seen, beside, factors)
        fitting.add(lane, lane.batch.real(lane.inputs[output.name]), target_th)
    return fitting.update(number)


def _update_mlp(
    layer: torch.nn.Module,
    down: Projection,
    mixing: Sequence[str],
    number: int,
    lanes: Sequence[_Lane],
    factors: Mapping[str, float] | None,
    shortcuts: Sequence[Shortcut],
) -> Update:
    """Fit the down projection of an MLP, after the projections of what mixes tokens: see `_update_attention`."""
    fitting = _Fitting(layer, down)
    for lane in lanes:
        with skipped(layer, lane.known(shortcuts)):
            seen = watch(layer, lane.pruned_bsh, lane.pruned_call, inputs=[down.name], outputs=mixing)
        lane.inputs[down.name] = seen[f"{down.name}.input"]
        target_th = lane.target(down.name, seen, mixing, factors)
        fitting.add(lane, lane.batch.real(lane.inputs[down.name]), target_th)
    return fitting.update(number)


class _Fitting:
    """The fit of one projection, with its bias as the weight of a constant input."""

    def __init__(self, layer: torch.nn.Module, projection: Projection) -> None:
        self._name = projection.name
        parameters = dict(layer.get_submodule(projection.name).named_parameters(recurse=False))
        weight, bias = parameters["weight"].detach(), parameters.get("bias")
        # views, through which the parameters are written
        self._weight_oi = weight.T if projection.transposed else weight
        self._bias_o = None if bias is None else bias.detach()
        outputs, inputs = self._weight_oi.shape
        inputs += self._bias_o is not None
        self._training, self._held_out = (Moments.none(inputs, outputs, device=weight.device) for _ in range(2))

    def add(self, lane: _Lane, inputs_ti: torch.Tensor, targets_to: torch.Tensor) -> None:
        """Add the tokens of a batch."""
        import torch

        if self._bias_o is not None:
            inputs_ti = torch.cat((inputs_ti, inputs_ti.new_ones(len(inputs_ti), 1)), dim=1)
        for moments, chosen_t in ((self._training, ~lane.held_out_t), (self._held_out, lane.held_out_t)):
            moments.add(inputs_ti[chosen_t], targets_to[chosen_t], lane.weights_t[chosen_t])

    def update(self, layer: int) -> Update:
        """Write the fitted weight and bias into the module."""
        import torch

        weight_oi = self._weight_oi
        if self._bias_o is not None:
            weight_oi = torch.cat((weight_oi, self._bias_o[:, None]), dim=1)
        found = fit(self._training, self._held_out, weight_oi, free=0 if self._bias_o is None else 1)
        if found.ridge is not None:
            self._weight_oi.copy_(found.weight_oi[:, : self._weight_oi.shape[1]])
            if self._bias_o is not None:
                self._bias_o.copy_(found.weight_oi[:, -1])
        tokens = self._training.tokens + self._held_out.tokens
        return Update(layer, self._name, len(weight_oi.T), tokens, found.ridge, found.before, found.after)
