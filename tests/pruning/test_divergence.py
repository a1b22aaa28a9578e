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
from amp_export.pruning.divergence import (
    LayerCosts,
    cheapest_widths,
    check_measurable,
    layer_costs,
    rank_groups,
    widths_cost,
)
from amp_export.pruning.plan import removed_ratio
from amp_export.pruning.planning import keep_most_important, make_plan
from amp_export.pruning.predictions import POSITION_STEP
from amp_export.pruning.scores import Scores, Sensitivity
from amp_export.pruning.scoring import score_tokens
from amp_export.pruning.sensitivity import (
    MOST_GROUPS,
    group_importance,
    least,
    measure_sensitivity,
    measured_groups,
)
from amp_export.pruning.settings import PlanSettings
from tests.support.fitting import fitted, inputs_of
from tests.support.tiny_models import BUILDABLE, TINY_CONFIG, family_fields, save_tiny_model

GLOBAL = {"heads_per_layer": PerLayer.GLOBAL, "neurons_per_layer": PerLayer.GLOBAL}


def settings_of(ratio: float, **choices: object) -> PlanSettings:
    return PlanSettings(ratio, allocation=Allocation.KL, criterion=CriterionName.WANDA, snap=8, **choices)


def tiny_config(**overrides: object) -> ModelConfig:
    return ModelConfig.read(find_architecture("llama"), {**family_fields("llama", TINY_CONFIG), **overrides})


@pytest.mark.parametrize("compensates", [False, True], ids=["silenced", "stood in for"])
@pytest.mark.parametrize("model_type", ["llama", "falcon", "gemma2", "gpt2", "granite"])
def test_a_divergence_is_that_of_the_model_without_a_part(model_type: str, compensates: bool, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", model_type))
    config = open_checkpoint(tmp_path / "dense").config
    drawn = np.random.default_rng(0)
    token_ids = [drawn.integers(4, 101, size=drawn.integers(5, 15)).tolist() for _ in range(5)]
    scores = score_tokens(model, token_ids, config, criterion=CriterionName.WANDA)
    prepared = [text_batch(model, config, *padded) for padded in batches(token_ids, 40)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure_sensitivity(model, config, scores, prepared, fitting=prepared if compensates else ())
    step = POSITION_STEP if "logits_to_keep" in inspect.signature(model.forward).parameters else 1

    def log_probabilities(changed: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            logits = [changed(torch.tensor([ids])).logits[0, ::step] for ids in token_ids]
        return torch.cat(logits).double().log_softmax(dim=1)

    dense_tv = log_probabilities(model)
    width = config.widths.query_group * config.head_dim
    for number, site in enumerate(config.sites):
        assert site.stack.mlp is not None
        removals = [(site.stack.mlp.output, least(scores.neurons[number], found.left_out), found.neurons[number])]
        removals += [
            (site.stack.attention.output, tuple(range(group * width, (group + 1) * width)), divergence)
            for group, divergence in enumerate(found.groups[number])
            if group in measured_groups(group_importance(config, scores.heads[number]))
        ]
        for projection, gone, divergence in removals:
            changed = copy.deepcopy(model)
            weight = changed.get_submodule(site.path).get_parameter(f"{projection.name}.weight").data
            weight_oi = weight.T if projection.transposed else weight
            if compensates:
                weight_oi[:] = fitted(weight_oi, gone, *inputs_of(model, site.path, projection.name, token_ids))
            weight_oi[:, list(gone)] = 0
            expected = (dense_tv.exp() * (dense_tv - log_probabilities(changed))).sum(dim=1).mean()
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


@settings(max_examples=15, deadline=None)
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


@settings(max_examples=25, deadline=None)
@given(costs=st.lists(st.floats(0, 10, width=32), min_size=4, max_size=4), seed=st.integers(0, 2**31))
def test_plans_keep_the_groups_that_cost_most_to_remove(costs: list[float], seed: int) -> None:
    config, drawn = tiny_config(num_attention_heads=8, num_key_value_heads=4), np.random.default_rng(seed)
    layers = config.num_hidden_layers
    heads, neurons = (
        tuple(drawn.exponential(size=(layers, count)).astype(np.float32)) for count in (8, config.intermediate_size)
    )
    measured = Sensitivity(16, tuple(drawn.exponential(size=layers)), (tuple(costs),) * layers)
    scores = Scores(heads, neurons, "drawn", sensitivity=measured)
    ranked = rank_groups(config, scores)
    widths = replace(config.widths, key_value_heads=2, query_heads=4, neurons=8)
    for dense, found in zip(heads, ranked.heads, strict=True):
        kept = keep_most_important(config, found, neurons[0], widths).key_value_heads
        assert min(costs[group] for group in kept) >= max(costs[group] for group in {*range(4)} - {*kept})
        # within a group, importance decides as before
        for group in range(4):
            pair = slice(2 * group, 2 * group + 2)
            assert costs[group] == 0 or dense[pair].argmax() == found[pair].argmax()


def test_of_many_groups_the_least_important_are_measured_and_the_others_cost_more(tmp_path: Path) -> None:
    heads = MOST_GROUPS + 4
    model = load_model(
        save_tiny_model(
            tmp_path / "dense", "llama", num_attention_heads=heads, num_key_value_heads=heads, hidden_size=4 * heads
        )
    )
    config = open_checkpoint(tmp_path / "dense").config
    scores = score_tokens(model, [[*range(4, 40)]], config, criterion=CriterionName.WANDA)
    found = measure_sensitivity(model, config, scores, [text_batch(model, config, *next(batches([[*range(4, 40)]])))])
    for costs, importance in zip(found.groups, scores.heads, strict=True):
        measured = measured_groups(importance)
        assert len(costs) == heads
        assert len(measured) == MOST_GROUPS
        others = sorted({*range(heads)} - {*measured})
        rate = sum(costs[group] for group in measured) / sum(float(importance[group]) ** 2 for group in measured)
        expected = [rate * float(importance[group]) ** 2 for group in others]
        assert [costs[group] for group in others] == pytest.approx(expected)


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
    assert again.sensitivity.neurons == pytest.approx(scores.sensitivity.neurons)
    assert np.asarray(again.sensitivity.groups) == pytest.approx(np.asarray(scores.sensitivity.groups))
    asked = settings_of(0.15, **choices)
    plan, other = (
        make_plan(checkpoint.raw_config, config, again, each)
        for each in (asked, replace(asked, allocation=Allocation.BALANCED, heads=HeadPolicy.NONE))
    )
    costs = layer_costs(again)
    assert widths_cost(costs, config, plan.widths) <= widths_cost(costs, config, other.widths) * 1.01
    assert abs(plan.achieved - 0.15) < 0.03
    same = len(set(plan.widths)) == 1
    assert same == (not choices)


@pytest.mark.parametrize("model_type", [*BUILDABLE, "mixtral", "bert", "t5"])
def test_only_decoders_without_experts_can_be_measured(model_type: str, tmp_path: Path) -> None:
    config = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type)).config
    if model_type in BUILDABLE:
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
