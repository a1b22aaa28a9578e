"""Criteria of importance: one file each, and this folder is their registry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from amp_export.architectures import Kind, ModelConfig
from amp_export.errors import PlanError
from amp_export.options import Allocation, CriterionName
from amp_export.verb_options import PlanChoices

if TYPE_CHECKING:
    from amp_export.pruning.criteria._criterion import Criterion


def find_criterion(name: CriterionName) -> Criterion:
    """Return a criterion by its name."""
    criterion: Criterion = import_module(f"{__name__}.{name.value}").CRITERION
    return criterion


def choose_criterion(config: ModelConfig, choices: PlanChoices) -> CriterionName:
    """Return the criterion that is asked for, or the default: docs/results/quality.md has the evidence for it."""
    if choices.criterion is not None:
        return choices.criterion
    measured_on = config.architecture.kind is Kind.DECODER and not config.architecture.mlp.has_experts
    return CriterionName.OBS if measured_on and choices.allocation is not Allocation.PAPER else CriterionName.AMP


def check_criterion(config: ModelConfig, name: CriterionName) -> None:
    """Check that a criterion can judge a model.

    Raises:
        PlanError: It cannot; the message names those that can.
    """
    if reason := _obstacle(config, find_criterion(name)):
        possible = [each for each in CriterionName if _obstacle(config, find_criterion(each)) is None]
        raise PlanError(f"--criterion {name} {reason}.\nFor this model there are {', '.join(possible)}.")


def _obstacle(config: ModelConfig, criterion: Criterion) -> str | None:
    if config.architecture.mlp.has_experts and not criterion.suits_experts:
        return "cannot judge experts, and this model has experts"
    if criterion.needs_gradients and config.architecture.kind is not Kind.DECODER:
        return "needs the gradient of what a decoder predicts, and this model does not predict the next token"
    return None
