"""Importance of attention heads and MLP neurons, from one forward pass over calibration prompts.

What it is depends on the criterion; what is measured is averaged over a prompt's real tokens, then over prompts, unless
the criterion weighs tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from amp_export.architectures import Kind
from amp_export.errors import CalibrationError
from amp_export.inputs.batches import BATCH_TOKENS, Batch, text_batches
from amp_export.inputs.windows import spread_within
from amp_export.options import CriterionName
from amp_export.pruning.compensation.streams import StreamBatch, record_calls, run_layer
from amp_export.pruning.criteria import find_criterion
from amp_export.pruning.gradients import FEWEST_GRADIENT_TOKENS, GRADIENT_SHARE, GRADIENT_TOKENS, trace_gradients
from amp_export.pruning.recording import Recorder
from amp_export.pruning.scores import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig
    from amp_export.pruning.criteria._criterion import Criterion
    from amp_export.pruning.gradients import Traced


SCORING_TOKENS = 32_768
"""Tokens to score on, at most, if the criterion reads long texts and no layer is so wide that it needs more."""

SCORING_SHARE = 2
"""One of so many of the tokens that compensation may take is scored on, or two for each neuron of a layer."""


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
    """Score all heads and neurons in one forward pass over prompts.

    Args:
        model: A language model of transformers; it is not changed.
        token_ids: Token ids of the prompts.
        config: Its config.
        criterion: The criterion.
        origin: Description of the prompts, stored with the scores.
        batch_tokens: Largest number of tokens of a batch, including padding.
        on_progress: See `score_batches`.

    Raises:
        CalibrationError: There is no prompt.
        ModelError: The activations are not finite.
    """
    prepared = text_batches(model, config, token_ids, batch_tokens)
    return score_batches(model, prepared, config, criterion=criterion, origin=origin, on_progress=on_progress)


def score_batches(
    model: PreTrainedModel,
    prepared: Sequence[Batch],
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
        config: The model's config.
        criterion: The criterion.
        origin: Description of the samples, stored with the scores.
        on_progress: Called with the number of samples done, or of layers if the criterion takes these one by one,
            and the total.

    Raises:
        CalibrationError: There is no batch.
        ModelError: The activations are not finite.
    """
    import torch

    if not prepared:
        raise CalibrationError("Calibration needs at least one token, but no prompt has any.")
    rule, samples = find_criterion(criterion), sum(batch.samples for batch in prepared)
    traced = _trace(model, config, rule, prepared)
    by_layer = rule.by_layer and config.layers_follow_one_another
    streams = record_calls(model, config, prepared) if by_layer else None
    with torch.inference_mode(), Recorder(model, config, rule) as recorder:
        steps = (
            _run_by_batch(model, config, recorder, prepared)
            if streams is None
            else _run_by_layer(model, config, recorder, prepared, streams)
        )
        judged = []
        for done, total, layers in steps:
            judged += [recorder.judge(layer, samples, traced) for layer in layers]
            if on_progress is not None:
                on_progress(done, total)
    spreads = tuple(each.channel_spread for each in judged if each.channel_spread is not None)
    return Scores(
        tuple(each.heads for each in judged),
        tuple(each.neurons for each in judged),
        origin,
        criterion=criterion,
        channel_spread=spreads or None,
    )


def _trace(model: PreTrainedModel, config: ModelConfig, rule: Criterion, batches: Sequence[Batch]) -> Traced | None:
    """Return what the criterion traces of gradients, on a part of the batches; None if it traces nothing here."""
    if rule.heads.trace is None or config.architecture.kind is not Kind.DECODER:
        return None
    rows = [row for batch in batches for row in batch.rows()]
    tokens = sum(batch.tokens for batch in batches)
    enough = max(FEWEST_GRADIENT_TOKENS, min(GRADIENT_TOKENS, tokens // GRADIENT_SHARE))
    traced = spread_within(rows, enough, size=lambda row: row.inputs["input_ids"].numel())
    return trace_gradients(model, config, rule, traced)


def _run_by_batch(
    model: PreTrainedModel, config: ModelConfig, recorder: Recorder, batches: Sequence[Batch]
) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Run the model on one batch after another; yield samples done, their total, and layers that can be judged."""
    base_model = model.get_submodule(config.base_model)
    done, total = 0, sum(batch.samples for batch in batches)
    for batch in batches:
        recorder.begin_batch(batch)
        base_model(**batch.inputs)
        done += batch.samples
        yield done, total, range(len(config.sites) if done == total else 0)


def _run_by_layer(
    model: PreTrainedModel,
    config: ModelConfig,
    recorder: Recorder,
    batches: Sequence[Batch],
    streams: Sequence[StreamBatch],
) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Run one layer after another on all batches; yield layers done, their total, and the layer to judge."""
    hidden = [stream.hidden_bsh for stream in streams]
    for number, site in enumerate(config.sites):
        layer = model.get_submodule(site.path)
        for place, (batch, stream) in enumerate(zip(batches, streams, strict=True)):
            recorder.begin_batch(batch)
            hidden[place] = run_layer(layer, hidden[place], stream.calls[number])
        yield number + 1, len(config.sites), [number]
