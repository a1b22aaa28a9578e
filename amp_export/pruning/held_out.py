"""Quality on held-out text of the calibration's kind, and on text of other kinds.

Calibration on one kind of text can destroy what a model knows of others, which held-out rows of that kind do not show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.inputs.windows import cut_windows, spread_within, window_length
from amp_export.pruning.quality import DenseRun, Quality, compare, describe_held_out, run_dense

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.inputs.calibration_tokens import CalibrationTokens

HELD_OUT_TOKENS = 8192
"""Tokens of held-out text: of a large calibration file, a fifth would take longer than pruning."""

OTHER_TOKENS = 2048
"""Tokens of other kinds of text: enough to see a loss of a few per cent."""


@dataclass(frozen=True)
class DenseRuns:
    """Results of the dense model.

    Attributes:
        held_out: On held-out text.
        text: Description of the held-out text.
        other: On text of other kinds; None if the calibration text is of many kinds itself.
    """

    held_out: DenseRun
    text: str
    other: DenseRun | None


def run_dense_on(model: PreTrainedModel, samples: CalibrationTokens, folder: Path) -> DenseRuns | None:
    """Run the dense model on the texts that quality is measured on.

    Args:
        model: A causal language model.
        samples: The text.
        folder: Folder to store hidden states in.

    Returns:
        The results, or None if no token of the held-out text is predicted.
    """
    held_out = run_dense(model, spread_within(samples.held_out, HELD_OUT_TOKENS, size=len), folder)
    if held_out is None:
        return None
    length = window_length(samples.config)
    windows = cut_windows(samples.others, length, limit=max(OTHER_TOKENS // length, 1))
    (folder / "other").mkdir()
    other = run_dense(model, windows, folder / "other")
    return DenseRuns(held_out, describe_held_out(held_out, samples.calibration), other)


def compare_on(model: PreTrainedModel, dense: DenseRuns) -> Quality:
    """Compare the pruned model with the dense one on the same texts.

    Args:
        model: The pruned model.
        dense: Results of the dense model.
    """
    quality = compare(model, dense.held_out, text=dense.text)
    if dense.other is None:
        return quality
    tokens = sum(map(len, dense.other.token_ids))
    other = compare(model, dense.other, text=f"{tokens:,} tokens of the shipped text, which is of many kinds")
    return replace(quality, other=other)
