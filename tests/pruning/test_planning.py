from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amp_export.architectures import LayerWidths, ModelConfig, find_architecture, supported_model_types
from amp_export.errors import PlanError, RatioError
from amp_export.options import Allocation, HeadPolicy, PerLayer, TargetName
from amp_export.outputs.manifest import RewriteKind
from amp_export.pruning.candidates import Candidate, head_options, list_candidates
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.plan import LayerPlan, Plan, check_fit, removed_ratio
from amp_export.pruning.planning import choose_candidate, keep_most_important, share_importance
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.scores import Scores
from amp_export.pruning.settings import RATIO_TOLERANCE, PlanSettings, neuron_multiple
from tests.support.plans import make_plan
from tests.support.tiny_models import FAMILY_FIELDS, SMOLLM2_135M, TINY_CONFIG, family_fields

LLAMA_2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}


def llama(**fields: Any) -> tuple[dict[str, Any], ModelConfig]:
    return fields, ModelConfig.read(find_architecture("llama"), fields)


def random_scores(config: ModelConfig, seed: int = 0) -> Scores:
    generator = np.random.default_rng(seed)
    experts = config.experts(config.architecture.mlp)
    neurons = (*((experts,) if experts else ()), config.intermediate_size)
    return Scores(
        heads=tuple(generator.gamma(2.0, size=site.widths.query_heads).astype(np.float32) for site in config.sites),
        neurons=tuple(
            generator.gamma(1.0, size=neurons if site.stack.mlp is not None else 0).astype(np.float32)
            for site in config.sites
        ),
        origin="random",
    )


def reference_counts(total: int, prunable: int, heads: int, neurons: int, ratio: float) -> tuple[int, int]:
    """The rule of the paper's reference code, `prune_model`, in our words: heads and neurons that are kept."""
    share = total * ratio / prunable
    fewer_heads = min(round(share * heads), heads - 1)
    fewer_neurons = round(neurons * ((heads / neurons) * (share - fewer_heads / heads) + share))
    return heads - fewer_heads, neurons - min(fewer_neurons, neurons - 1)


@pytest.mark.parametrize("ratio", [0.03, 0.1, 0.2, 0.3, 0.5])
def test_the_papers_rule_is_the_reference_codes(ratio: float) -> None:
    raw, config = llama(**LLAMA_2_7B)
    prunable = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    [candidate] = list_candidates(raw, config, PlanSettings(ratio, allocation=Allocation.PAPER))
    expected = reference_counts(6_738_415_616, prunable, 32, 11008, ratio)
    assert (candidate.widths.query_heads, candidate.widths.neurons) == expected


def test_llama_2_7b_at_30_percent_keeps_22_heads_and_becomes_a_mistral() -> None:
    raw, config = llama(**LLAMA_2_7B)
    [candidate] = list_candidates(raw, config, PlanSettings(0.3, allocation=Allocation.PAPER))
    assert candidate.widths.query_heads == 22
    rewritten = rewrite(raw, config, [candidate.widths] * 32)
    assert rewritten.kind is RewriteKind.SIBLING_CLASS
    assert rewritten.architecture.class_name == "MistralForCausalLM"
    assert "4096 % 22 = 4" in rewritten.reason


configs = st.builds(
    lambda group, key_value_heads, neurons, layers: {
        "vocab_size": 50,
        "hidden_size": 8 * group * key_value_heads,
        "head_dim": 8,
        "intermediate_size": neurons,
        "num_hidden_layers": layers,
        "num_attention_heads": group * key_value_heads,
        "num_key_value_heads": key_value_heads,
    },
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 300),
    st.integers(1, 4),
)


@given(
    raw=configs,
    ratio=st.floats(0.01, 0.99),
    allocation=st.sampled_from([Allocation.BALANCED, Allocation.PAPER]),
    heads=st.sampled_from(HeadPolicy),
    snap=st.sampled_from([None, 1, 8, 64]),
)
@settings(max_examples=200)
def test_every_plan_fits_its_model_and_keeps_the_most_important(
    raw: dict[str, Any], ratio: float, allocation: Allocation, heads: HeadPolicy, snap: int | None
) -> None:
    raw, config = llama(**raw)
    scores = random_scores(config)
    options = PlanSettings(ratio, allocation=allocation, heads=heads, snap=snap)
    try:
        plan = make_plan(raw, config, scores, options)
    except RatioError as error:
        # what is said to be legal is legal
        assume(error.nearest is not None and allocation is Allocation.BALANCED)
        make_plan(raw, config, scores, replace(options, ratio=error.nearest))
        return
    except PlanError:
        assume(False)
    check_fit(plan.layers, config, origin="plan")
    assert len(set(plan.widths)) == 1
    assert plan.achieved == pytest.approx(removed_ratio(config, list(plan.widths)), abs=1e-12)
    assert (
        plan.widths[0].neurons % neuron_multiple(options, config) == 0
        or plan.widths[0].neurons == config.intermediate_size
    )
    for layer, neurons in zip(plan.layers, scores.neurons, strict=True):
        removed = np.delete(neurons, list(layer.neurons))
        assert removed.size == 0 or removed.max() <= neurons[list(layer.neurons)].min()
    met = abs(plan.achieved - ratio) <= RATIO_TOLERANCE
    assert met or plan.notes, "a missed budget must be explained"


@pytest.mark.parametrize("model_type", supported_model_types())
@given(
    ratio=st.floats(0.02, 0.6),
    layers=st.integers(1, 3),
    heads=st.sampled_from(HeadPolicy),
    per_layer=st.tuples(st.sampled_from(PerLayer), st.sampled_from(PerLayer)),
    seed=st.integers(0, 9),
)
@settings(max_examples=25)
def test_every_plan_that_is_written_is_read_again(
    model_type: str, ratio: float, layers: int, heads: HeadPolicy, per_layer: tuple[PerLayer, PerLayer], seed: int
) -> None:
    fields = {**TINY_CONFIG, **FAMILY_FIELDS.get(model_type, {}), "num_hidden_layers": layers}
    raw = family_fields(model_type, fields)
    config = ModelConfig.read(find_architecture(model_type), raw)
    heads_per_layer, neurons_per_layer = per_layer
    options = PlanSettings(
        ratio, heads=heads, snap=8, heads_per_layer=heads_per_layer, neurons_per_layer=neurons_per_layer
    )
    plan, refusal = None, ""
    try:
        plan = make_plan(raw, config, random_scores(config, seed), options)
    except (RatioError, PlanError) as error:
        refusal = str(error)
    assert "the new plan" not in refusal
    if plan is None:
        return
    with TemporaryDirectory() as folder:
        plan.save(Path(folder) / "plan.json")
        read = Plan.load(Path(folder) / "plan.json", config)
    assert read == replace(plan, achieved=read.achieved)
    assert read.achieved == pytest.approx(plan.achieved)


def test_layers_that_share_position_biases_keep_the_same_heads() -> None:
    config = ModelConfig.read(find_architecture("t5"), family_fields("t5", TINY_CONFIG))
    heads = [LayerPlan((0, 1), (0, 1), (0,) if site.stack.mlp is not None else ()) for site in config.sites]
    # self-attention and cross-attention of the decoder share nothing
    other = {"query_heads": (2, 3), "key_value_heads": (2, 3)}
    cross = [replace(each, **other) for each in heads[6:]]
    check_fit((*heads[:6], *cross), config, origin="plan")
    with pytest.raises(PlanError, match=r"layer 5 keeps query heads \[2, 3\], but layer 3, .*keeps \[0, 1\]") as caught:
        check_fit((*heads[:5], replace(heads[5], **other), *cross), config, origin="")
    assert "Keep the same heads in layers 3 to 5." in str(caught.value)


def test_layers_that_share_heads_and_have_no_importance_take_part_with_none() -> None:
    raw = family_fields("t5", TINY_CONFIG)
    config = ModelConfig.read(find_architecture("t5"), raw)
    scores = random_scores(config)
    idle = replace(scores, heads=(np.zeros(4, np.float32), *scores.heads[1:]))
    assert all(np.isfinite(layer).all() for layer in share_importance(config, idle).heads)


@given(ratio=st.floats(0.02, 0.55), heads=st.sampled_from([HeadPolicy.AUTO, HeadPolicy.NONE, HeadPolicy.WITHIN]))
@settings(max_examples=50)
def test_without_snapping_the_balanced_budget_is_met(ratio: float, heads: HeadPolicy) -> None:
    raw, config = llama(**SMOLLM2_135M)
    plan = make_plan(raw, config, random_scores(config), PlanSettings(ratio, heads=heads, snap=1))
    assert abs(plan.achieved - ratio) <= RATIO_TOLERANCE
    assert not plan.notes


@given(raw=configs, ratio=st.floats(0.01, 1.5), heads=st.sampled_from(HeadPolicy), snap=st.sampled_from([24, 64]))
@settings(max_examples=50)
def test_counts_and_ratios_are_the_nearest_of_all(
    raw: dict[str, Any], ratio: float, heads: HeadPolicy, snap: int
) -> None:
    raw, config = llama(**raw)
    costs, dense = ModelCosts.of(config), config.intermediate_size
    allowed = [*range(snap, dense, snap), dense]
    found: tuple[Candidate, ...] = ()
    nearest: float | None = None
    try:
        found = list_candidates(raw, config, PlanSettings(ratio, heads=heads, snap=snap))
    except RatioError as error:
        nearest = error.nearest
    except PlanError:
        assume(False)
    if not found:
        options = head_options(config, heads)
        every = [costs.ratio(replace(widths, neurons=kept)) for _, widths in options for kept in allowed]
        legal = sorted(each for each in every if each > 0)
        assert nearest == min(legal, key=lambda each: abs(each - ratio), default=None)
    for candidate in found:
        fewer_heads = replace(candidate.widths, neurons=dense)
        exact = dense - (ratio - costs.ratio(fewer_heads)) / costs.step(1)
        assert candidate.widths.neurons == min(allowed, key=lambda kept: abs(kept - exact))


def test_snapping_that_misses_the_budget_says_why() -> None:
    raw, config = llama(**SMOLLM2_135M)
    plan = make_plan(raw, config, random_scores(config), PlanSettings(0.1, heads=HeadPolicy.NONE))
    assert plan.widths[0].neurons == 1280
    assert "multiple of 16" in plan.notes[0]
    assert "--snap" in plan.notes[0]


def test_what_rounding_neurons_misses_is_repaid_by_heads_where_they_are_fine_enough() -> None:
    raw, config = llama(**LLAMA_2_7B)
    assert ModelCosts.of(config).step(64) > 2 * RATIO_TOLERANCE, "else this proves nothing"
    for ratio in (0.1, 0.15, 0.2, 0.25, 0.3):
        plan = make_plan(
            raw,
            config,
            random_scores(config),
            PlanSettings(ratio, heads=HeadPolicy.GROUPS, target=TargetName.ORIN_NANO),
        )
        assert plan.widths[0].neurons % 64 == 0
        assert abs(plan.achieved - ratio) <= RATIO_TOLERANCE


def test_auto_keeps_heads_that_matter_and_removes_heads_that_do_not() -> None:
    raw, config = llama(**SMOLLM2_135M)
    even = random_scores(config)
    settings_ = PlanSettings(0.2, snap=1)
    idle = np.asarray([1, 1, 1e-6] * 3, dtype=np.float32)
    needless = Scores((idle,) * 30, even.neurons, "one idle head in each group")
    assert make_plan(raw, config, needless, settings_).widths[0] == LayerWidths(6, 3, plan_neurons(raw, config, 6, 3))
    idle_group = np.asarray([1] * 6 + [1e-6] * 3, dtype=np.float32)
    plan = make_plan(raw, config, Scores((idle_group,) * 30, even.neurons, "an idle group"), settings_)
    assert plan.layers[0].key_value_heads == (0, 1)
    needed = Scores((np.ones(9, np.float32),) * 30, (np.geomspace(1, 1e-6, 1536).astype(np.float32),) * 30, "x")
    assert make_plan(raw, config, needed, settings_).widths[0].query_heads == 9


def plan_neurons(raw: dict[str, Any], config: ModelConfig, query_heads: int, key_value_heads: int) -> int:
    [neurons] = [
        candidate.widths.neurons
        for candidate in list_candidates(raw, config, PlanSettings(0.2, snap=1))
        if (candidate.widths.query_heads, candidate.widths.key_value_heads) == (query_heads, key_value_heads)
    ]
    return neurons


def test_groups_go_by_the_importance_of_all_their_heads_and_ties_by_index() -> None:
    _, config = llama(**{**SMOLLM2_135M, "intermediate_size": 4})
    heads = np.asarray([5, 0, 0, 2, 2, 2, 1, 1, 1], dtype=np.float32)
    neurons = np.asarray([1, 2, 1, 1], dtype=np.float32)
    layer = keep_most_important(config, heads, neurons, LayerWidths(6, 2, 2))
    assert layer.key_value_heads == (0, 1)
    assert layer.query_heads == (0, 1, 2, 3, 4, 5)
    assert layer.neurons == (0, 1)
    assert keep_most_important(config, heads, neurons, LayerWidths(3, 3, 2)).query_heads == (0, 3, 6)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    raw, config = llama(**SMOLLM2_135M)
    with pytest.raises(RatioError, match="between 0 and 1") as caught:
        list_candidates(raw, config, PlanSettings(ratio))
    assert caught.value.nearest is not None
    list_candidates(raw, config, PlanSettings(caught.value.nearest))


def test_a_ratio_that_empties_a_layer_names_the_largest_legal_one() -> None:
    raw, config = llama(**SMOLLM2_135M)
    with pytest.raises(RatioError, match="without heads or neurons") as caught:
        list_candidates(raw, config, PlanSettings(0.9))
    assert caught.value.nearest is not None
    assert f"{caught.value.nearest:.4f}" in str(caught.value)
    list_candidates(raw, config, PlanSettings(caught.value.nearest))
    with pytest.raises(RatioError, match="--heads none keeps every head"):
        list_candidates(raw, config, PlanSettings(0.7, heads=HeadPolicy.NONE))


def test_what_a_stock_class_can_say_is_preferred() -> None:
    raw, config = llama(**{**LLAMA_2_7B, "attention_bias": True})
    candidates = list_candidates(raw, config, PlanSettings(0.3))
    assert {candidate.stock for candidate in candidates} == {True, False}
    for policy in (HeadPolicy.AUTO, HeadPolicy.GROUPS):
        settings = PlanSettings(0.3, heads=policy)
        chosen = choose_candidate(config, settings, candidates, random_scores(config))
        assert chosen.stock
        assert chosen.heads is HeadPolicy.GROUPS or policy is HeadPolicy.AUTO


def test_heads_that_were_asked_for_go_even_where_no_stock_class_can_say_it() -> None:
    raw = {"n_head": 5, "n_embd": 40, "n_layer": 2, "vocab_size": 64, "n_positions": 32}
    config = ModelConfig.read(find_architecture("gpt2"), raw)
    for policy, heads in ((HeadPolicy.AUTO, HeadPolicy.NONE), (HeadPolicy.GROUPS, HeadPolicy.GROUPS)):
        settings = PlanSettings(0.3, heads=policy, snap=1)
        candidates = list_candidates(raw, config, settings)
        assert choose_candidate(config, settings, candidates, random_scores(config)).heads is heads


def test_heads_that_must_stay_do() -> None:
    raw = {**family_fields("mpnet", TINY_CONFIG), "model_type": "mpnet"}
    config = ModelConfig.read(find_architecture("mpnet"), raw)
    scores, reason = random_scores(config), "share the position biases"
    plan = make_plan(raw, config, scores, PlanSettings(0.1, snap=1))
    assert {layer.widths.query_heads for layer in plan.layers} == {4}
    assert plan.settings["heads"] == "none"
    with pytest.raises(PlanError, match=rf"--heads groups .*{reason}"):
        make_plan(raw, config, scores, PlanSettings(0.1, heads=HeadPolicy.GROUPS, snap=1))
    with pytest.raises(RatioError, match=reason):
        make_plan(raw, config, scores, PlanSettings(0.9, snap=1))
    fewer = replace(plan.layers[0], query_heads=(0,), key_value_heads=(0,))
    with pytest.raises(PlanError, match=rf"layer 0: .*{reason}"):
        check_fit((fewer, *plan.layers[1:]), config, origin="plan.json")


def test_a_kind_of_heads_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(PlanError, match="--heads groups"):
        list_candidates(*llama(**LLAMA_2_7B), PlanSettings(0.3, heads=HeadPolicy.WITHIN))
    with pytest.raises(PlanError, match="--heads within"):
        list_candidates(*llama(**{**LLAMA_2_7B, "num_key_value_heads": 1}), PlanSettings(0.3, heads=HeadPolicy.GROUPS))
    with pytest.raises(PlanError, match="--snap"):
        list_candidates(*llama(**LLAMA_2_7B), PlanSettings(0.3, snap=0))
