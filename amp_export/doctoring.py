"""The verb `doctor`: what a ratio would mean for a model, from its config alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amp_export.architectures import LayerWidths, parameter_count
from amp_export.budgets import Candidate, PlanSettings, list_candidates
from amp_export.checkpoints import read_config
from amp_export.planning import choose_candidate, needs_scores
from amp_export.rewriting import Rewrite, rewrite
from amp_export.sources import resolve_model


@dataclass(frozen=True)
class Option:
    """One way to meet the ratio.

    Attributes:
        candidate: What would be kept.
        rewrite: The class and config that say it.
    """

    candidate: Candidate
    rewrite: Rewrite


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        model: What was asked for.
        class_name: The model's class.
        parameters: Its parameters, tied ones counted once.
        widths: Its heads and neurons in every layer.
        num_layers: Its layers.
        ratio: The ratio that was asked for.
        options: Every way to meet it.
        chosen: The one that will be taken, or None where the choice needs scores.
    """

    model: str
    class_name: str
    parameters: int
    widths: LayerWidths
    num_layers: int
    ratio: float
    options: tuple[Option, ...]
    chosen: Option | None


def diagnose(model: str | Path, settings: PlanSettings, *, on_status: Callable[[str], None] | None = None) -> Diagnosis:
    """Says what a ratio would keep and how it would be expressed; reads no weights.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        settings: What plan is asked for.
        on_status: Called before a model is fetched.

    Raises:
        RatioError: The ratio is illegal; the nearest legal one is named.
        RequestError: The model is not there or not supported.
    """
    source = resolve_model(model, on_status=on_status)
    raw_config, config = read_config(source.path)
    candidates = list_candidates(raw_config, config, settings)
    options = {
        candidate: Option(
            candidate, rewrite(raw_config, config, [config.fit(candidate.widths, site) for site in config.sites])
        )
        for candidate in candidates
    }
    chosen = None if needs_scores(settings) else options[choose_candidate(config, settings, candidates)]
    return Diagnosis(
        model=source.asked,
        class_name=config.architecture.class_name,
        parameters=parameter_count(config),
        widths=config.widths,
        num_layers=len(config.sites),
        ratio=settings.ratio,
        options=tuple(options.values()),
        chosen=chosen,
    )
