"""Chooses the weights that have 8 bits, on the text that comes with this package."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.quantization import FEW_BITS, MANY_BITS
from amp_export.exporting.settings import ExportSettings
from amp_export.inputs.batches import text_batches, tokenize
from amp_export.inputs.windows import cut_windows
from amp_export.quantizing.changes import find_changes
from amp_export.quantizing.costs import estimate_costs, measure_divergences
from amp_export.quantizing.mixing import choose_dear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.progress import Progress

TOKENS, WINDOW = 4096, 64
"""Tokens that costs are estimated on, and those of a window: many short texts tell the costs of weights apart."""

ROOM = 4
"""Times the weights' size that must be free on a GPU: their changes take as much again, twice."""

MEASURED_WINDOWS, MEASURED_WINDOW = 8, 128
"""Windows of held-out text that the divergence of the result is measured on, and the tokens of each."""


def choose_bits(checkpoint: Checkpoint, settings: ExportSettings, *, progress: Progress) -> ExportSettings:
    """Return settings in which the weights that matter most have 8 bits, if an average was asked for.

    Args:
        checkpoint: The checkpoint to export.
        settings: Settings of the export.
        progress: Shows progress, and what was gained.
    """
    if settings.average_bits is None or settings.quantization is None:
        return settings
    from amp_export.checkpoints.loading import load_tokenizer
    from amp_export.inputs.texts import load_calibration
    from amp_export.pruning.compensation.samples import fitting_batches

    config, given, text = checkpoint.config, settings.quantization, load_calibration()
    with progress.step("Loading the model to see which weights matter most") as _:
        model, tokenizer = _load(checkpoint), load_tokenizer(checkpoint.path)
        batches = fitting_batches(model, config, tokenizer, text, tokens=TOKENS, window=WINDOW)
        changes = find_changes(model, checkpoint, given, settings.operators)
    with progress.step("Estimating what the rounding of each weight costs") as advance:
        costs = estimate_costs(model, changes, batches, on_progress=advance)
    sizes = {name: change.change_oi.numel() for name, change in changes.items()}
    mixed = replace(given, at_8_bits=choose_dear(costs, sizes, average_bits=settings.average_bits))
    with progress.step("Measuring the divergence from the model as it is") as _:
        rows = cut_windows(tokenize(tokenizer, text.held_out, config), MEASURED_WINDOW, limit=MEASURED_WINDOWS)
        held_out = text_batches(model, config, rows)
        finer = find_changes(model, checkpoint, mixed, settings.operators)
        before, after = measure_divergences(model, (changes, finer), held_out)
    dear = len(mixed.at_8_bits)
    bits = FEW_BITS + (MANY_BITS - FEW_BITS) * sum(sizes[name] for name in mixed.at_8_bits) / sum(sizes.values())
    progress.note(
        f"{dear} of {len(sizes)} weights have 8 bits, {bits:.2f} on average: the divergence from the model as it is "
        f"falls from {before:.3f} to {after:.3f} nats a token."
    )
    return replace(settings, quantization=mixed, average_bits=None)


def _load(checkpoint: Checkpoint) -> PreTrainedModel:
    import torch

    from amp_export.checkpoints.loading import load_model
    from amp_export.hardware.placement import choose_device, model_bytes, move

    model = load_model(checkpoint.path, dtype=torch.float32)
    return move(model, choose_device(needed_bytes=ROOM * model_bytes(model)))
