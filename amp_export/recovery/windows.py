"""The text that a model is trained on: windows of it, some held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.errors import CalibrationError
from amp_export.inputs.batches import tokenize
from amp_export.inputs.texts import Calibration, load_calibration
from amp_export.inputs.windows import cut_windows, spread, window_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig

HOLD_OUT = 10
"""Every tenth window is held out, beginning with the first."""

MOST_HELD_OUT = 8
"""Windows that the divergence is measured on, at most, spread evenly over those held out: it is measured often."""


@dataclass(frozen=True)
class Windows:
    """Windows of text, each with as many token ids.

    Attributes:
        training: Windows to train on.
        held_out: Windows to measure the divergence on.
    """

    training: tuple[Sequence[int], ...]
    held_out: tuple[Sequence[int], ...]

    @property
    def all(self) -> tuple[Sequence[int], ...]:
        """Those held out, then those to train on."""
        return (*self.held_out, *self.training)

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return len(self.held_out[0])


def load_text(file: Path | None) -> Calibration:
    """Load the user's text, or by default the text that is shipped with this package.

    Raises:
        CalibrationError: The file is missing, empty or malformed, or is not text.
    """
    if file is not None and file.suffix.lower() not in (".txt", ".jsonl"):
        raise CalibrationError(
            f"--text {file} is neither a .txt nor a .jsonl file.\nGive one text per line as .txt, or one JSON object "
            "per line as .jsonl; or leave --text out for the text shipped with amp-export."
        )
    return load_calibration(file)


def read_windows(tokenizer: PreTrainedTokenizerBase, text: Calibration, config: ModelConfig) -> Windows:
    """Join texts, cut them into windows, and hold every tenth out.

    Args:
        tokenizer: The model's tokenizer.
        text: The text.
        config: The model's config.

    Raises:
        CalibrationError: The text is shorter than two windows.
        ModelError: The tokenizer fails on a text, or is of another model.
    """
    length = window_length(config)
    with quiet_transformers():
        token_ids = tokenize(tokenizer, text.texts, config)
    windows = cut_windows(token_ids, length)
    if len(windows) < 2:
        raise CalibrationError(
            f"Recovery needs two windows of {length} tokens or more, one to train on and one to measure on, but "
            f"{text.source} has {sum(map(len, token_ids)):,} tokens to train on.\nGive a longer file with --text, or "
            "leave it out for the text shipped with amp-export."
        )
    training = tuple(window for number, window in enumerate(windows) if number % HOLD_OUT)
    return Windows(training, tuple(spread(windows[::HOLD_OUT], MOST_HELD_OUT)))
