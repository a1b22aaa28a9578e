"""Chooses on text how weights are quantized: which have 8 bits, and how those of 4 are rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.builder.formats import choose_formats
from amp_export.exporters.onnx.builder.weights import numpy_dtype, taking
from amp_export.exporters.onnx.quantization import FEW_BITS, MANY_BITS
from amp_export.exporting.settings import ExportSettings
from amp_export.inputs.batches import Batch, text_batches
from amp_export.inputs.calibration_tokens import CalibrationTokens
from amp_export.inputs.windows import WINDOW_TOKENS, cut_windows
from amp_export.options import RoundingMethod
from amp_export.pruning.compensation.least_squares import ROWS_PER_COLUMN
from amp_export.pruning.compensation.samples import fitting_batches
from amp_export.quantizing.changes import Change, find_changes
from amp_export.quantizing.costs import estimate_costs, measure_divergences
from amp_export.quantizing.gptq import round_in_turn
from amp_export.quantizing.mixing import choose_dear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.inputs.texts import Calibration
    from amp_export.progress import Progress

TOKENS, WINDOW = 4096, 64
"""Tokens that costs are estimated on, and those of a window: many short texts tell the costs of weights apart."""

ROUNDING_TOKENS = 12_288
"""Tokens that GPTQ rounds on, or twice as many as a weight has inputs if that is more."""

ROOM = 4
"""Times the weights' size that must be free on a GPU: their changes take as much again, twice."""

MEASURED_WINDOWS, MEASURED_WINDOW = 8, 128
"""Windows of held-out text that the divergence of the result is measured on, and the tokens of each."""


def refine(checkpoint: Checkpoint, settings: ExportSettings, *, progress: Progress) -> ExportSettings:
    """Return settings in which all choices are made that need text, and the model in PyTorch; others as they are.

    Args:
        checkpoint: The checkpoint to export.
        settings: Settings of the export.
        progress: Shows progress, and what was gained.
    """
    rounds = settings.method is RoundingMethod.GPTQ
    if settings.quantization is None or (settings.average_bits is None and not rounds):
        return settings
    from amp_export.inputs.texts import load_calibration

    with progress.step("Loading the model to see what rounding does to it") as _:
        bench = _Bench.load(checkpoint, load_calibration())
        alike = find_changes(bench.model, checkpoint, settings.quantization, settings.operators)
    notes = []
    if settings.average_bits is not None:
        settings, note = _mix(bench, settings, alike, settings.average_bits, progress)
        notes.append(note)
    if rounds:
        settings = _round(bench, settings, progress)
        notes.append("GPTQ made up for errors")
    with progress.step("Measuring the divergence from the model as it is") as _:
        before, after = bench.measure(settings, alike)
    fell = f"falls from {before:.3f} to {after:.3f} nats a token"
    progress.note(f"{'; '.join(notes)}. The divergence from the model as it is {fell}.")
    return settings


@dataclass(frozen=True)
class _Bench:
    """What is measured, and on what.

    Attributes:
        checkpoint: The checkpoint.
        model: Its model, in float32.
        text: The text.
    """

    checkpoint: Checkpoint
    model: PreTrainedModel
    text: CalibrationTokens

    @classmethod
    def load(cls, checkpoint: Checkpoint, text: Calibration) -> _Bench:
        """Load the model, onto a GPU if there is one with room for it."""
        import torch

        from amp_export.checkpoints.loading import load_model, load_tokenizer
        from amp_export.hardware.placement import choose_device, model_bytes, move

        model = load_model(checkpoint.path, dtype=torch.float32)
        move(model, choose_device(needed_bytes=ROOM * model_bytes(model)))
        return cls(checkpoint, model, CalibrationTokens(text, load_tokenizer(checkpoint.path), checkpoint.config))

    def batches(self, tokens: int, *, window: int = WINDOW_TOKENS) -> list[Batch]:
        """Return batches of the text."""
        return fitting_batches(self.model, self.checkpoint.config, self.text, tokens=tokens, window=window)

    def measure(self, settings: ExportSettings, alike: Mapping[str, Change]) -> list[float]:
        """Return the divergence on held-out text if all weights are rounded alike, and with the chosen settings."""
        rows = cut_windows(self.text.held_out, MEASURED_WINDOW, limit=MEASURED_WINDOWS)
        assert settings.quantization is not None
        chosen = find_changes(
            self.model, self.checkpoint, settings.quantization, settings.operators, rounding=settings.rounding
        )
        return measure_divergences(self.model, (alike, chosen), text_batches(self.model, self.checkpoint.config, rows))


def _mix(
    bench: _Bench, settings: ExportSettings, alike: Mapping[str, Change], average_bits: float, progress: Progress
) -> tuple[ExportSettings, str]:
    """Give 8 bits to the weights that matter most, and say how many these are."""
    assert settings.quantization is not None
    with progress.step("Estimating what the rounding of each weight costs") as advance:
        costs = estimate_costs(
            bench.model, bench.checkpoint.config, alike, bench.batches(TOKENS, window=WINDOW), on_progress=advance
        )
    sizes = {name: change.change_oi.numel() for name, change in alike.items()}
    dear = choose_dear(costs, sizes, average_bits=average_bits)
    bits = FEW_BITS + (MANY_BITS - FEW_BITS) * sum(sizes[name] for name in dear) / sum(sizes.values())
    mixed = replace(settings.quantization, at_8_bits=dear)
    note = f"{len(dear)} of {len(sizes)} weights have 8 bits, {bits:.2f} on average"
    return replace(settings, quantization=mixed, average_bits=None), note


def _round(bench: _Bench, settings: ExportSettings, progress: Progress) -> ExportSettings:
    """Round the weights of 4 bits by GPTQ."""
    checkpoint = bench.checkpoint
    formats = choose_formats(checkpoint.config, checkpoint.widths, settings.quantization, settings.operators)
    most = max(max(checkpoint.config.hidden_size, each.neurons) for each in checkpoint.widths)
    with progress.step("Rounding weights so that others make up for the errors") as advance:
        found = round_in_turn(
            bench.model,
            checkpoint.config,
            formats,
            bench.batches(max(ROUNDING_TOKENS, ROWS_PER_COLUMN * most)),
            scale_dtype=numpy_dtype(settings.dtype),
            on_progress=advance,
        )
    return replace(settings, rounding=taking(found))
