"""Interface of the runners; they discard the models' outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amp_export.exporters.models.session import Integers

Axes = Mapping[str, tuple[int | str, ...]]
"""Sizes of the axes of each input; a string names a dynamic axis."""


class Runner(ABC):
    """A loaded model.

    Attributes:
        description: Name and version of the runtime.
        threads: Threads that compute one operator; 0 on a GPU.
    """

    description: str
    threads: int


class DecoderRunner(Runner):
    """A decoder; the runner holds the KV cache."""

    @abstractmethod
    def prefill(self, prompt_bs: Integers, *, total_tokens: int) -> None:
        """Start new texts and compute the logits after their prompts.

        Args:
            prompt_bs: The prompts, int64 [batch_size, prompt_tokens].
            total_tokens: Final length of the texts.
        """

    @abstractmethod
    def decode(self, token_b1: Integers) -> None:
        """Compute the logits after one more token of each text, int64 [batch_size, 1]."""


class EncoderRunner(Runner):
    """An encoder, or a model with a head for classification.

    Attributes:
        inputs: Axes of its inputs.
    """

    inputs: Axes

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any]) -> None:
        """Compute all outputs of a batch."""


class Seq2SeqRunner(Runner):
    """An encoder-decoder; the runner holds the KV cache.

    Attributes:
        inputs: Axes of the encoder's inputs.
    """

    inputs: Axes

    @abstractmethod
    def encode(self, inputs: Mapping[str, Any], start_b1: Integers) -> None:
        """Run the encoder, and the decoder on its first token, int64 [batch_size, 1]."""

    @abstractmethod
    def decode(self, token_b1: Integers) -> None:
        """Compute the logits after one more token, int64 [batch_size, 1]."""
