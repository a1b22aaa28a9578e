"""Importance of attention heads and MLP neurons, from one forward pass over calibration prompts.

What it is depends on the criterion; what is measured is averaged over a prompt's real tokens, then over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from amp_export.errors import CalibrationError
from amp_export.inputs.batches import BATCH_TOKENS, Batch, batches, text_batch, tokenize
from amp_export.options import CriterionName
from amp_export.pruning.criteria import find_criterion
from amp_export.pruning.recording import Recorder
from amp_export.pruning.scores import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    config: ModelConfig,
    *,
    criterion: CriterionName = CriterionName.AMP,
    origin: str = "unknown",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score all heads and neurons in one forward pass over the prompts.

    Args:
        model: A language model of transformers; it is not changed.
        tokenizer: Its tokenizer.
        prompts: Calibration prompts.
        config: Its config.
        criterion: The criterion.
        origin: Description of the prompts, stored with the scores.
        on_progress: Called with the number of prompts done and the total.

    Raises:
        CalibrationError: No prompt has a token.
        ModelError: The activations are not finite.
    """
    token_ids = tokenize(tokenizer, prompts, config)
    return score_tokens(model, token_ids, config, criterion=criterion, origin=origin, on_progress=on_progress)


def score_tokens(
    model: PreTrainedModel,
    token_ids: Sequence[Sequence[int]],
    config: ModelConfig,
    *,
    criterion: CriterionName = CriterionName.AMP,
    origin: str = "unknown",
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score all heads and neurons on prompts that are already tokenized."""
    if not token_ids:
        raise CalibrationError("Calibration needs at least one token, but no prompt has any.")
    prepared = (text_batch(model, config, *padded) for padded in batches(token_ids, batch_tokens))
    return score_batches(
        model, prepared, len(token_ids), config, criterion=criterion, origin=origin, on_progress=on_progress
    )


def score_batches(
    model: PreTrainedModel,
    prepared: Iterable[Batch],
    samples: int,
    config: ModelConfig,
    *,
    criterion: CriterionName = CriterionName.AMP,
    origin: str = "unknown",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score a model of any kind.

    Args:
        model: The model; it is not changed.
        prepared: Batches to run it on.
        samples: Number of samples in all batches.
        config: The model's config.
        criterion: The criterion.
        origin: Description of the samples, stored with the scores.
        on_progress: Called with the number of samples done and the total.

    Raises:
        ModelError: The activations are not finite.
    """
    import torch

    base_model = model.get_submodule(config.base_model)
    done = 0
    with torch.inference_mode(), Recorder(model, config, find_criterion(criterion)) as recorder:
        for batch in prepared:
            recorder.begin_batch(batch)
            base_model(**batch.inputs)
            done += batch.samples
            if on_progress is not None:
                on_progress(done, samples)
        heads, neurons = recorder.importance(samples)
    return Scores(heads, neurons, origin, criterion=criterion)
