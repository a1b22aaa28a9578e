"""Data classes for MLPs that consist of experts, of which a router chooses some for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amp_export.architectures._blocks import Block, Projection


@dataclass(frozen=True)
class ClampedSwish:
    """A gate g sigmoid(alpha g), and an up that counts from one, both clamped: `GptOssExperts`, 5.24.

    Attributes:
        alpha: Config field with alpha.
        limit: Config field with the largest gate, and the largest magnitude of an up.
    """

    alpha: str
    limit: str


@dataclass(frozen=True, kw_only=True)
class Experts(Block):
    """Experts whose choice and computation are known; their weights are stacked in one parameter.

    A token's weights of its experts are a softmax over their scores. If they need not add up to one, it is over the
    scores of all experts.

    Attributes:
        router: Projection to a score for each expert.
        chosen: Number of experts that a token goes through, or the config field with it.
        adds_to_one: Whether the weights of a token's experts add up to one, or the config field that decides.
        sparse_mixer: Config field with half the distance from the best score, as a share, beyond which scores do not
            count: see `builder.experts`. None if that is not how experts are weighed.
        clamped_swish: The activation, if it is none that a config names.
        in_files: Names of tensors in the files that transformers writes, by their own, both relative to the layer. `*`
            is the number of an expert; the rows of several tensors follow one another.
    """

    router: Projection
    chosen: int | str = "num_experts_per_tok"
    adds_to_one: bool | str = True
    sparse_mixer: str | None = None
    clamped_swish: ClampedSwish | None = None
    in_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def routing(self) -> tuple[Projection, ...]:
        """Projections that decide where a token goes, and how much of it."""
        gate = None if self.shared_expert is None else self.shared_expert.gate
        return (self.router,) if gate is None else (self.router, gate)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Its linear layers, the router first."""
        return (self.router, *super().projections)

    def per_token(self, fields: Mapping[str, Any]) -> int:
        """Return the number of experts that a token goes through, under a config whose defaults are filled in."""
        return int(fields[self.chosen]) if isinstance(self.chosen, str) else self.chosen
