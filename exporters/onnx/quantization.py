"""How the weights of a graph are quantized."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.options import WeightFormat

BLOCK_SIZES = (16, 32, 64, 128, 256)
"""Source: `MatMulNBits`, ONNX Runtime 1.32. With 512, it returns zeros (its issue 28551)."""

DEFAULT_BLOCK_SIZE = 32

FEW_BITS, MANY_BITS = 4, 8
"""Bits of weights, where some have more than others."""


@dataclass(frozen=True)
class Quantization:
    """How the weights of linear layers and of the LM head are stored.

    Attributes:
        weights: The format of all of them.
        block_size: Number of weights of a row that share a scale; None if all of a row do.
        at_8_bits: Names of weights that have 8 bits whatever the format says.
    """

    weights: WeightFormat
    block_size: int | None = DEFAULT_BLOCK_SIZE
    at_8_bits: tuple[str, ...] = ()
