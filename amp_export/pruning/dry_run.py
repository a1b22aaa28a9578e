"""Rehearse pruning without weights: `doctor` and `prune` refuse a model before any work, with the same words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from amp_export.architectures import LayerWidths, ModelConfig
from amp_export.checkpoints.building import build_from_config, check_config, rehearse_loading
from amp_export.checkpoints.loading import load_tokenizer
from amp_export.inputs.batches import tokenize
from amp_export.inputs.texts import Calibration
from amp_export.options import Allocation, PerLayer
from amp_export.pruning.allocation import check_allocatable
from amp_export.pruning.candidates import Candidate, list_candidates
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.criteria import check_criterion
from amp_export.pruning.divergence import check_measurable
from amp_export.pruning.rewriting import Rewrite, rewrite
from amp_export.pruning.settings import PlanSettings


def possible_candidates(
    raw_config: Mapping[str, Any], config: ModelConfig, settings: PlanSettings, *, costs: ModelCosts | None = None
) -> tuple[Candidate, ...]:
    """Return the candidates that meet the settings; see `list_candidates`.

    Raises:
        RatioError: No legal plan meets the ratio.
        PlanError: The settings do not fit the model.
    """
    candidates = list_candidates(raw_config, config, settings, costs=costs)
    check_criterion(config, settings.criterion)
    if settings.heads_per_layer is PerLayer.GLOBAL:
        check_allocatable(config, settings.heads)
    if settings.allocation is Allocation.KL:
        check_measurable(config, settings)
    return tuple(candidates)


def example_rewrite(
    raw_config: Mapping[str, Any], config: ModelConfig, candidate: Candidate, settings: PlanSettings, *, pad: bool
) -> Rewrite:
    """Return the rewrite of a candidate, or of an example of it if the scores will give each layer its own widths.

    Raises:
        PlanError: The heads cannot be zero-padded.
    """
    layers = config.everywhere(candidate.widths)
    if layers_differ(config, candidate, settings):
        layers[0] = config.fit(_at_its_widest(config, candidate, settings), config.sites[0])
    return rewrite(raw_config, config, layers, pad=pad)


def layers_differ(config: ModelConfig, candidate: Candidate, settings: PlanSettings) -> bool:
    """Return whether layers will keep different counts, decided by the scores."""
    return _at_its_widest(config, candidate, settings) != candidate.widths and len(config.sites) > 1


def _at_its_widest(config: ModelConfig, candidate: Candidate, settings: PlanSettings) -> LayerWidths:
    """Return the widths of a layer that keeps everything that is allocated across layers."""
    dense, widths = config.widths, candidate.widths
    if settings.heads_per_layer is PerLayer.GLOBAL:
        widths = replace(widths, query_heads=dense.query_heads, key_value_heads=dense.key_value_heads)
    if settings.neurons_per_layer is PerLayer.GLOBAL:
        widths = replace(widths, neurons=dense.neurons)
    return widths


def rehearse(path: Path, rewrites: Iterable[Rewrite]) -> None:
    """Build the dense and the pruned models without weights, and check weight headers.

    Args:
        path: The dense checkpoint, or a directory with its config alone.
        rewrites: Configs that the pruned model may have.

    Raises:
        ModelError: transformers does not load one of the models, or the weights are not those of the dense model.
    """
    rehearse_loading(path)
    what, built = f"{path}, pruned", set()
    for each in rewrites:
        check_config(each.config, what)
        # building a model takes longer, and those of one class differ in their counts alone
        if (each.kind, each.class_name) not in built:
            build_from_config(each.config, what)
            built.add((each.kind, each.class_name))


def check_texts(path: Path, config: ModelConfig, texts: Calibration) -> None:
    """Check that a checkpoint's tokenizer turns texts into tokens of its vocabulary.

    Raises:
        ModelError: There is no tokenizer, transformers does not load it, or it is of another model.
    """
    tokenize(load_tokenizer(path), [*texts.prompts, *texts.held_out], config)
