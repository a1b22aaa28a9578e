"""Proof of facts on a tiny model: pruned equals masked, with a cache and with padding, and it reloads bit for bit."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.architectures import (
    Architecture,
    Block,
    Features,
    Kind,
    LayerWidths,
    Modality,
    ModelConfig,
    Projection,
    PrunedUnit,
    Site,
)
from amp_export.discovery.tiny import Tiny
from amp_export.errors import AmpExportError, first_line
from amp_export.inputs.random import compared_outputs, random_inputs
from amp_export.pruning.plan import LayerPlan, Plan, removed_ratio
from amp_export.pruning.reload_check import Claim, expect, prove_reloads
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.saving import save_pruned
from amp_export.pruning.slicing import prune_module

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOLERANCE = 1e-5
"""Largest difference relative to the largest output: some norms compute in float32 whatever the dtype. What is wrong
differs by a tenth and more."""

_KEPT_NEURONS = 24


@dataclass(frozen=True)
class Case:
    """One case of the proof.

    Attributes:
        name: What is proved.
        prunes_heads: Whether heads are removed.
        problem: What refutes it; None if it holds.
    """

    name: str
    prunes_heads: bool
    problem: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it holds."""
        return self.problem is None


@dataclass(frozen=True)
class Proof:
    """A proof of facts, made as far as it is asked for.

    Attributes:
        tiny: A tiny model of the type.
        architecture: Its facts.
    """

    tiny: Tiny
    architecture: Architecture

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases: the comparisons, and the reloads of what holds so far."""
        return (*self.compared, *self.reloaded)

    @cached_property
    def compared(self) -> tuple[Case, ...]:
        """The cases of pruned models that must equal masked ones, one for each plan."""
        dense = self.tiny.build()
        cases = []
        for name, plan in self._plans.items():
            try:
                problem = _compare(dense, self._config, plan)
            except Exception as error:  # noqa: BLE001  a wrong fact may lead to any
                problem = f"{type(error).__name__}: {first_line(error)}"
            cases.append(Case(f"{name}: pruned equals masked", self._prunes_heads(plan), problem))
        return tuple(cases)

    @cached_property
    def reloaded(self) -> tuple[Case, ...]:
        """The cases of pruned models, written and reloaded in a process that cannot import this package."""
        claims: list[tuple[str, bool, Claim]] = []
        with tempfile.TemporaryDirectory() as scratch:
            for (name, plan), case in zip(self._plans.items(), self.compared, strict=True):
                if case.holds:
                    folder = Path(scratch) / str(len(claims))
                    claims.append((name, case.prunes_heads, self._claim(plan, folder)))
            return tuple(_reload(claims))

    @cached_property
    def _raw_config(self) -> dict[str, Any]:
        return {**self.tiny.values, "architectures": [self.tiny.class_name]}

    @cached_property
    def _config(self) -> ModelConfig:
        return ModelConfig.read(self.architecture, self._raw_config)

    @cached_property
    def _plans(self) -> dict[str, Plan]:
        return _plans(self._config)

    def _prunes_heads(self, plan: Plan) -> bool:
        pairs = zip(plan.layers, self._config.sites, strict=True)
        return any(layer.widths.query_heads < site.widths.query_heads for layer, site in pairs)

    def _claim(self, plan: Plan, folder: Path) -> Claim:
        pruned = prune_module(self.tiny.build(double=False), self._config, plan)
        rewritten = rewrite(self._raw_config, self._config, plan.widths)
        save_pruned(folder, pruned, rewritten)
        return Claim(folder, expect(pruned, self._config, None), stock=rewritten.is_stock)


def _reload(claims: Sequence[tuple[str, bool, Claim]]) -> Iterator[Case]:
    """Yield the cases of the reload: together, or one by one to find the one that fails."""
    try:
        prove_reloads([claim for *_, claim in claims])
    except AmpExportError:
        for name, heads, claim in claims:
            problem = None
            try:
                prove_reloads([claim])
            except AmpExportError as error:
                problem = " ".join(str(error).split())[-300:]
            yield Case(f"{name}: reloads bit for bit", heads, problem)
    else:
        for name, heads, _ in claims:
            yield Case(f"{name}: reloads bit for bit", heads)


def _plans(config: ModelConfig) -> dict[str, Plan]:
    """Return plans: neurons alone, heads, and layers that differ."""
    dense, kept = config.widths, _KEPT_NEURONS
    fewer = LayerWidths(dense.query_heads, dense.key_value_heads, kept)
    plans = {"fewer neurons": _plan(config, [fewer] * len(config.sites))}
    if config.architecture.heads_stay is not None:
        return plans
    if dense.key_value_heads > 1:
        groups = dense.key_value_heads - 1
        fewer = LayerWidths(groups * dense.query_group, groups, kept)
    else:
        fewer = LayerWidths(dense.query_heads - 1, 1, kept)
    plans["fewer heads"] = _plan(config, [fewer] * len(config.sites))
    differing = []
    for number, site in enumerate(config.sites):
        heads = fewer if number % 2 or site.stack.heads_tied else dense
        differing.append(LayerWidths(heads.query_heads, heads.key_value_heads, kept + 8 * (number % 3)))
    plans["layers differ"] = _plan(config, differing)
    return plans


def _plan(config: ModelConfig, widths: Sequence[LayerWidths]) -> Plan:
    """Return a plan that keeps heads and neurons from all over the layer."""
    pairs = enumerate(zip(config.sites, widths, strict=True))
    layers = [_keep(config, site, config.fit(each, site), number) for number, (site, each) in pairs]
    return Plan(tuple(layers), None, removed_ratio(config, [layer.widths for layer in layers]))


def _keep(config: ModelConfig, site: Site, widths: LayerWidths, number: int) -> LayerPlan:
    generator = np.random.default_rng(0 if site.stack.heads_tied else number)
    dense, group = site.widths, widths.query_group

    def some(count: int, of: int) -> tuple[int, ...]:
        return tuple(sorted(map(int, generator.permutation(of)[:count])))

    key_value_heads = some(widths.key_value_heads, dense.key_value_heads)
    query_heads = tuple(
        head * dense.query_group + place for head in key_value_heads for place in some(group, dense.query_group)
    )
    mlp = site.stack.mlp
    if mlp is None:
        return LayerPlan(query_heads, key_value_heads)
    if mlp.has_experts:
        experts = tuple(some(widths.neurons, dense.neurons) for _ in range(config.experts(mlp)))
        return LayerPlan(query_heads, key_value_heads, experts=experts)
    return LayerPlan(query_heads, key_value_heads, some(widths.neurons, dense.neurons))


def _compare(dense: PreTrainedModel, config: ModelConfig, plan: Plan) -> str | None:
    """Return how the pruned model differs from the dense one with what is removed masked; None if it does not."""
    import torch

    pruned, masked = prune_module(copy.deepcopy(dense), config, plan), copy.deepcopy(dense)
    with torch.no_grad(), _masked(masked, config, plan):
        for name, inputs in _inputs(config).items():
            outputs = [_real(compared_outputs(model(**inputs)), inputs) for model in (pruned, masked)]
            if (problem := _difference(*outputs)) is not None:
                return f"{name}: {problem}"
        if config.architecture.kind is Kind.DECODER and (problem := _difference(*_with_cache(pruned, config))):
            return f"a KV cache: {problem}"
    return None


def _inputs(config: ModelConfig) -> dict[str, dict[str, torch.Tensor]]:
    """Return inputs by name: without padding, and of texts with it."""
    import torch

    plain = random_inputs(config, samples=2, length=9, dtype=torch.float64)
    cases = {"two samples": plain}
    if config.architecture.modality is Modality.TEXT and config.architecture.kind is not Kind.ENCODER_DECODER:
        mask = torch.ones_like(plain["input_ids"])
        mask[1, 5:] = 0  # on the right: on the left, padding would attend to nothing, which is NaN in float64
        cases["a padded batch"] = {**plain, "attention_mask": mask}
    return cases


def _real(outputs: dict[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return outputs at real tokens: what is computed of padding may be anything."""
    if (mask := inputs.get("attention_mask")) is None:
        return outputs
    return {
        name: output[mask == 1] if output.shape[:2] == mask.shape else output[:1] for name, output in outputs.items()
    }


def _with_cache(pruned: PreTrainedModel, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a decoder computes of the last tokens, with a cache of those before and without one."""
    from amp_export.checkpoints.loading import cache_argument

    tokens = random_inputs(config, samples=2, length=9)["input_ids"]
    whole = pruned(input_ids=tokens).logits[:, 5:]
    name = str(cache_argument(pruned))
    first = pruned(input_ids=tokens[:, :5], use_cache=True)
    cache = getattr(first, name, None) if getattr(first, name, None) is not None else first.past_key_values
    parts = []
    for place in range(5, 9):
        step = pruned(input_ids=tokens[:, place : place + 1], use_cache=True, **{name: cache})
        parts.append(step.logits)
    import torch

    return {"logits": torch.cat(parts, dim=1)}, {"logits": whole}


def _difference(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    for name, wanted in expected.items():
        if not wanted.is_floating_point():
            continue
        if found[name].shape != wanted.shape:
            return f"{name} has the shape {tuple(found[name].shape)}, not {tuple(wanted.shape)}"
        error, scale = float((found[name] - wanted).abs().max()), float(wanted.abs().max())
        if not error <= _TOLERANCE * max(scale, 1e-3):
            return f"{name} differs by {error:.2g} of {scale:.2g}"
    return None


@contextmanager
def _masked(model: PreTrainedModel, config: ModelConfig, plan: Plan) -> Iterator[None]:
    """Let removed heads and neurons of a model contribute nothing; its weights are changed, too."""
    import torch

    handles = []
    for site, layer in zip(config.sites, plan.layers, strict=True):
        module, attention, mlp = model.get_submodule(site.path), site.stack.attention, site.stack.mlp
        if attention is not None and len(layer.query_heads) < site.widths.query_heads:
            entries = _entries(module, attention.output, site)
            heads = _mask(layer.query_heads, site.widths.query_heads).repeat_interleave(entries)
            handles.append(module.get_submodule(attention.output.name).register_forward_pre_hook(_multiplying(heads)))
        if mlp is not None and mlp.has_experts:
            kept_ei = torch.stack([_mask(each, site.widths.neurons) for each in layer.experts])
            if (shared := mlp.pruned_shared_expert) is not None:
                down = module.get_submodule(shared.output.name)
                handles.append(down.register_forward_pre_hook(_multiplying(kept_ei[-1])))
                kept_ei = kept_ei[:-1]
            weights = module.get_parameter(mlp.output.name)
            weights.data *= kept_ei[..., None] if mlp.output.transposed else kept_ei[:, None]
        elif mlp is not None:
            neurons = _mask(layer.neurons, site.widths.neurons)
            handles.append(module.get_submodule(mlp.output.name).register_forward_pre_hook(_multiplying(neurons)))
        if attention is not None:
            _normalize_norms(module, attention, layer, site)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entries(layer: torch.nn.Module, output: Projection, site: Site) -> int:
    weight: torch.Tensor = layer.get_submodule(output.name).weight  # type: ignore[assignment]
    return int(weight.shape[0 if output.transposed else 1]) // site.widths.query_heads


def _mask(kept: Sequence[int], count: int) -> torch.Tensor:
    import torch

    mask = torch.zeros(count, dtype=torch.float64)
    mask[list(kept)] = 1
    return mask


def _multiplying(mask: torch.Tensor) -> Any:
    def hook(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (given[0] * mask, *given[1:])

    return hook


def _normalize_norms(module: torch.nn.Module, attention: Block, plan: LayerPlan, site: Site) -> None:
    for tensor in attention.tensors:
        axis = tensor.axes[0]
        if tensor.spans_heads and isinstance(axis, Features):
            _normalize_over_kept(module, tensor.name, axis.units[0], attention.inputs, plan, site)


def _normalize_over_kept(
    layer: Any, name: str, unit: PrunedUnit, inputs: Sequence[Projection], plan: LayerPlan, site: Site
) -> None:
    """Make a norm over all heads divide by the mean square of the kept ones: removed ones are zero before it."""
    kept = plan.query_heads if unit is PrunedUnit.QUERY_HEADS else plan.key_value_heads
    mask = _mask(kept, site.widths.of(unit))
    weight, norm = layer.get_parameter(name), layer.get_submodule(name.removesuffix(".weight"))
    entries = mask.repeat_interleave(weight.numel() // len(mask))
    projection = next(each for each in inputs if each.rows is unit)
    module = layer.get_submodule(projection.name)
    module.weight.data *= entries[:, None]
    if module.bias is not None:
        module.bias.data *= entries
    weight.data *= mask.mean().sqrt()
    # zeros make the mean square smaller, so epsilon must shrink with it
    epsilon = next(each for each in ("variance_epsilon", "eps") if hasattr(norm, each))
    setattr(norm, epsilon, getattr(norm, epsilon) * mask.mean().item())
