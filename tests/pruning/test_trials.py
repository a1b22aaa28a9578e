"""Plans that are tried out as a whole."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.inputs.batches import batches, text_batch
from amp_export.options import Allocation, CriterionName, HeadPolicy, PerLayer
from amp_export.pruning.plan import removed_ratio
from amp_export.pruning.planning import list_plans
from amp_export.pruning.predictions import POSITION_STEP
from amp_export.pruning.scores import Sensitivity
from amp_export.pruning.scoring import score_tokens
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.trials import try_plans
from tests.support.family_runner import mask
from tests.support.plans import make_plan
from tests.support.tiny_models import save_tiny_model

RATIO = 0.15
DIFFERING = PlanSettings(
    RATIO,
    allocation=Allocation.KL,
    snap=1,
    heads_per_layer=PerLayer.GLOBAL,
    neurons_per_layer=PerLayer.GLOBAL,
)
ALIKE = PlanSettings(RATIO, allocation=Allocation.KL, snap=1)


@pytest.mark.parametrize("settings", [DIFFERING, ALIKE], ids=["differing", "alike"])
@pytest.mark.parametrize("model_type", ["llama", "falcon", "gemma2", "gpt2"])
def test_a_trial_is_the_divergence_of_the_masked_model(model_type: str, settings: PlanSettings, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", model_type))
    checkpoint = open_checkpoint(tmp_path / "dense")
    config, drawn = checkpoint.config, np.random.default_rng(0)
    token_ids = [drawn.integers(4, 101, size=drawn.integers(5, 15)).tolist() for _ in range(5)]
    scores = score_tokens(model, token_ids, config, criterion=CriterionName.OBS)
    layers = len(config.sites)
    sensitivity = Sensitivity(16, tuple(drawn.exponential(size=layers)), tuple(drawn.exponential(size=layers)))
    scores = replace(scores, sensitivity=sensitivity)
    plans = list_plans(checkpoint.raw_config, config, scores, settings)
    assert plans[0] == make_plan(checkpoint.raw_config, config, scores, settings)
    assert len({plan.widths for plan in plans}) == len(plans)
    assert len(plans) > 1 or settings is ALIKE or config.num_key_value_heads == 1
    for plan in plans:
        assert removed_ratio(config, plan.widths) == pytest.approx(RATIO, abs=0.01)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = [text_batch(model, config, *padded) for padded in batches(token_ids, 40)]
    found = try_plans(model, config, plans, prepared)
    step = POSITION_STEP if "logits_to_keep" in inspect.signature(model.forward).parameters else 1
    dense_tv = log_probabilities(model, token_ids, step)
    for plan, divergence in zip(plans, found, strict=True):
        masked_tv = log_probabilities(mask(model, config, plan), token_ids, step)
        expected = (dense_tv.exp() * (dense_tv - masked_tv)).sum(dim=1).mean()
        assert divergence == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    # the model is as it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def log_probabilities(model: torch.nn.Module, token_ids: list[list[int]], step: int) -> torch.Tensor:
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0, ::step] for ids in token_ids]
    return torch.cat(logits).double().log_softmax(dim=1)


def test_without_groups_to_remove_no_plan_differs_by_their_price(tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", "llama"))
    checkpoint = open_checkpoint(tmp_path / "dense")
    scores = score_tokens(model, [[5, 6, 7, 8, 9]], checkpoint.config, criterion=CriterionName.WANDA)
    scores = replace(scores, sensitivity=Sensitivity(16, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0)))
    settings = replace(DIFFERING, heads=HeadPolicy.NONE)
    [plan] = list_plans(checkpoint.raw_config, checkpoint.config, scores, settings)
    assert all(widths.key_value_heads == checkpoint.config.num_key_value_heads for widths in plan.widths)
