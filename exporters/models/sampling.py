"""How the next token is chosen from logits: greedily, or drawn from what temperature and cut-offs leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

    from amp_export.exporters.models.session import Floats, Integers

    Doubles = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Rules for choosing tokens; the names and meanings are those of transformers' `GenerationConfig`.

    Attributes:
        temperature: Divisor of the logits; 0 chooses the most likely token, and the cut-offs then do nothing.
        top_k: Keep only this many of the most likely tokens.
        top_p: Keep the fewest of the most likely tokens whose probabilities add up to this.
        min_p: Keep tokens at least this many times as likely as the most likely one (arXiv 2407.01082).
        repetition_penalty: Divisor of the positive logits, and factor on the negative ones, of tokens that the text has
            already (arXiv 1909.05858, section 4.1).
        seed: Seed of what is drawn.

    Raises:
        RequestError: A value is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, is_valid, needed in (
            ("temperature", self.temperature, self.temperature >= 0, "at least 0, which is greedy"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", self.min_p, self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0; 1 changes nothing"),
        ):
            if not is_valid:
                raise RequestError(f"{name} is {value}.\nGive a number {needed}.")
        if self.temperature == 0 and (named := [name for name in _CUTS if getattr(self, name) is not None]):
            raise RequestError(
                f"{named[0]} is for tokens that are drawn, but temperature is 0, which takes the most likely one.\n"
                "Give a temperature too, such as 0.7."
            )


_CUTS = ("top_k", "top_p", "min_p")


class TokenChooser:
    """Chooses the next tokens of a batch of texts.

    Each text has a random stream of its own, so that what is drawn for it does not depend on the others of its batch.

    Args:
        sampling: The rules.
        numbers: A number of each text, which its random stream depends on.
    """

    def __init__(self, sampling: Sampling, numbers: Sequence[int]) -> None:
        import numpy as np

        self.sampling = sampling
        self._streams = [np.random.default_rng((sampling.seed, number)) for number in numbers]

    def choose(self, logits_bv: Floats, texts: Sequence[Sequence[int]]) -> Integers:
        """Return the next token of each text, int64 [batch].

        Args:
            logits_bv: The logits after each text, float32 [batch, vocabulary].
            texts: The token ids of each text so far, prompt included.
        """
        import numpy as np

        scores_bv = penalize(logits_bv, texts, self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            chosen: Integers = scores_bv.argmax(axis=1)
            return chosen
        shares_bv = probabilities(scores_bv, self.sampling)
        drawn = [
            np.searchsorted(np.cumsum(shares_v), stream.random() * shares_v.sum(), side="right")
            for shares_v, stream in zip(shares_bv, self._streams, strict=True)
        ]
        return np.array(drawn, np.int64)


def penalize(logits_bv: Floats, texts: Sequence[Sequence[int]], penalty: float) -> Floats:
    """Return logits with the penalty for tokens that the texts have: `RepetitionPenaltyLogitsProcessor`, transformers.

    Args:
        logits_bv: The logits after each text, [batch, vocabulary].
        texts: The token ids of each text, prompt included.
        penalty: The penalty; 1 changes nothing.
    """
    import numpy as np

    if penalty == 1.0:
        return logits_bv
    penalized_bv = logits_bv.copy()
    for scores_v, text in zip(penalized_bv, texts, strict=True):
        tokens = np.unique(np.asarray(text, np.int64))
        known = scores_v[tokens]
        scores_v[tokens] = np.where(known < 0, known * penalty, known / penalty)
    return penalized_bv


def probabilities(logits_bv: Floats, sampling: Sampling) -> Doubles:
    """Return the probability of each token under the rules, in the order of transformers: k, then p, then min_p.

    Args:
        logits_bv: The logits, [batch, vocabulary].
        sampling: The rules, with a temperature above 0.

    Returns:
        float64 [batch, vocabulary]; the tokens that are cut off have 0, and the others add up to 1.
    """
    import numpy as np

    scores_bv = logits_bv.astype(np.float64) / sampling.temperature
    vocabulary = scores_bv.shape[1]
    if sampling.top_k is not None and sampling.top_k < vocabulary:
        least_b1 = np.partition(scores_bv, vocabulary - sampling.top_k, axis=1)[:, [vocabulary - sampling.top_k]]
        scores_bv = np.where(scores_bv < least_b1, -np.inf, scores_bv)
    shares_bv = _softmax(scores_bv)
    if sampling.top_p is not None and sampling.top_p < 1:
        order_bv = np.argsort(-shares_bv, axis=1, kind="stable")
        sorted_bv = np.take_along_axis(shares_bv, order_bv, axis=1)
        # a token stays if those before it do not reach the sum: the most likely one always does
        stays_bv = np.cumsum(sorted_bv, axis=1) - sorted_bv < sampling.top_p
        kept_bv = np.zeros_like(stays_bv)
        np.put_along_axis(kept_bv, order_bv, stays_bv, axis=1)
        shares_bv = _normalize(np.where(kept_bv, shares_bv, 0.0))
    if sampling.min_p is not None:
        least_b1 = sampling.min_p * shares_bv.max(axis=1, keepdims=True)
        shares_bv = _normalize(np.where(shares_bv >= least_b1, shares_bv, 0.0))
    return shares_bv


def _softmax(scores_bv: Doubles) -> Doubles:
    import numpy as np

    return _normalize(np.exp(scores_bv - scores_bv.max(axis=1, keepdims=True)))


def _normalize(shares_bv: Doubles) -> Doubles:
    normalized: Doubles = shares_bv / shares_bv.sum(axis=1, keepdims=True)
    return normalized
