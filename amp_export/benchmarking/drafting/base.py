"""What a runtime is asked for to measure speculative decoding in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amp_export.exporters.models.decoder import Decoder


@dataclass(frozen=True)
class Generated:
    """A text that a runtime generated greedily.

    Attributes:
        tokens: Its tokens, without the prompt.
        seconds: Time after the prompt.
        drafted: Number of drafted tokens that were checked.
        accepted: Number of these that the dense model would have chosen.
        rounds: Number of passes of the dense model.
    """

    tokens: Sequence[int]
    seconds: float
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0


class OpenPair(ABC):
    """A dense model by itself and with drafts, loaded into a runtime.

    Attributes:
        description: Name and version of the runtime.
    """

    description: str

    @abstractmethod
    def generate_alone(self, prompt: Sequence[int], new_tokens: int) -> Generated:
        """Generate with the dense model alone, exactly so many tokens."""

    @abstractmethod
    def generate_drafted(self, prompt: Sequence[int], new_tokens: int) -> Generated:
        """Generate with drafts, exactly so many tokens."""

    @abstractmethod
    def gap(self, text: Sequence[int], chosen: int, other: int) -> float:
        """Return how far apart the dense model's logits of two tokens are after a text."""


def logit_gap(decoder: Decoder, text: Sequence[int], chosen: int, other: int) -> float:
    """Return how far apart a decoder's logits of two tokens are after a text, and close it."""
    import numpy as np

    ids_1s = np.array([text])
    logits_bsv, _ = decoder.forward(ids_1s, np.ones_like(ids_1s), np.arange(len(text))[None], logits_to_keep=1)
    decoder.close()
    return float(abs(logits_bsv[0, -1, chosen] - logits_bsv[0, -1, other]))
