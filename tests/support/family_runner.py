"""Steps for tests of every family: scores on a few samples, the model's output, and a masked dense model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from amp_export.architectures import Modality, ModelConfig, Projection
from amp_export.inputs.batches import Batch
from amp_export.inputs.random import compared_outputs, random_inputs
from amp_export.pruning.plan import LayerPlan, Plan
from amp_export.pruning.scores import Scores
from amp_export.pruning.scoring import score_batches, score_tokens

PROMPTS = [[3, 1, 4, 1, 5], [2, 7, 1, 8, 2, 8, 1, 8], [1, 6]]


def measured_scores(model: PreTrainedModel, config: ModelConfig) -> Scores:
    """Return scores on a few prompts, or on random images or audio."""
    if config.architecture.modality is Modality.TEXT:
        return score_tokens(model, PROMPTS, config)
    return score_batches(model, [Batch(random_inputs(config, samples=3, length=8), 3)], config)


def run(model: PreTrainedModel, config: ModelConfig) -> torch.Tensor:
    """Return all outputs for fixed inputs, one after another."""
    inputs = random_inputs(config, samples=2, length=8, dtype=model.dtype)
    if model.dtype is torch.float64 and config.architecture.mlp.has_experts:
        model.set_experts_implementation("eager")  # the fast one knows no float64
    with torch.inference_mode():
        outputs = compared_outputs(model(**inputs))
    return torch.cat([output.flatten() for output in outputs.values()])


def mask(model: PreTrainedModel, config: ModelConfig, plan: Plan) -> PreTrainedModel:
    """Return a dense copy in which removed heads and neurons contribute nothing."""
    model = copy.deepcopy(model).double()
    for site, layer in zip(config.sites, plan.layers, strict=True):
        module, attention, mlp = model.get_submodule(site.path), site.stack.attention, site.stack.mlp
        if attention is not None and len(layer.query_heads) < site.widths.query_heads:
            heads = kept_mask(layer.query_heads, config.num_attention_heads).repeat_interleave(config.head_dim)
            _silence(module, attention.output, heads)
        if mlp is not None and mlp.has_experts:
            kept_ei = torch.stack([kept_mask(each, config.intermediate_size) for each in layer.experts])
            if (shared := mlp.pruned_shared_expert) is not None:
                _silence(module, shared.output, kept_ei[-1])
                kept_ei = kept_ei[:-1]
            weights = module.get_parameter(mlp.output.name)
            weights.data *= kept_ei[..., None] if mlp.output.transposed else kept_ei[:, None]
        elif mlp is not None:
            _silence(module, mlp.output, kept_mask(layer.neurons, config.intermediate_size))
        for tensor in attention.tensors if attention is not None else ():
            if tensor.spans_heads:
                _normalize_over_kept(module, tensor.name, config, layer)
    return model


def kept_mask(kept: Sequence[int], count: int) -> torch.Tensor:
    mask = torch.zeros(count)
    mask[list(kept)] = 1
    return mask


def _normalize_over_kept(layer: Any, name: str, config: ModelConfig, plan: LayerPlan) -> None:
    """Make a norm over all heads divide by the mean square of the kept ones."""
    query = name.endswith("q_norm.weight")
    kept = plan.query_heads if query else plan.key_value_heads
    mask = kept_mask(kept, config.num_attention_heads if query else config.num_key_value_heads)
    layer.get_submodule("self_attn.q_proj" if query else "self_attn.k_proj").weight.data *= mask.repeat_interleave(
        config.head_dim
    )[:, None]
    layer.get_parameter(name).data *= mask.mean().sqrt()
    # zeros make the mean square smaller, so epsilon must shrink with it
    layer.get_submodule(name.removesuffix(".weight")).variance_epsilon *= mask.mean().item()


def _silence(layer: Any, output: Projection, kept: torch.Tensor) -> None:
    weight = layer.get_submodule(output.name).weight
    weight.data *= kept[:, None] if output.transposed else kept
