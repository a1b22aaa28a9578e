"""Speed and acceptance of speculative decoding, against the dense model alone, and their statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amp_export.benchmarking.statistics import Conclusion, conclude, speedup_interval
from amp_export.documents import convert, read_object
from amp_export.errors import OutputError
from amp_export.evaluation.estimates import t_quantile
from amp_export.outputs.names import DRAFT

MEASUREMENT = "measurement.json"
"""Name of the file with a measurement, beside both models."""

TIE = 0.01
"""Largest difference of two logits that passes for a near tie: the dense model computes a token's logits in another
batch when it checks drafts, so that sums round otherwise."""


@dataclass(frozen=True)
class DraftedText:
    """One text, by the dense model alone and with drafts.

    Attributes:
        prompt_tokens: Number of tokens of the prompt.
        tokens: Number of tokens that were generated.
        drafted: Number of drafted tokens that were checked.
        accepted: Number of these that the dense model would have chosen.
        rounds: Number of passes of the dense model.
        dense_seconds: Time of the dense model alone after the prompt.
        drafted_seconds: Time with drafts.
        first_difference: Number of the first token that differs, or None.
        tie: Difference of the dense model's logits of both tokens there, or None.
    """

    prompt_tokens: int
    tokens: int
    drafted: int
    accepted: int
    rounds: int
    dense_seconds: float
    drafted_seconds: float
    first_difference: int | None = None
    tie: float | None = None

    @property
    def same(self) -> bool:
        """Whether both texts are the same, up to a near tie."""
        return self.first_difference is None or (self.tie is not None and self.tie <= TIE)


@dataclass(frozen=True)
class DraftMeasurement:
    """Speculative decoding against the dense model alone.

    Attributes:
        runtime: Name and version of the runtime.
        texts: The texts.
        acceptance: Mean share of checked tokens that were accepted, over texts.
        acceptance_interval: Its 95 % confidence interval.
        tokens_per_pass: Mean number of tokens that a pass of the dense model gives.
        dense_tokens_per_second: Median over texts, of the dense model alone.
        drafted_tokens_per_second: Median over texts, with drafts.
        speedup: Geometric mean over texts of dense time over time with drafts.
        interval: Its 95 % confidence interval, over texts.
        conclusion: Conclusion from the interval.
        same: Whether all texts are the same, up to near ties.
    """

    runtime: str
    texts: tuple[DraftedText, ...]
    acceptance: float
    acceptance_interval: tuple[float, float]
    tokens_per_pass: float
    dense_tokens_per_second: float
    drafted_tokens_per_second: float
    speedup: float
    interval: tuple[float, float]
    conclusion: Conclusion
    same: bool

    @classmethod
    def of(cls, runtime: str, texts: Sequence[DraftedText]) -> DraftMeasurement:
        """Compute the statistics; the unit of all intervals is a text."""
        shares = [text.accepted / max(text.drafted, 1) for text in texts]
        mean = statistics.fmean(shares)
        half = math.inf
        if len(shares) > 1:
            half = t_quantile(len(shares) - 1) * statistics.stdev(shares) / math.sqrt(len(shares))
        ratios = [math.log(text.dense_seconds / text.drafted_seconds) for text in texts]
        interval = speedup_interval(ratios)
        return cls(
            runtime=runtime,
            texts=tuple(texts),
            acceptance=mean,
            acceptance_interval=(max(0.0, mean - half), min(1.0, mean + half)),
            tokens_per_pass=sum(text.tokens for text in texts) / max(sum(text.rounds for text in texts), 1),
            dense_tokens_per_second=statistics.median(text.tokens / text.dense_seconds for text in texts),
            drafted_tokens_per_second=statistics.median(text.tokens / text.drafted_seconds for text in texts),
            speedup=math.exp(statistics.fmean(ratios)),
            interval=interval,
            conclusion=conclude(interval),
            same=all(text.same for text in texts),
        )


def read_measurement(output: Path) -> DraftMeasurement | None:
    """Return what was measured of the draft in an output directory; None if nothing was.

    Raises:
        OutputError: The file is damaged.
    """
    file = output / DRAFT / MEASUREMENT
    if not file.is_file():
        return None
    return convert(read_object(file), DraftMeasurement, source=str(file), error=OutputError)
