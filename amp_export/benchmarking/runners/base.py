"""The interface of a runtime for benchmarks: models are run and timed, and their results are discarded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amp_export.exporters.models.session import Integers

Axes = Mapping[str, tuple[int | str, ...]]
"""For each input the sizes of its axes; a name stands for a size that varies."""


class Runner(ABC):
    """A model, loaded and ready.

    Attributes:
        description: Name and version of the runtime.
        threads: Threads that compute one operator; 0 where a GPU computes.
    """

    description: str
    threads: int


class DecoderRunner(Runner):
    """A decoder; it keeps the KV cache itself."""

    @abstractmethod
    def prefill(self, prompt_bs: Integers, *, total_tokens: int) -> None:
        """Start new texts, and computes the logits after their prompts.

        Args:
            prompt_bs: The prompts, int64 [batch_size, prompt_tokens].
            total_tokens: How long the texts will be.
        """

    @abstractmethod
    def decode(self, token_b1: Integers) -> None:
        """Compute the logits after one more token of each text, int64 [batch_size, 1]."""


class EncoderRunner(Runner):
    """An encoder, or a model with a head for classification.

    Attributes:
        inputs: What it takes.
    """

    inputs: Axes

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any]) -> None:
        """Compute all outputs of a batch."""


class Seq2SeqRunner(Runner):
    """An encoder-decoder; it keeps the KV cache itself.

    Attributes:
        inputs: What its encoder takes.
    """

    inputs: Axes

    @abstractmethod
    def encode(self, inputs: Mapping[str, Any], start_b1: Integers) -> None:
        """Run all that is done once for an input: the encoder, and the decoder's first token, int64 [batch_size, 1]."""

    @abstractmethod
    def decode(self, token_b1: Integers) -> None:
        """Compute the logits after one more token, int64 [batch_size, 1]."""
