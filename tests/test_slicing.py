"""Pruned must equal masked: this catches every slicing mistake."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny_model
from transformers import PreTrainedModel

from amp_export.architectures import ModelConfig, Projection, supported_model_types
from amp_export.architectures._layouts import ALL_KEY_HEADS, ALL_QUERY_HEADS
from amp_export.budgets import PlanSettings
from amp_export.checkpoints import open_checkpoint
from amp_export.errors import AmpExportError
from amp_export.loading import load_model
from amp_export.options import HeadPolicy
from amp_export.planning import make_plan
from amp_export.plans import LayerPlan, Plan
from amp_export.pruning import save_pruned
from amp_export.rewriting import rewrite
from amp_export.scoring import score_tokens
from amp_export.slicing import prune_module

PROMPTS = [[3, 1, 4, 1, 5], [2, 7, 1, 8, 2, 8, 1, 8], [1, 6]]
TOKENS = torch.tensor([[5, 9, 2, 6, 5, 3, 5, 8], [9, 7, 9, 3, 2, 3, 8, 4]])
SHAPES = {
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "hidden_size": 48},
    "own keys": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8},
    "one key": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8},
}
VARIANTS = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"attention_bias": True},
    "cohere": {"use_qk_norm": True},
}


def mask(model: PreTrainedModel, config: ModelConfig, plan: Plan) -> PreTrainedModel:
    """A dense copy in which removed heads contribute nothing and removed neurons never fire."""
    model = copy.deepcopy(model).double()
    attention, mlp = config.architecture.attention, config.architecture.mlp
    for module, layer in zip(model.get_submodule(config.architecture.layers), plan.layers, strict=True):
        heads = torch.zeros(config.num_attention_heads)
        heads[list(layer.query_heads)] = 1
        neurons = torch.zeros(config.intermediate_size)
        neurons[list(layer.neurons)] = 1
        _silence(module, attention.output, heads.repeat_interleave(config.head_dim))
        _silence(module, mlp.output, neurons)
        for tensor in attention.tensors:
            if tensor.axes in ((ALL_QUERY_HEADS,), (ALL_KEY_HEADS,)):
                _normalize_over_kept(module, tensor.name, config, layer)
    return model


def _normalize_over_kept(layer: torch.nn.Module, name: str, config: ModelConfig, plan: LayerPlan) -> None:
    """A norm over all heads at once divides by the mean square of those that are kept."""
    query = name.endswith("q_norm.weight")
    kept = plan.query_heads if query else plan.key_value_heads
    mask = torch.zeros(config.num_attention_heads if query else config.num_key_value_heads)
    mask[list(kept)] = 1
    layer.get_submodule("self_attn.q_proj" if query else "self_attn.k_proj").weight.data *= mask.repeat_interleave(
        config.head_dim
    )[:, None]
    layer.get_parameter(name).data *= mask.mean().sqrt()


def _silence(layer: torch.nn.Module, output: Projection, kept: torch.Tensor) -> None:
    weight = layer.get_submodule(output.name).weight
    weight.data *= kept[:, None] if output.transposed else kept


@pytest.mark.parametrize("policy", HeadPolicy)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model_type", supported_model_types())
def test_pruned_equals_masked_and_reloads_as_it_was(
    model_type: str, shape: str, policy: HeadPolicy, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type, **SHAPES[shape], **VARIANTS.get(model_type, {}))
    checkpoint = open_checkpoint(folder)
    model = load_model(folder)
    scores = score_tokens(model, PROMPTS, checkpoint.config.architecture)
    legal = 0
    for ratio in (0.1, 0.25, 0.4):
        settings = PlanSettings(ratio, heads=policy, snap=1)
        try:
            plan = make_plan(checkpoint.raw_config, checkpoint.config, scores, settings)
        except AmpExportError:
            continue
        legal += 1
        with torch.inference_mode():
            masked = mask(model, checkpoint.config, plan)(TOKENS).logits
            pruned = prune_module(copy.deepcopy(model), checkpoint.config, plan)
            in_memory = pruned(TOKENS).logits
            rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths)
            target = tmp_path / f"pruned-{ratio}"
            save_pruned(target, pruned, rewritten)
            reloaded = load_model(target)(TOKENS).logits
            in_memory_double = pruned.double()(TOKENS).logits
        assert not torch.allclose(masked.float(), model(TOKENS).logits, atol=1e-3), "nothing was removed"
        # in float64, where no rounding can hide a mistake; but some norms compute in float32 whatever they are given
        torch.testing.assert_close(in_memory_double, masked, rtol=0, atol=1e-5)
        assert torch.equal(reloaded, in_memory)
    own_keys = checkpoint.config.widths.query_group == 1
    impossible = (policy is HeadPolicy.WITHIN and own_keys) or (
        policy is HeadPolicy.GROUPS and checkpoint.config.num_key_value_heads == 1
    )
    assert legal == 0 if impossible else legal > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_the_checkpoints_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    load_model(save_tiny_model(tmp_path / "float32", "llama")).to(dtype).save_pretrained(tmp_path / "dense")
    dense = load_model(tmp_path / "dense")
    checkpoint = open_checkpoint(tmp_path / "dense")
    scores = score_tokens(dense, PROMPTS, checkpoint.config.architecture)
    plan = make_plan(checkpoint.raw_config, checkpoint.config, scores, PlanSettings(0.2, snap=1))
    rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths)
    pruned = prune_module(dense, checkpoint.config, plan)
    save_pruned(tmp_path / "pruned", pruned, rewritten)
    reloaded = load_model(tmp_path / "pruned")
    assert {parameter.dtype for parameter in reloaded.parameters()} == {dtype}
    with torch.inference_mode():
        assert torch.equal(reloaded(TOKENS).logits, pruned(TOKENS).logits)


def test_slicing_in_memory_frees_each_dense_weight(tmp_path: Path) -> None:
    import gc
    import weakref

    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama"))
    model = load_model(checkpoint.path)
    scores = score_tokens(model, PROMPTS, checkpoint.config.architecture)
    plan = make_plan(checkpoint.raw_config, checkpoint.config, scores, PlanSettings(0.2, snap=1))
    watched = [weakref.ref(layer.mlp.up_proj.weight) for layer in model.model.layers]
    prune_module(model, checkpoint.config, plan)
    gc.collect()
    assert all(reference() is None for reference in watched)
