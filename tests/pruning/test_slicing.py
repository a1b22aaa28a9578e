"""Pruned must equal masked: this catches every slicing mistake."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from amp_export.architectures import (
    ModelConfig,
    find_architecture,
    parameter_count,
    supported_model_types,
)
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.errors import AmpExportError
from amp_export.options import HeadPolicy
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.saving import save_pruned
from amp_export.pruning.scores import Scores
from amp_export.pruning.scoring import score_tokens
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.slicing import prune_module
from tests.support.family_runner import PROMPTS, mask, measured_scores, run
from tests.support.forms import one_of_each_form
from tests.support.plans import make_plan
from tests.support.tiny_models import save_tiny_model

SHAPES = {
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "hidden_size": 48},
    "own keys": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8},
    "one key": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8},
}
VARIANTS = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"attention_bias": True},
    "cohere": {"use_qk_norm": True},
    # the MLP of its head stays, so that at a tiny size a single neuron would be kept of the others
    "siglip_vision_model": {"intermediate_size": 96},
}


IN_ALL_SHAPES = frozenset(one_of_each_form())


def settings(config: ModelConfig, ratio: float, policy: HeadPolicy) -> PlanSettings:
    """As fine as the family can have it."""
    return PlanSettings(ratio, heads=policy, snap=8 if config.architecture.mlp.has_experts else 1)


def shapes_of(model_type: str) -> list[str]:
    """The shapes that a family can have: one whose heads have their own keys has but one, one of each form has all."""
    if not find_architecture(model_type).field_name("num_key_value_heads"):
        return ["own keys"]
    return list(SHAPES) if model_type in IN_ALL_SHAPES else ["grouped"]


@dataclass(frozen=True)
class Dense:
    """A dense model with its scores; nothing may change it."""

    checkpoint: Checkpoint
    model: PreTrainedModel
    scores: Scores


@pytest.fixture(scope="module")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Dense]:
    """Makes the model of a family in a shape; the policies, which follow one another, share it."""

    @functools.lru_cache(maxsize=1)
    def make(model_type: str, shape: str) -> Dense:
        fields = {"num_hidden_layers": 2, **SHAPES[shape], **VARIANTS.get(model_type, {})}
        checkpoint = open_checkpoint(save_tiny_model(tmp_path_factory.mktemp("dense"), model_type, **fields))
        model = load_model(checkpoint.path)
        return Dense(checkpoint, model, measured_scores(model, checkpoint.config))

    return make


# auto would choose one of these
@pytest.mark.parametrize("policy", [HeadPolicy.GROUPS, HeadPolicy.WITHIN, HeadPolicy.NONE])
@pytest.mark.parametrize(
    ("model_type", "shape"),
    [(model_type, shape) for model_type in supported_model_types() for shape in shapes_of(model_type)],
)
def test_pruned_equals_masked_and_reloads_as_it_was(
    model_type: str,
    shape: str,
    policy: HeadPolicy,
    dense_model: Callable[[str, str], Dense],
    tmp_path: Path,
) -> None:
    dense = dense_model(model_type, shape)
    checkpoint, model, config = dense.checkpoint, dense.model, dense.checkpoint.config
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())
    unpruned = run(model, config)
    plans = []
    for ratio in (0.1, 0.25, 0.4):
        with contextlib.suppress(AmpExportError):
            plans.append(make_plan(checkpoint.raw_config, config, dense.scores, settings(config, ratio, policy)))
    for plan in plans:
        masked = run(mask(model, config, plan), config)
        pruned = prune_module(copy.deepcopy(model), config, plan)
        assert parameter_count(config, plan.widths) == sum(parameter.numel() for parameter in pruned.parameters())
        if plan is plans[-1]:
            # reloading takes half of the time, and what removes most stands for the rest
            save_pruned(tmp_path / "pruned", pruned, rewrite(checkpoint.raw_config, config, plan.widths))
            assert torch.equal(run(load_model(tmp_path / "pruned"), config), run(pruned, config))
        assert not torch.allclose(masked.float(), unpruned, atol=1e-3), "nothing was removed"
        # in float64, where no rounding can hide a mistake; but some norms compute in float32 whatever they are given
        torch.testing.assert_close(run(pruned.double(), config), masked, rtol=0, atol=1e-5)
    own_keys = config.widths.query_group == 1
    impossible = (
        (policy is HeadPolicy.WITHIN and own_keys)
        or (policy is HeadPolicy.GROUPS and config.num_key_value_heads == 1)
        or (policy is not HeadPolicy.NONE and config.architecture.heads_stay is not None)
    )
    assert bool(plans) is not impossible


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_the_checkpoints_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    load_model(save_tiny_model(tmp_path / "float32", "llama")).to(dtype).save_pretrained(tmp_path / "dense")
    dense = load_model(tmp_path / "dense")
    checkpoint = open_checkpoint(tmp_path / "dense")
    scores = score_tokens(dense, PROMPTS, checkpoint.config)
    plan = make_plan(checkpoint.raw_config, checkpoint.config, scores, PlanSettings(0.2, snap=1))
    rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths)
    pruned = prune_module(dense, checkpoint.config, plan)
    save_pruned(tmp_path / "pruned", pruned, rewritten)
    reloaded = load_model(tmp_path / "pruned")
    assert {parameter.dtype for parameter in reloaded.parameters()} == {dtype}
    assert torch.equal(run(reloaded, checkpoint.config), run(pruned, checkpoint.config))


def test_slicing_in_memory_frees_each_dense_weight(tmp_path: Path) -> None:
    import gc
    import weakref

    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama"))
    model = load_model(checkpoint.path)
    scores = score_tokens(model, PROMPTS, checkpoint.config)
    plan = make_plan(checkpoint.raw_config, checkpoint.config, scores, PlanSettings(0.2, snap=1))
    watched = [weakref.ref(layer.mlp.up_proj.weight) for layer in model.model.layers]
    prune_module(model, checkpoint.config, plan)
    gc.collect()
    assert all(reference() is None for reference in watched)
