"""What a decoder's cache holds: keys and values of each token, and states, which do not grow with the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amp_export.architectures._config import ModelConfig
from amp_export.architectures._sites import LayerWidths
from amp_export.architectures._tensors import axis_length


@dataclass(frozen=True)
class CacheTensor:
    """One tensor of a cache.

    Attributes:
        layer: The layer that it belongs to.
        part: What it holds: `key`, `value`, or the name of a state.
        axes: Its axes after the batch; None is the number of tokens of the text.
        in_float32: Whether it is in float32, whatever the model's dtype.
    """

    layer: int
    part: str
    axes: tuple[int | None, ...]
    in_float32: bool = False

    @property
    def is_state(self) -> bool:
        """Whether its size is the same for texts of any length."""
        return None not in self.axes


def cache_tensors(config: ModelConfig, widths: Sequence[LayerWidths]) -> Iterator[CacheTensor]:
    """Yield the tensors of a decoder's cache, layer by layer.

    Args:
        config: Config of the decoder.
        widths: Widths of each layer.
    """
    for number, (site, layer) in enumerate(zip(config.sites, widths, strict=True)):
        if site.stack.attention is not None:
            for part in ("key", "value"):
                yield CacheTensor(number, part, (layer.key_value_heads, None, config.head_dim))
        for state in site.stack.mixer.states if site.stack.mixer is not None else ():
            axes = tuple(axis_length(config, axis, layer) for axis in state.axes)
            yield CacheTensor(number, state.name, axes, state.in_float32)
