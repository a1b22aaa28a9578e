"""Defaults of a plan, by model."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.architectures import Kind, ModelConfig, find_architecture, supported_model_types
from amp_export.errors import PlanError, RatioError
from amp_export.options import Allocation, CriterionName, HeadPolicy, PerLayer
from amp_export.pruning.defaults import choose_plan_settings
from amp_export.pruning.divergence import check_measurable, largest_ratio
from amp_export.pruning.settings import PlanSettings
from amp_export.verb_options import PlanChoices
from tests.support.tiny_models import FAMILY_FIELDS, TINY_CONFIG, family_fields

DIFFERING = (PerLayer.GLOBAL, PerLayer.GLOBAL)
ALIKE = (PerLayer.UNIFORM, PerLayer.UNIFORM)


def read(model_type: str) -> ModelConfig:
    named = family_fields(model_type, {**TINY_CONFIG, **FAMILY_FIELDS.get(model_type, {})})
    return ModelConfig.read(find_architecture(model_type), named)


def per_layer(settings: PlanSettings) -> tuple[PerLayer, PerLayer]:
    return settings.heads_per_layer, settings.neurons_per_layer


@pytest.mark.parametrize("model_type", supported_model_types())
def test_layers_differ_where_divergences_can_be_measured(model_type: str) -> None:
    config = read(model_type)
    found = choose_plan_settings(config, 0.1, PlanChoices())
    is_decoder = config.architecture.kind is Kind.DECODER and not config.architecture.mlp.has_experts
    measurable = is_decoder and config.layers_follow_one_another
    assert found.allocation is (Allocation.KL if measurable else Allocation.BALANCED)
    assert found.criterion is (CriterionName.OBS if is_decoder else CriterionName.AMP)
    assert per_layer(found) == (DIFFERING if measurable else ALIKE)


@pytest.mark.parametrize(
    ("choices", "how", "allocation", "expected"),
    [
        ({"one_width": True}, {}, Allocation.KL, ALIKE),
        ({}, {"pad": True}, Allocation.KL, ALIKE),
        ({}, {"has_text": False}, Allocation.BALANCED, ALIKE),
        ({"heads": HeadPolicy.WITHIN}, {}, Allocation.BALANCED, ALIKE),
        ({"allocation": Allocation.PAPER}, {}, Allocation.PAPER, ALIKE),
        ({"allocation": Allocation.FLAP}, {}, Allocation.FLAP, DIFFERING),
        ({"allocation": Allocation.FLAP}, {"pad": True, "has_text": False}, Allocation.FLAP, DIFFERING),
        ({"neurons_per_layer": PerLayer.UNIFORM}, {}, Allocation.KL, ALIKE),
        ({"heads_per_layer": PerLayer.UNIFORM}, {}, Allocation.KL, (PerLayer.UNIFORM, PerLayer.GLOBAL)),
        ({"allocation": Allocation.BALANCED, "heads_per_layer": PerLayer.GLOBAL}, {}, Allocation.BALANCED,
         (PerLayer.GLOBAL, PerLayer.UNIFORM)),
    ],
)  # fmt: skip
def test_what_makes_layers_alike(
    choices: dict[str, Any], how: dict[str, bool], allocation: Allocation, expected: tuple[PerLayer, PerLayer]
) -> None:
    found = choose_plan_settings(read("llama"), 0.1, PlanChoices(**choices), **how)
    assert (found.allocation, per_layer(found)) == (allocation, expected)


def test_of_much_that_is_removed_the_divergences_of_a_little_say_nothing() -> None:
    config = read("llama")
    most = largest_ratio(config, choose_plan_settings(config, 0.1, PlanChoices()))
    assert per_layer(choose_plan_settings(config, most, PlanChoices())) == DIFFERING
    assert per_layer(choose_plan_settings(config, most + 1e-6, PlanChoices())) == ALIKE


@pytest.mark.parametrize("name", ["heads_per_layer", "neurons_per_layer"])
def test_one_width_contradicts_layers_that_differ(name: str) -> None:
    choices: dict[str, Any] = {"one_width": True, name: PerLayer.GLOBAL}
    with pytest.raises(PlanError, match="--one-width"):
        choose_plan_settings(read("llama"), 0.1, PlanChoices(**choices))


def test_without_text_divergences_cannot_be_measured() -> None:
    with pytest.raises(PlanError, match="no tokenizer"):
        choose_plan_settings(read("llama"), 0.1, PlanChoices(allocation=Allocation.KL), has_text=False)


@given(
    model_type=st.sampled_from(supported_model_types()),
    ratio=st.floats(0.001, 0.999),
    choices=st.builds(
        PlanChoices,
        criterion=st.none() | st.sampled_from(CriterionName),
        allocation=st.none() | st.sampled_from(Allocation),
        heads=st.sampled_from(HeadPolicy),
        heads_per_layer=st.none() | st.sampled_from(PerLayer),
        neurons_per_layer=st.none() | st.sampled_from(PerLayer),
    ),
    has_text=st.booleans(),
)
def test_what_is_asked_for_is_kept_and_no_default_is_refused(
    model_type: str, ratio: float, choices: PlanChoices, has_text: bool
) -> None:
    config = read(model_type)
    if choices.allocation is Allocation.KL:
        has_text = True
    if config.architecture.heads_stay:
        choices = replace(choices, heads=HeadPolicy.NONE)
    found = choose_plan_settings(config, ratio, choices, has_text=has_text)
    for each in fields(found):
        if each.name != "ratio" and (asked := getattr(choices, each.name)) is not None:
            assert getattr(found, each.name) is asked
    if choices.allocation is None and found.allocation is Allocation.KL and choices.neurons_per_layer is None:
        try:
            check_measurable(config, found)
        except (PlanError, RatioError):
            assert choices.heads_per_layer is PerLayer.GLOBAL, "only what is asked for is refused"
