"""The numbers of a point, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One kind of number.

    Attributes:
        heading: Its name in a table.
        show: Returns it as text.
        rises: Whether it rises with the ratio, as far as noise allows.
    """

    heading: str
    show: Callable[[float], str]
    rises: bool = False


MEASURES: Mapping[str, Measure] = {
    "ratio": Measure("Removed", lambda share: f"{share:.1%}", rises=True),
    "parameters": Measure("Parameters", lambda count: f"{count / 1e6:.4g} M"),
    "perplexity": Measure("Perplexity", lambda perplexity: f"{perplexity:.4g}", rises=True),
    "kl": Measure("KL, nats", lambda divergence: f"{divergence:.3g}", rises=True),
    "top1_agreement": Measure("Top-1", lambda share: f"{share:.1%}"),
    "size_mb": Measure("Size, MB", lambda size: f"{size:.4g}"),
    "prefill_ms": Measure("Prefill, ms", lambda milliseconds: f"{milliseconds:.4g}"),
    "decode_ms": Measure("Decode, ms", lambda milliseconds: f"{milliseconds:.4g}"),
    "draft_accepted": Measure("Accepted", lambda share: f"{share:.0%}"),
    "draft_speedup": Measure("As draft", lambda speedup: f"x {speedup:.2f}"),
    "draft_speedup_low": Measure("As draft, at least", lambda speedup: f"x {speedup:.2f}"),
}
"""All numbers, in the order of a table."""

LIMITED = ("decode_ms", "prefill_ms", "perplexity", "parameters", "size_mb", "ratio")
"""Those that conditions may name."""
