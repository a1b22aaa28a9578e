"""What compensation did, for manifests and reports."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.pruning.compensation.least_squares import ROWS_PER_COLUMN


@dataclass(frozen=True)
class Update:
    """The update of one projection.

    Attributes:
        layer: Number of the plan's entry.
        module: Module path, relative to the layer.
        columns: Number of its inputs, with the constant that a bias multiplies.
        tokens: Number of tokens that it was fitted on.
        ridge: The ridge that was chosen, or None if the weight is left as it was.
        before: Squared error of the held-out tokens without an update, as a share of the power of what it should give.
        after: The same with the update.
    """

    layer: int
    module: str
    columns: int
    tokens: int
    ridge: float | None
    before: float
    after: float


@dataclass(frozen=True)
class Compensation:
    """How a model was compensated.

    Attributes:
        updates: The projections, in the order of the layers.
        forward_passes: Time that it took, as a multiple of that of the dense layers over the same tokens.
        origin: Description of the samples.
    """

    updates: tuple[Update, ...]
    forward_passes: float
    origin: str = "unknown"

    def __str__(self) -> str:
        updated = [update for update in self.updates if update.ridge is not None]
        tokens = max((update.tokens for update in self.updates), default=0)
        before, after = (
            sum(shares) / max(len(shares), 1)
            for shares in ([each.before for each in updated], [each.after for each in updated])
        )
        return (
            f"Compensation: {len(updated)} of {len(self.updates)} projections are fitted to the dense model on "
            f"{tokens:,} tokens of {self.origin}; their error on held-out tokens falls from {before:.1%} to "
            f"{after:.1%} on average, in the time of {self.forward_passes:.1f} forward passes"
        )

    @property
    def advice(self) -> str | None:
        """What to do if there were too few tokens; None if there were enough."""
        widest = max(self.updates, key=lambda update: update.columns, default=None)
        if widest is None or widest.tokens >= ROWS_PER_COLUMN * widest.columns:
            return None
        return (
            f"Compensation had {widest.tokens:,} tokens for projections of {widest.columns:,} inputs, so that updates "
            f"are shortened. Give {ROWS_PER_COLUMN * widest.columns:,} tokens or more of text with --calibration."
        )
