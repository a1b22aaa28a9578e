"""The counts that meet a ratio: how many heads and neurons every layer may keep, by the config alone.

No scores are needed here, so that `doctor` can show the counts before anything heavy runs.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amp_export.architectures import DecoderConfig, LayerWidths, parameter_count
from amp_export.errors import PlanError, RatioError
from amp_export.plans import removed_ratio
from amp_export.rewriting import is_expressible
from amp_export.targets import TARGETS

RATIO_TOLERANCE = 0.001
"""How far the removed share may be from the one that was asked for: 0.1 percentage points."""


class Allocation(enum.StrEnum):
    """How the budget is shared between heads and neurons."""

    PAPER = "paper"
    BALANCED = "balanced"


class HeadPolicy(enum.StrEnum):
    """Which query heads may go where several of them share a key/value head."""

    GROUPS = "groups"
    WITHIN = "within"
    AUTO = "auto"
    NONE = "none"


@dataclass(frozen=True)
class PlanSettings:
    """What the user asks of a plan.

    Attributes:
        ratio: Share of all parameters to remove.
        allocation: The rule for the counts.
        heads: Which heads may go.
        snap: Kept neurons are a multiple of this; None takes the target's, or 1 for the paper's rule.
        target: The kind of device, a key of `TARGETS`.
    """

    ratio: float
    allocation: Allocation = Allocation.BALANCED
    heads: HeadPolicy = HeadPolicy.AUTO
    snap: int | None = None
    target: str = "cpu"

    @property
    def neuron_multiple(self) -> int:
        """What kept neurons are rounded to."""
        if self.snap is not None:
            return self.snap
        return 1 if self.allocation is Allocation.PAPER else TARGETS[self.target].neuron_multiple


@dataclass(frozen=True)
class Candidate:
    """One way to meet the ratio, the same in every layer.

    Attributes:
        heads: Which kind of heads it removes.
        widths: What each layer keeps.
        ratio: The share of all parameters that it removes.
        expressible: Whether a stock class can say it.
    """

    heads: HeadPolicy
    widths: LayerWidths
    ratio: float
    expressible: bool

    def misses(self, ratio: float) -> bool:
        """Whether the budget is missed by more than the tolerance."""
        return abs(self.ratio - ratio) > RATIO_TOLERANCE


def list_candidates(
    raw_config: Mapping[str, Any], config: DecoderConfig, settings: PlanSettings
) -> tuple[Candidate, ...]:
    """Every legal way to meet the ratio under these settings, by the config alone.

    Raises:
        RatioError: There is none; it says the nearest legal ratio.
        PlanError: The kind of heads asked for does not exist in this model, or no class can say the counts.
    """
    if settings.neuron_multiple < 1:
        raise PlanError(f"--snap must be at least 1, not {settings.snap}.")
    options = _head_options(config, settings.heads)
    if not 0 < settings.ratio < 1:
        smallest, largest = _legal_range(config, settings, options)
        legal = largest if settings.ratio >= 1 else smallest
        raise RatioError(
            f"The ratio must lie between 0 and 1, both excluded; {settings.ratio:g} does not.{_advice(legal)}",
            nearest=legal,
        )
    rule = _paper_widths if settings.allocation is Allocation.PAPER else _balanced_widths
    found = [
        Candidate(policy, widths, _ratio(config, widths), is_expressible(raw_config, config, widths))
        for policy, widths in rule(config, settings, options)
    ]
    removing = [candidate for candidate in found if candidate.ratio > 0]
    if not removing:
        raise _no_candidate(config, settings, options)
    if not any(candidate.expressible for candidate in removing):
        nearest = _nearest_expressible(raw_config, config, settings, options)
        raise RatioError(
            f"At ratio {settings.ratio:g} no stock class can say the {removing[0].widths.query_heads} heads that "
            f"would be kept (hidden size {config.hidden_size})." + _advice(nearest),
            nearest=nearest,
        )
    return tuple(removing)


def _head_options(config: DecoderConfig, policy: HeadPolicy) -> list[tuple[HeadPolicy, LayerWidths]]:
    """The head counts that a policy allows, all neurons kept; keeping every head is always among them."""
    dense = config.widths
    none = [(HeadPolicy.NONE, dense)]
    groups = [
        (HeadPolicy.GROUPS, replace(dense, query_heads=kept * dense.query_group, key_value_heads=kept))
        for kept in range(dense.key_value_heads - 1, 0, -1)
    ]
    within = [
        (HeadPolicy.WITHIN, replace(dense, query_heads=kept * dense.key_value_heads))
        for kept in range(dense.query_group - 1, 0, -1)
    ]
    if policy is HeadPolicy.WITHIN and not within:
        raise PlanError(
            "--heads within removes query heads that share a key/value head, but here each has its own.\n"
            "Use --heads groups, which removes both together."
        )
    if policy is HeadPolicy.GROUPS and not groups:
        raise PlanError(
            "--heads groups removes whole key/value groups, but this model has a single one.\nUse --heads within."
        )
    return {
        HeadPolicy.NONE: none,
        HeadPolicy.GROUPS: none + groups,
        HeadPolicy.WITHIN: none + within,
        HeadPolicy.AUTO: none + groups + within,
    }[policy]


def _ratio(config: DecoderConfig, widths: LayerWidths) -> float:
    return removed_ratio(config, [widths] * config.num_hidden_layers)


def neuron_cost(config: DecoderConfig) -> float:
    """The share of all parameters that one neuron in every layer is."""
    dense = config.widths
    one = replace(dense, neurons=1)
    return _ratio(config, one) / (dense.neurons - 1) if dense.neurons > 1 else 1.0


def _balanced_widths(
    config: DecoderConfig, settings: PlanSettings, options: Sequence[tuple[HeadPolicy, LayerWidths]]
) -> Iterator[tuple[HeadPolicy, LayerWidths]]:
    """Heads as given, and as many neurons as the rest of the budget leaves."""
    cost, step = neuron_cost(config), settings.neuron_multiple
    for policy, widths in options:
        exact = widths.neurons - (settings.ratio - _ratio(config, widths)) / cost
        neurons = min(_allowed_neurons(config, step), key=lambda allowed: abs(allowed - exact))
        # the rounding of neurons may miss the budget by half a step; more means that the heads alone overshoot it
        if abs(neurons - exact) <= max(step / 2, RATIO_TOLERANCE / cost):
            yield policy, replace(widths, neurons=neurons)


def _allowed_neurons(config: DecoderConfig, step: int) -> list[int]:
    multiples = range(step, config.intermediate_size, step)
    return [*multiples, config.intermediate_size]


def _paper_widths(
    config: DecoderConfig, settings: PlanSettings, options: Sequence[tuple[HeadPolicy, LayerWidths]]
) -> Iterator[tuple[HeadPolicy, LayerWidths]]:
    """Equal shares of heads and neurons in every layer, neurons making up for the rounding of heads.

    Source: `prune_model` in `prune_groups.py` of the paper's reference code. It knows only models whose heads do not
    share keys; with groups, the share of heads is rounded to whole groups, or to whole heads within each group.
    """
    dense = config.widths
    layers = _share_of_layers(config)
    share = settings.ratio / layers
    policy, kept_heads = _paper_heads(dense, share, [policy for policy, _ in options])
    removed_heads = dense.query_heads - kept_heads.query_heads
    removed = round(dense.query_heads * (share - removed_heads / dense.query_heads) + dense.neurons * share)
    exact = dense.neurons - min(removed, dense.neurons - 1)
    step = settings.neuron_multiple
    neurons = min(_allowed_neurons(config, step), key=lambda allowed: abs(allowed - exact))
    if share < 1:
        yield policy, replace(kept_heads, neurons=neurons)


def _paper_heads(dense: LayerWidths, share: float, policies: Sequence[HeadPolicy]) -> tuple[HeadPolicy, LayerWidths]:
    if HeadPolicy.GROUPS in policies:
        kept = dense.key_value_heads - min(round(share * dense.key_value_heads), dense.key_value_heads - 1)
        return HeadPolicy.GROUPS, replace(dense, query_heads=kept * dense.query_group, key_value_heads=kept)
    if HeadPolicy.WITHIN in policies:
        kept = dense.query_group - min(round(share * dense.query_group), dense.query_group - 1)
        return HeadPolicy.WITHIN, replace(dense, query_heads=kept * dense.key_value_heads)
    return HeadPolicy.NONE, dense


def _share_of_layers(config: DecoderConfig) -> float:
    """The share of all parameters that attention and MLPs are, norms of the residual stream not counted."""
    norms = 2 * config.hidden_size * config.num_hidden_layers
    outside = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2) + config.hidden_size
    return 1 - (norms + outside) / parameter_count(config)


def _legal_range(
    config: DecoderConfig, settings: PlanSettings, options: Sequence[tuple[HeadPolicy, LayerWidths]]
) -> tuple[float, float]:
    """The least and the most that can be removed, not asking which class could say it."""
    allowed = _allowed_neurons(config, settings.neuron_multiple)
    removing = [_ratio(config, replace(widths, neurons=neurons)) for _, widths in options for neurons in allowed[-2:]]
    largest = max(_ratio(config, replace(widths, neurons=allowed[0])) for _, widths in options)
    return min((ratio for ratio in removing if ratio > 0), default=largest), largest


def _no_candidate(
    config: DecoderConfig, settings: PlanSettings, options: Sequence[tuple[HeadPolicy, LayerWidths]]
) -> RatioError:
    smallest, largest = _legal_range(config, settings, options)
    if settings.ratio > largest:
        what = "would leave a layer without a head or a neuron"
        if settings.heads is HeadPolicy.NONE:
            what = "is more than all neurons are, and --heads none keeps every head"
        return RatioError(
            f"Ratio {settings.ratio:g} {what}.{_advice(largest)}",
            nearest=largest,
        )
    return RatioError(
        f"Ratio {settings.ratio:g} removes nothing: kept neurons are multiples of {settings.neuron_multiple}, and one "
        f"step of them is {smallest:.2%} of the model.{_advice(smallest)}\nOr use --snap 1.",
        nearest=smallest,
    )


def _nearest_expressible(
    raw_config: Mapping[str, Any],
    config: DecoderConfig,
    settings: PlanSettings,
    options: Sequence[tuple[HeadPolicy, LayerWidths]],
) -> float | None:
    """The legal ratio nearest to the one asked for, over all widths that some stock class can say."""
    ratios = [
        _ratio(config, replace(widths, neurons=neurons))
        for _, widths in options
        if is_expressible(raw_config, config, widths)
        for neurons in _allowed_neurons(config, settings.neuron_multiple)
    ]
    legal = [ratio for ratio in ratios if ratio > 0]
    return min(legal, key=lambda ratio: abs(ratio - settings.ratio), default=None)


def _advice(nearest: float | None) -> str:
    return "" if nearest is None else f"\nThe nearest legal ratio is {nearest:.4f}."
