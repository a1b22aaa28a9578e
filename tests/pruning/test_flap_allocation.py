"""FLAP's allocation against its definition, and what holds for every plan that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from amp_export import PlanChoices, PruneOptions, diagnose, prune
from amp_export.architectures import LayerWidths, ModelConfig, find_architecture, parameter_count, supported_model_types
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import AmpExportError, ModelError, PlanError, RatioError
from amp_export.options import Allocation, CriterionName, HeadPolicy, PerLayer
from amp_export.progress import Silent
from amp_export.pruning.candidates import list_candidates
from amp_export.pruning.defaults import choose_plan_settings
from amp_export.pruning.flap_allocation import standardised_groups, standardised_neurons
from amp_export.pruning.plan import check_fit, removed_ratio
from amp_export.pruning.request import prepare
from amp_export.pruning.scores import SPREAD, Scores
from amp_export.pruning.scoring import score_tokens
from amp_export.pruning.settings import RATIO_TOLERANCE, PlanSettings
from tests.support.plans import make_plan
from tests.support.tiny_models import FAMILY_FIELDS, TINY_CONFIG, family_fields, save_tiny_model, save_tiny_samples

PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 7, 11, 13], [1, 2] * 12, [8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0]]
FLAP = PlanChoices(criterion=CriterionName.FLAP, allocation=Allocation.FLAP)


def settings_of(ratio: float, **choices: Any) -> PlanSettings:
    return PlanSettings(
        ratio,
        **{
            "criterion": CriterionName.FLAP,
            "allocation": Allocation.FLAP,
            "heads_per_layer": PerLayer.GLOBAL,
            "neurons_per_layer": PerLayer.GLOBAL,
            **choices,
        },
    )


@dataclass(frozen=True)
class Part:
    """A group, or a step of neurons, with its standardised value."""

    value: float
    layer: int
    is_group: bool
    indices: tuple[int, ...]
    parameters: int


def parts_of(channels: Sequence[tuple[torch.Tensor, torch.Tensor]], config: ModelConfig, snap: int) -> list[list[Part]]:
    """The groups and the steps of neurons of each layer by the definition, the most important first.

    Args:
        channels: The fluctuation of the output projection's channels and of the down projection's, by layer.
        config: The model's config.
        snap: Neurons of a step.
    """
    dense, total = config.widths, parameter_count(config)

    def saved(**fewer: int) -> int:
        return total - parameter_count(config, [replace(dense, **fewer), *[dense] * (len(channels) - 1)])

    group = saved(key_value_heads=dense.key_value_heads - 1, query_heads=dense.query_heads - dense.query_group)
    found = []
    for layer, both in enumerate(channels):
        output_c, down_n = ((each.double() - each.double().mean()) / torch.std(each.double()) for each in both)
        of_heads = [float(head.mean()) for head in output_c.split(config.head_dim)]
        of_groups = np.asarray(of_heads).reshape(dense.key_value_heads, dense.query_group).mean(axis=1)
        groups = [
            Part(float(of_groups[k]), layer, True, (k,), group)
            for k in sorted(range(dense.key_value_heads), key=lambda k: -of_groups[k])
        ]
        # what is subtracted may hide a difference
        ranked = both[1].argsort(descending=True).tolist()
        steps = [tuple(ranked[start : start + snap]) for start in range(0, len(ranked), snap)]
        neuron = saved(neurons=dense.neurons - 1)
        found += [groups, [Part(float(down_n[list(s)].mean()), layer, False, s, len(s) * neuron) for s in steps]]
    return found


def removed_by_definition(
    parts: Sequence[Sequence[Part]], ratio: float, total: int, *, with_groups: bool
) -> list[Part]:
    """The parts that go."""
    candidates = sorted(
        (part for of_layer in parts for part in of_layer[1:] if with_groups or not part.is_group),
        key=lambda part: part.value,
    )
    removed = np.cumsum([part.parameters for part in candidates])
    assert removed[-1] >= ratio * total, "the ratio cannot be reached"
    return candidates[: int((removed < ratio * total - 0.5).sum()) + 1]


@dataclass(frozen=True)
class Scored:
    """A tiny model that was scored, and the fluctuation of its channels by the definition."""

    raw: dict[str, Any]
    config: ModelConfig
    scores: Scores
    channels: list[tuple[torch.Tensor, torch.Tensor]]


def fluctuation(model: Any, module: Any, *, transposed: bool) -> torch.Tensor:
    """The variance of each input over the tokens of a prompt and over prompts, times the squared norm of its column."""
    inputs: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0].double()))
    with torch.no_grad():
        for prompt in PROMPTS:
            model(torch.tensor([prompt]))
    handle.remove()
    means_i = torch.stack([each.mean(dim=0) for each in inputs]).mean(dim=0)
    variances_i = torch.stack([(each - means_i).square().mean(dim=0) for each in inputs]).mean(dim=0)
    weight = module.weight.detach().double()
    return variances_i * weight.norm(dim=1 if transposed else 0) ** 2


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert"])
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = save_tiny_model(
        tmp_path_factory.mktemp("flap") / "dense", request.param, num_attention_heads=8, num_key_value_heads=4
    )
    checkpoint, model = open_checkpoint(folder), load_model(folder)
    config, channels = checkpoint.config, []
    scores = score_tokens(model, PROMPTS, config, criterion=CriterionName.FLAP)
    for site in config.sites:
        assert site.stack.mlp is not None
        layer = model.get_submodule(site.path)
        outputs = (site.stack.attention.output, site.stack.mlp.output)
        output_c, down_n = (
            fluctuation(model, layer.get_submodule(each.name), transposed=each.transposed) for each in outputs
        )
        channels.append((output_c, down_n))
    return Scored(dict(checkpoint.raw_config), config, scores, channels)


def test_the_spread_is_that_of_the_channels(scored: Scored) -> None:
    expected = [float(torch.std(output_c)) for output_c, _ in scored.channels]
    assert scored.scores.channel_spread == pytest.approx(expected, rel=1e-4)


def test_values_are_standardised_by_the_definition(scored: Scored) -> None:
    config, scores = scored.config, scored.scores
    assert scores.channel_spread is not None
    layers = parts_of(scored.channels, config, 1)
    for number, (groups, neurons) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        found = (
            standardised_groups(config, scores.heads[number], scores.channel_spread[number]),
            standardised_neurons(scores.neurons[number]),
        )
        for values, parts in zip(found, (groups, neurons), strict=True):
            expected = {part.indices[0]: part.value for part in parts}
            np.testing.assert_allclose(values, [expected[index] for index in range(len(values))], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("heads", "ratio"),
    [
        (HeadPolicy.NONE, 0.03),
        (HeadPolicy.NONE, 0.12),
        (HeadPolicy.GROUPS, 0.12),
        *((HeadPolicy.AUTO, r) for r in (0.05, 0.3)),
    ],
)
@pytest.mark.parametrize("snap", [1, 7, 16])
def test_a_plan_keeps_what_the_definition_does(scored: Scored, ratio: float, snap: int, heads: HeadPolicy) -> None:
    config, parts = scored.config, parts_of(scored.channels, scored.config, snap)
    gone = removed_by_definition(parts, ratio, parameter_count(config), with_groups=heads is not HeadPolicy.NONE)
    plan = make_plan(scored.raw, config, scored.scores, settings_of(ratio, snap=snap, heads=heads))
    for number, layer in enumerate(plan.layers):
        groups, neurons = (
            {index for part in gone if (part.layer, part.is_group) == (number, kind) for index in part.indices}
            for kind in (True, False)
        )
        assert set(layer.key_value_heads) == set(range(config.num_key_value_heads)) - groups
        assert set(layer.neurons) == set(range(config.intermediate_size)) - neurons


def test_groups_and_neurons_are_compared(scored: Scored) -> None:
    """Were one kind alone removed, the cases above would say nothing of the other."""
    plan = make_plan(scored.raw, scored.config, scored.scores, settings_of(0.3, snap=1))
    dense = scored.config.widths
    assert any(widths.key_value_heads < dense.key_value_heads for widths in plan.widths)
    assert any(widths.neurons < dense.neurons for widths in plan.widths)


configs = st.builds(
    lambda group, key_value_heads, neurons, layers: {
        **TINY_CONFIG,
        "intermediate_size": neurons,
        "num_hidden_layers": layers,
        "num_attention_heads": group * key_value_heads,
        "num_key_value_heads": key_value_heads,
    },
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(2, 70),
    st.integers(1, 4),
)


def random_channels(config: ModelConfig, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    drawn = np.random.default_rng(seed)
    counts = (config.num_attention_heads * config.head_dim, config.intermediate_size)
    scales = drawn.exponential(10, size=config.num_hidden_layers).tolist()

    def draw(scale: float, count: int) -> torch.Tensor:
        return torch.from_numpy(scale * drawn.gamma(drawn.uniform(0.5, 3), size=count)).float()

    return [(draw(scale, counts[0]), draw(scale, counts[1])) for scale in scales]


def scores_of(config: ModelConfig, channels: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Scores:
    return Scores(
        heads=tuple(each[0].reshape(config.num_attention_heads, -1).sum(dim=1).numpy() for each in channels),
        neurons=tuple(each[1].numpy() for each in channels),
        origin="random",
        criterion=CriterionName.FLAP,
        channel_spread=tuple(float(torch.std(each[0])) for each in channels),
    )


def least_widths(config: ModelConfig, asked: PlanSettings, snap: int) -> LayerWidths:
    dense = config.widths
    groups = dense.key_value_heads if asked.heads is HeadPolicy.NONE else 1
    return LayerWidths(groups * dense.query_group, groups, min(snap, dense.neurons))


@given(
    raw=configs,
    ratio=st.floats(0.001, 0.999),
    snap=st.sampled_from([1, 3, 8, 64]),
    heads=st.sampled_from([HeadPolicy.AUTO, HeadPolicy.NONE]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150)
def test_the_lowest_go_until_the_ratio_is_reached(
    raw: dict[str, Any], ratio: float, snap: int, heads: HeadPolicy, seed: int
) -> None:
    config = ModelConfig.read(find_architecture("mistral"), raw)
    channels = random_channels(config, seed)
    scores, asked = scores_of(config, channels), settings_of(ratio, snap=snap, heads=heads)
    least, total = least_widths(config, asked, snap), parameter_count(config)
    possible = removed_ratio(config, config.everywhere(least))
    if ratio > possible:
        with pytest.raises(RatioError) as refused:
            make_plan(raw, config, scores, asked)
        nearest = refused.value.nearest
        if nearest is None:
            assert possible == 0
            return
        assert nearest == pytest.approx(possible)
        plan = make_plan(raw, config, scores, replace(asked, ratio=nearest))
        assert all(widths == least for widths in plan.widths)
        return
    plan = make_plan(raw, config, scores, asked)
    check_fit(plan.layers, config, origin="plan")
    assert plan.achieved >= ratio - 1 / total
    assert abs(plan.achieved - ratio) <= RATIO_TOLERANCE or plan.notes, "a missed budget must be explained"
    gone: list[Part] = []
    stayed: list[Part] = []
    for part in (part for of_layer in parts_of(channels, config, snap) for part in of_layer):
        layer = plan.layers[part.layer]
        kept = set(part.indices) & set(layer.key_value_heads if part.is_group else layer.neurons)
        assert len(kept) in (0, len(part.indices)), "a step goes as a whole"
        (stayed if kept else gone).append(part)
    # every layer keeps the best of each kind
    for layer in plan.widths:
        assert layer.key_value_heads >= least.key_value_heads
        assert layer.neurons >= least.neurons
        assert layer.neurons % snap == 0 or layer.neurons == config.intermediate_size
    best = [of_layer[0] for of_layer in parts_of(channels, config, snap)]
    free = [part for part in stayed if part not in best and (heads is HeadPolicy.AUTO or not part.is_group)]
    highest = max(part.value for part in gone)
    assert all(part.value >= highest - 1e-5 for part in free)
    # a moment earlier, the ratio was not reached
    last = min((part.parameters for part in gone if part.value >= highest - 1e-5), default=0)
    assert plan.achieved * total - last < ratio * total


@given(raw=configs, ratio=st.floats(0.01, 0.9), exponent=st.integers(-9, 9), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_what_a_layer_measures_in_other_units_is_planned_alike(
    raw: dict[str, Any], ratio: float, exponent: int, seed: int
) -> None:
    config = ModelConfig.read(find_architecture("mistral"), raw)
    channels = random_channels(config, seed)
    # a power of two rounds nothing
    scaled = [(output_c * 2.0**exponent, down_n) for output_c, down_n in channels]
    plans = []
    for each in (channels, scaled):
        try:
            plans.append(make_plan(raw, config, scores_of(config, each), settings_of(ratio, snap=1)).widths)
        except RatioError:
            plans.append(())
    assert plans[0] == plans[1]


@pytest.mark.parametrize("neurons", [1, 48])
def test_layers_in_which_nothing_fluctuates_are_planned_too(neurons: int) -> None:
    raw = {**TINY_CONFIG, "intermediate_size": neurons}
    config = ModelConfig.read(find_architecture("llama"), raw)
    channels = [(torch.zeros(32), torch.zeros(neurons))] * 3
    plan = make_plan(raw, config, scores_of(config, channels), settings_of(0.1, snap=8))
    check_fit(plan.layers, config, origin="plan")
    assert plan.achieved >= 0.1


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("llama", {}, {"criterion": CriterionName.OBS}, "Add --criterion flap"),
    ("llama", {}, {"criterion": None}, "Add --criterion flap"),
    ("llama", {}, {"heads": HeadPolicy.WITHIN}, "Use --heads auto"),
    ("llama", {"num_key_value_heads": 1}, {"heads": HeadPolicy.GROUPS}, "Use --heads auto"),
    ("llama", {}, {"heads_per_layer": PerLayer.UNIFORM}, "Leave it out"),
    ("bert", {}, {"neurons_per_layer": PerLayer.UNIFORM}, "Leave it out"),
    ("llama", {}, {"one_width": True}, "--one-width .*\\nLeave one of them out"),
    ("mixtral", {}, {"snap": 8}, "has experts"),
    ("t5", {}, {}, "is an encoder-decoder"),
]


@pytest.mark.parametrize(("model_type", "overrides", "choices", "problem"), REFUSED)
def test_what_does_not_suit_it_is_refused_with_advice(
    model_type: str, overrides: dict[str, Any], choices: dict[str, Any], problem: str
) -> None:
    raw = family_fields(model_type, {**TINY_CONFIG, **FAMILY_FIELDS.get(model_type, {}), **overrides})
    config = ModelConfig.read(find_architecture(model_type), raw)
    with pytest.raises(PlanError, match="--allocation flap") as refused:
        list_candidates(raw, config, choose_plan_settings(config, 0.1, replace(FLAP, **choices)))
    assert refused.match(problem)


@pytest.mark.parametrize("heads", HeadPolicy)
@pytest.mark.parametrize("model_type", supported_model_types())
def test_advice_can_be_followed(model_type: str, heads: HeadPolicy) -> None:
    raw = family_fields(model_type, {**TINY_CONFIG, **FAMILY_FIELDS.get(model_type, {})})
    config = ModelConfig.read(find_architecture(model_type), raw)
    choices = replace(FLAP, heads=heads, snap=8)
    for _ in range(3):
        try:
            found = list_candidates(raw, config, choose_plan_settings(config, 0.15, choices))
        except PlanError as error:
            advice = str(error).splitlines()[1]
            if asked := [each for each in HeadPolicy if f"Use --heads {each}" in advice]:
                choices = replace(choices, heads=asked[0])
            else:
                assert "--allocation balanced" in advice
                choices = replace(choices, allocation=Allocation.BALANCED)
        else:
            assert found
            return
    pytest.fail("the advice leads nowhere")


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert"])
def test_doctor_says_what_is_possible_with_it(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    save_tiny_samples(folder)
    # 3 layers of 48 neurons: not all can lose a step, but one can
    found = diagnose(folder, 0.01, replace(FLAP, snap=16))
    assert found.chosen is None
    assert all(option.shared_out for option in found.options)
    # however little is removed, it may be a group of one layer
    assert {option.candidate.heads for option in found.options} == {HeadPolicy.NONE, HeadPolicy.GROUPS}
    for verdict in found.compatibility:
        needs = (verdict.needs or "").split(" and ")
        assert "--one-width" not in needs
        assert len(set(needs)) == len(needs)


def test_doctor_and_prune_refuse_it_with_the_same_words(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "llama")
    samples = save_tiny_samples(folder)
    said = []
    for work in (
        lambda: diagnose(folder, 0.1, replace(FLAP, heads=HeadPolicy.WITHIN)),
        lambda: prune(
            folder,
            tmp_path / "out",
            PruneOptions(
                ratio=0.1,
                criterion=FLAP.criterion,
                allocation=FLAP.allocation,
                heads=HeadPolicy.WITHIN,
                calibration=samples,
            ),
        ),
    ):
        with pytest.raises(AmpExportError) as refused:
            work()
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("criterion", [CriterionName.FLAP, CriterionName.WANDA])
def test_scores_keep_their_spread_and_are_read_without(criterion: CriterionName, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", "llama")
    checkpoint = open_checkpoint(folder)
    config, file = checkpoint.config, tmp_path / "scores.safetensors"
    scores = score_tokens(load_model(folder), PROMPTS, config, criterion=criterion)
    assert (scores.channel_spread is not None) == (criterion is CriterionName.FLAP)
    for each in (scores, replace(scores, channel_spread=None)):
        each.save(file)
        assert (SPREAD in load_file(file)) == (each.channel_spread is not None)
        again = Scores.load(file, config)
        assert again.channel_spread == each.channel_spread
        assert again.criterion is criterion
    # of an earlier version
    with pytest.raises(PlanError, match="to score the model again"):
        make_plan(checkpoint.raw_config, config, again, settings_of(0.1))
    options = PruneOptions(ratio=0.1, criterion=CriterionName.FLAP, allocation=Allocation.FLAP, scores=file)
    refusal = "--criterion flap is asked for" if criterion is CriterionName.WANDA else "Leave --scores out"
    with pytest.raises((PlanError, ModelError), match=refusal):
        prepare(folder, options, progress=Silent())


@pytest.mark.parametrize(
    ("spread", "problem"),
    [([1.0], "where this one needs F32"), ([1.0, np.nan, 1.0], "contains nan"), ([1.0, -1.0, 1.0], "contains -1.0")],
)
def test_a_damaged_spread_is_refused(spread: list[float], problem: str, tmp_path: Path) -> None:
    config, file = ModelConfig.read(find_architecture("llama"), TINY_CONFIG), tmp_path / "scores.safetensors"
    channels = random_channels(config, 0)
    scores_of(config, channels).save(file)
    arrays = {**load_file(file), SPREAD: np.asarray(spread, np.float32)}
    save_file(arrays, file, metadata={"criterion": "flap", "spread": "channels"})
    with pytest.raises(ModelError, match=problem):
        Scores.load(file, config)


@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_a_model_is_pruned_by_it_to_the_end(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    options = PruneOptions(
        ratio=0.2,
        criterion=CriterionName.FLAP,
        allocation=Allocation.FLAP,
        snap=1,
        calibration=save_tiny_samples(folder),
        compensate=model_type == "llama",
    )
    result = prune(folder, tmp_path / "out", options)
    assert result.reload.holds
    assert len(set(result.plan.widths)) > 1
    assert result.plan.settings["allocation"] == "flap"
    assert 1 - result.parameters_after / result.parameters_before == pytest.approx(result.plan.achieved)
    assert result.plan.achieved >= 0.2
    checkpoint = open_checkpoint(folder)
    scores = Scores.load(tmp_path / "out/scores.safetensors", checkpoint.config)
    again = make_plan(checkpoint.raw_config, checkpoint.config, scores, settings_of(0.2, snap=1))
    assert again.layers == result.plan.layers
