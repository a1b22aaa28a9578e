"""Calibration text as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from amp_export.inputs.arrays import SampleArrays
from amp_export.inputs.batches import tokenize
from amp_export.inputs.texts import Calibration

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig


@dataclass(frozen=True)
class CalibrationTokens:
    """Calibration text as a model's token ids, each part tokenized when it is first asked for: long ones take seconds.

    Attributes:
        calibration: The text.
        tokenizer: The model's tokenizer.
        config: The model's config.
    """

    calibration: Calibration
    tokenizer: PreTrainedTokenizerBase
    config: ModelConfig

    @property
    def origin(self) -> str:
        """Source and number of the prompts, for a report."""
        return self.calibration.origin

    @property
    def source(self) -> str:
        """Where the text is from."""
        return self.calibration.source

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of each calibration prompt."""
        return tokenize(self.tokenizer, self.calibration.prompts, self.config)

    @cached_property
    def texts(self) -> list[list[int]]:
        """Token ids of each text that pruned layers are fitted on."""
        return tokenize(self.tokenizer, self.calibration.texts, self.config)

    @cached_property
    def held_out(self) -> list[list[int]]:
        """Token ids of each held-out text."""
        return tokenize(self.tokenizer, self.calibration.held_out, self.config)

    @cached_property
    def others(self) -> list[list[int]]:
        """Token ids of each text of other kinds."""
        return tokenize(self.tokenizer, self.calibration.others, self.config)


CalibrationSamples = CalibrationTokens | SampleArrays
"""What a model is scored and fitted on: text, or images or audio."""
