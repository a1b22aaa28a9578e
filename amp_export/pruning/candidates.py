"""Counts of heads and neurons that meet a ratio, derived from the config.

They need no scores, so `doctor` can show them without running the model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amp_export.architectures import LayerWidths, ModelConfig, tensor_shapes
from amp_export.errors import PlanError, RatioError
from amp_export.options import Allocation, HeadPolicy
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.flap_allocation import RemovableUnits, check_settings
from amp_export.pruning.rewriting import is_stock
from amp_export.pruning.settings import RATIO_TOLERANCE, PlanSettings, neuron_multiple


@dataclass(frozen=True)
class Candidate:
    """One way to meet the ratio, the same in every layer.

    Attributes:
        heads: Kind of heads that it removes.
        widths: Widths that each layer keeps.
        ratio: Share of all parameters that it removes.
        stock: Whether a stock class can express it, so that plain transformers loads the result.
    """

    heads: HeadPolicy
    widths: LayerWidths
    ratio: float
    stock: bool

    def misses(self, ratio: float) -> bool:
        """Return whether the budget is missed by more than the tolerance."""
        return abs(self.ratio - ratio) > RATIO_TOLERANCE


def list_candidates(
    raw_config: Mapping[str, Any], config: ModelConfig, settings: PlanSettings, *, costs: ModelCosts | None = None
) -> tuple[Candidate, ...]:
    """Return all legal ways to meet the ratio under these settings.

    Args:
        raw_config: Content of the model's config.json.
        config: The model's config.
        settings: Ratio, and rules by which a plan is made.
        costs: The model's costs, for callers that try many ratios; counted by default.

    Raises:
        RatioError: No plan is legal; the message names the nearest legal ratio.
        PlanError: The model has no heads of the requested kind, or FLAP's allocation does not suit it.
    """
    by_flap = settings.allocation is Allocation.FLAP
    if by_flap:
        check_settings(config, settings)
    step = neuron_multiple(settings, config)
    space = _Space(config, settings, step, head_options(config, settings.heads), costs or ModelCosts.of(config))
    if not 0 < settings.ratio < 1:
        raise space.refuse(f"The ratio must be between 0 and 1, exclusive, not {settings.ratio:g}.")
    rules = {Allocation.PAPER: space.paper_widths, Allocation.FLAP: space.average_widths}
    found = [
        # averages of layers that differ are no config's
        Candidate(policy, widths, space.costs.ratio(widths), not by_flap and is_stock(raw_config, config, widths))
        for policy, widths in rules.get(settings.allocation, space.balanced_widths)()
        if space.costs.ratio(widths) > 0
    ]
    if not found:
        raise space.refuse(space.why_none())
    return tuple(found)


def head_options(config: ModelConfig, policy: HeadPolicy) -> list[tuple[HeadPolicy, LayerWidths]]:
    """Return the head counts that a policy allows, with all neurons; keeping all heads is always one of them.

    Raises:
        PlanError: The model has no heads of the requested kind.
    """
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
    if config.architecture.heads_stay is not None:
        return none
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


@dataclass(frozen=True)
class _Space:
    """All widths that the settings allow for a model."""

    config: ModelConfig
    settings: PlanSettings
    step: int
    options: Sequence[tuple[HeadPolicy, LayerWidths]]
    costs: ModelCosts

    def snap(self, exact: float) -> int:
        """Return the multiple of the step nearest to a number of neurons, or all neurons if they are nearer."""
        dense = self.config.intermediate_size
        below = max(math.floor(exact / self.step), 1) * self.step
        multiples = [multiple for multiple in (below, below + self.step) if multiple < dense]
        return min([*multiples, dense], key=lambda allowed: abs(allowed - exact))

    def balanced_widths(self) -> Iterator[tuple[HeadPolicy, LayerWidths]]:
        """Yield each head option with the number of neurons that meets the rest of the budget."""
        step = self.step
        for policy, widths in self.options:
            exact = widths.neurons - (self.settings.ratio - self.costs.ratio(widths)) / self.costs.step(1)
            neurons = self.snap(exact)
            # rounding may miss the budget by half a step; more means that these heads cannot meet it
            if abs(neurons - exact) <= max(step / 2, RATIO_TOLERANCE / self.costs.step(1)):
                yield policy, replace(widths, neurons=neurons)

    def average_widths(self) -> Iterator[tuple[HeadPolicy, LayerWidths]]:
        """Yield each head option with the number of neurons that layers keep on average, whatever their steps are.

        The last removes the ratio by groups alone, or more: however small it is, some layer may lose a group.
        """
        dense = self.config.intermediate_size
        least = min(self.step, dense)
        for policy, widths in self.options:
            exact = dense - (self.settings.ratio - self.costs.ratio(widths)) / self.costs.step(1)
            # the largest ratio is not quite a whole number of neurons
            if policy is not HeadPolicy.WITHIN and least - 1e-6 <= exact:
                yield policy, replace(widths, neurons=min(max(math.floor(exact), least), dense))
            if exact >= dense:
                return

    def paper_widths(self) -> Iterator[tuple[HeadPolicy, LayerWidths]]:
        """Yield the widths of the paper's rule: equal shares of heads and neurons; neurons make up for rounding.

        Source: `prune_model` in `prune_groups.py` of the paper's reference code. It supports only models whose heads do
        not share keys; with KV groups, the share of heads is rounded to whole groups, or to heads within each group.
        """
        dense = self.config.widths
        share = self.settings.ratio / self._share_of_layers()
        if share >= 1:
            return
        policy, kept = self._paper_heads(share)
        fewer_heads = dense.query_heads - kept.query_heads
        fewer_neurons = round(dense.query_heads * (share - fewer_heads / dense.query_heads) + dense.neurons * share)
        yield policy, replace(kept, neurons=self.snap(dense.neurons - min(fewer_neurons, dense.neurons - 1)))

    def _paper_heads(self, share: float) -> tuple[HeadPolicy, LayerWidths]:
        dense = self.config.widths
        policies = {policy for policy, _ in self.options}
        if HeadPolicy.GROUPS in policies:
            groups = dense.key_value_heads - min(round(share * dense.key_value_heads), dense.key_value_heads - 1)
            return HeadPolicy.GROUPS, replace(dense, query_heads=groups * dense.query_group, key_value_heads=groups)
        if HeadPolicy.WITHIN in policies:
            group = dense.query_group - min(round(share * dense.query_group), dense.query_group - 1)
            return HeadPolicy.WITHIN, replace(dense, query_heads=group * dense.key_value_heads)
        return HeadPolicy.NONE, dense

    def _share_of_layers(self) -> float:
        """Return the share of all parameters in attention and MLPs, without the norms of the residual stream."""
        blocks = [block for stack in self.config.architecture.stacks for block in (stack.attention, stack.mlp)]
        inside = {f".{projection.name}." for block in filter(None, blocks) for projection in block.projections}
        shapes = tensor_shapes(self.config).items()
        prunable = sum(math.prod(shape) for name, shape in shapes if any(part in f"{name}." for part in inside))
        return prunable / self.costs.total

    @functools.cached_property
    def legal_ratios(self) -> list[float]:
        """All shares that can be removed, ascending; of FLAP's rule, which can reach any, the ends alone."""
        if self.settings.allocation is Allocation.FLAP:
            removable = RemovableUnits.of(self.config, self.settings)
            ends = (min(removable.units), removable.total) if removable.units else ()
            return [count / self.costs.total for count in ends]
        dense, neuron = self.config.intermediate_size, self.costs.neuron
        fewer_neurons = [0, *(dense - kept for kept in range(self.step, dense, self.step))]
        fewer_heads = [self.costs.removed(widths) for _, widths in self.options]
        removed = {heads + neurons * neuron for heads in fewer_heads for neurons in fewer_neurons} - {0}
        return sorted(count / self.costs.total for count in removed)

    def why_none(self) -> str:
        """Return the reason why no candidate meets the ratio."""
        ratio, step = self.settings.ratio, self.step
        legal = self.legal_ratios
        if not legal:
            return "Nothing can be removed from this model: every layer has a single head and no neuron to spare."
        reason = self.config.architecture.heads_stay
        if ratio > legal[-1] and (reason is not None or self.settings.heads is HeadPolicy.NONE):
            keeps = "--heads none keeps every head" if reason is None else f"its heads stay: {reason}"
            return f"Ratio {ratio:g} is more than all neurons are, and {keeps}."
        if ratio > legal[-1] or self.settings.allocation is Allocation.PAPER:
            return f"Ratio {ratio:g} would leave a layer without heads or neurons."
        if ratio < legal[0]:
            return (
                f"Ratio {ratio:g} removes nothing: kept neurons are a multiple of {step}, and one step of them is "
                f"{self.costs.step(step):.2%} of the model."
            )
        return f"No legal plan removes {ratio:g}: heads and steps of {step} neurons do not add up to it."

    def refuse(self, problem: str) -> RatioError:
        """Return an error that names the nearest legal ratio."""
        asked = self.settings.ratio
        # NaN has no nearest ratio: min then returns the first, the smallest
        nearest = min(self.legal_ratios, key=lambda legal: abs(legal - asked), default=None)
        advice = "" if nearest is None else f"\nThe nearest legal ratio is {nearest:.4f}."
        return RatioError(problem + advice, nearest=nearest)
