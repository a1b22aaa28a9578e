"""Choices of a plan that the forms can say which a pruned model is written in, besides a checkpoint of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from amp_export.options import Uniform
from amp_export.pruning import nemotron_nas, whole
from amp_export.verb_options import PlanChoices

AnyChoices = TypeVar("AnyChoices", bound=PlanChoices)


def fit_choices(choices: AnyChoices, container: Path | None, uniform: Uniform) -> AnyChoices:
    """Return the choices, with what these forms require.

    Args:
        choices: The choices.
        container: The vision-language model that the model is the language model of, or None.
        uniform: How layers of different widths are stored.

    Raises:
        RequestError: The choices contradict that.
    """
    return nemotron_nas.fit_choices(whole.fit_choices(choices, container), uniform)
