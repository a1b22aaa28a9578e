"""Allocation by what removing a part of each layer costs."""

from __future__ import annotations

import copy
import inspect
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import PlanError, RatioError
from amp_export.inputs.batches import batches, text_batch
from amp_export.options import Allocation, CriterionName, HeadPolicy, PerLayer
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.divergence import LayerCosts, cheapest_widths, check_measurable, layer_costs, widths_cost
from amp_export.pruning.plan import removed_ratio
from amp_export.pruning.predictions import POSITION_STEP
from amp_export.pruning.scores import Scores
from amp_export.pruning.scoring import score_tokens
from amp_export.pruning.sensitivity import least, measure_sensitivity
from amp_export.pruning.settings import PlanSettings
from tests.support.plans import make_plan
from tests.support.tiny_models import BUILDABLE, TINY_CONFIG, family_fields, save_tiny_model

GLOBAL = {"heads_per_layer": PerLayer.GLOBAL, "neurons_per_layer": PerLayer.GLOBAL}


def settings_of(ratio: float, **choices: object) -> PlanSettings:
    return PlanSettings(ratio, allocation=Allocation.KL, criterion=CriterionName.WANDA, snap=8, **choices)


def tiny_config(**overrides: object) -> ModelConfig:
    return ModelConfig.read(find_architecture("llama"), {**family_fields("llama", TINY_CONFIG), **overrides})


@pytest.mark.parametrize("model_type", ["llama", "falcon", "gemma2", "gpt2", "granite"])
def test_a_divergence_is_that_of_the_model_with_a_part_silenced(model_type: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", model_type))
    config = open_checkpoint(tmp_path / "dense").config
    drawn = np.random.default_rng(0)
    token_ids = [drawn.integers(4, 101, size=drawn.integers(5, 15)).tolist() for _ in range(5)]
    scores = score_tokens(model, token_ids, config, criterion=CriterionName.WANDA)
    prepared = [text_batch(model, config, *padded) for padded in batches(token_ids, 40)]
    found = measure_sensitivity(model, config, scores, prepared)
    step = POSITION_STEP if "logits_to_keep" in inspect.signature(model.forward).parameters else 1
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def log_probabilities(changed: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            logits = [changed(torch.tensor([ids])).logits[0, ::step] for ids in token_ids]
        return torch.cat(logits).double().log_softmax(dim=1)

    dense_tv = log_probabilities(model)
    for number, site in enumerate(config.sites):
        assert site.stack.mlp is not None
        group = least(scores.heads[number].reshape(config.num_key_value_heads, -1).sum(axis=1), 1)[0]
        width = config.widths.query_group * config.head_dim
        for projection, silent, divergence in (
            (site.stack.mlp.output, list(least(scores.neurons[number], found.silenced)), found.neurons[number]),
            (site.stack.attention.output, list(range(group * width, (group + 1) * width)), found.groups[number]),
        ):
            changed = copy.deepcopy(model)
            weight = changed.get_submodule(site.path).get_parameter(f"{projection.name}.weight").data
            (weight.T if projection.transposed else weight)[:, silent] = 0
            other_tv = log_probabilities(changed)
            expected = (dense_tv.exp() * (dense_tv - other_tv)).sum(dim=1).mean()
            assert divergence == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    # the model is as it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(log_probabilities(model), dense_tv)


def random_costs(config: ModelConfig, seed: int) -> list[LayerCosts]:
    drawn = np.random.default_rng(seed)
    return [
        LayerCosts(
            *(
                np.concatenate(([0.0], np.cumsum(np.sort(drawn.exponential(scale, size=count)))))
                for count, scale in (
                    (config.intermediate_size, drawn.exponential()),
                    (config.num_key_value_heads - 1, 20),
                )
            )
        )
        for _ in range(config.num_hidden_layers)
    ]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31), ratio=st.floats(0.02, 0.3), heads=st.sampled_from([HeadPolicy.NONE, HeadPolicy.AUTO])
)
def test_no_other_widths_within_the_budget_cost_less(seed: int, ratio: float, heads: HeadPolicy) -> None:
    config = tiny_config()
    costs, asked = random_costs(config, seed), settings_of(ratio, heads=heads, **GLOBAL)
    found = cheapest_widths(config, costs, asked)
    assert removed_ratio(config, found) >= ratio - 1e-9
    dense, parameters = config.widths, ModelCosts.of(config)
    # two thirds of the neurons and one of two groups may go
    options = [
        replace(dense, neurons=neurons, key_value_heads=groups, query_heads=groups * dense.query_group)
        for neurons in range(16, 49, 8)
        for groups in ((2,) if heads is HeadPolicy.NONE else (1, 2))
    ]
    legal = (
        widths
        for widths in itertools.product(options, repeat=len(costs))
        if sum(map(parameters.removed, widths)) / len(costs) >= ratio * parameters.total
    )
    best = min(widths_cost(costs, config, widths) for widths in legal)
    assert widths_cost(costs, config, found) <= best * 1.002 + 1e-9


def test_a_layer_that_costs_nothing_goes_first() -> None:
    config = tiny_config()
    costs = [LayerCosts(np.arange(49.0) * scale, np.array([0.0, 1e6])) for scale in (5, 0.001, 5)]
    widths = cheapest_widths(config, costs, settings_of(0.05, **GLOBAL))
    assert [each.neurons for each in widths] == [48, 32, 48]


def test_a_budget_beyond_what_may_be_removed_is_refused_with_the_nearest() -> None:
    config = tiny_config()
    for heads in (HeadPolicy.AUTO, HeadPolicy.NONE):
        with pytest.raises(RatioError, match="at most 0") as caught:
            check_measurable(config, settings_of(0.9, heads=heads, **GLOBAL))
        nearest = caught.value.nearest
        assert nearest is not None
        for per_layer in (GLOBAL, {"neurons_per_layer": PerLayer.GLOBAL}):
            asked = settings_of(nearest, heads=heads, **per_layer)
            check_measurable(config, asked)
            found = cheapest_widths(config, random_costs(config, 0), asked)
            assert removed_ratio(config, found) == pytest.approx(nearest)


@pytest.mark.parametrize("choices", [{}, {"neurons_per_layer": PerLayer.GLOBAL}, GLOBAL])
def test_a_plan_by_divergence_meets_the_budget_and_costs_no_more_than_one_by_importance(
    choices: dict[str, PerLayer], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama", num_hidden_layers=4))
    config, model = checkpoint.config, load_model(tmp_path / "dense")
    drawn = np.random.default_rng(1)
    token_ids = [drawn.integers(4, 101, size=20).tolist() for _ in range(6)]
    scores = score_tokens(model, token_ids, config, criterion=CriterionName.WANDA)
    prepared = [text_batch(model, config, *padded) for padded in batches(token_ids)]
    scores = replace(scores, sensitivity=measure_sensitivity(model, config, scores, prepared))
    scores.save(tmp_path / "scores.safetensors")
    again = Scores.load(tmp_path / "scores.safetensors", config)
    assert again.sensitivity is not None
    asked = settings_of(0.15, **choices)
    plan, other = (
        make_plan(checkpoint.raw_config, config, again, each)
        for each in (asked, replace(asked, allocation=Allocation.BALANCED, heads=HeadPolicy.NONE))
    )
    costs = layer_costs(config, again)
    assert widths_cost(costs, config, plan.widths) <= widths_cost(costs, config, other.widths) * 1.01
    assert abs(plan.achieved - 0.15) < 0.03
    same = len(set(plan.widths)) == 1
    assert same == (not choices)


@pytest.mark.parametrize("model_type", [*BUILDABLE, "bert", "t5"])
def test_only_decoders_without_experts_can_be_measured(model_type: str, tmp_path: Path) -> None:
    config = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type)).config
    if model_type in BUILDABLE and not config.architecture.mlp.has_experts:
        check_measurable(config, settings_of(0.2))
        return
    with pytest.raises(PlanError, match="--allocation kl compares what a decoder predicts"):
        check_measurable(config, settings_of(0.2))


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"heads": HeadPolicy.WITHIN}, "--heads within removes heads of each"),
        ({"heads_per_layer": PerLayer.GLOBAL}, "needs --neurons-per-layer global"),
    ],
)
def test_settings_that_are_not_measured_are_refused(choices: dict[str, object], problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        check_measurable(tiny_config(), settings_of(0.2, **choices))
