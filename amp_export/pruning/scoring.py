"""Importance of attention heads and MLP neurons, from one forward pass over calibration prompts.

What it is depends on the criterion; what is measured is averaged over a prompt's real tokens, then over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from amp_export.architectures import Kind
from amp_export.errors import CalibrationError
from amp_export.inputs.batches import BATCH_TOKENS, Batch, batches, text_batch, tokenize
from amp_export.inputs.windows import spread
from amp_export.options import CriterionName
from amp_export.pruning.compensation.streams import StreamBatch, record_calls, run_layer
from amp_export.pruning.criteria import find_criterion
from amp_export.pruning.gradients import GRADIENT_TOKENS, trace_gradients
from amp_export.pruning.recording import Recorder
from amp_export.pruning.scores import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig
    from amp_export.pruning.criteria._criterion import Criterion
    from amp_export.pruning.gradients import Traced
    from amp_export.pruning.scores import Array


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
        on_progress: Called with the number of samples done, or of layers where the criterion takes these one by one, and
            the total.

    Raises:
        ModelError: The activations are not finite.
    """
    import torch

    rule, batches = find_criterion(criterion), list(prepared)
    traced = _trace(model, config, rule, batches)
    by_layer = rule.by_layer and config.architecture.kind is not Kind.ENCODER_DECODER
    streams = record_calls(model, config, batches) if by_layer else None
    with torch.inference_mode(), Recorder(model, config, rule) as recorder:
        steps = (
            _run_by_batch(model, config, recorder, batches)
            if streams is None
            else _run_by_layer(model, config, recorder, batches, streams)
        )
        judged = []
        for done, total, layers in steps:
            judged += [recorder.judge(layer, samples, traced) for layer in layers]
            if on_progress is not None:
                on_progress(done, total)
    heads, neurons = zip(*judged, strict=True)
    return Scores(heads, neurons, origin, criterion=criterion)


def _trace(model: PreTrainedModel, config: ModelConfig, rule: Criterion, batches: Sequence[Batch]) -> Traced | None:
    """Return what the criterion traces of gradients, on a part of the batches; None if it traces nothing here."""
    if rule.heads.trace is None or config.architecture.kind is not Kind.DECODER:
        return None
    rows = [row for batch in batches for row in batch.rows()]
    tokens = sum(row.inputs["input_ids"].numel() for row in rows)
    return trace_gradients(model, config, rule, spread(rows, max(GRADIENT_TOKENS * len(rows) // tokens, 1)))


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
