"""Which weights have 8 bits, where the average is given."""

from __future__ import annotations

from collections.abc import Mapping

from amp_export.exporters.onnx.quantization import FEW_BITS, MANY_BITS


def choose_dear(costs: Mapping[str, float], sizes: Mapping[str, int], *, average_bits: float) -> tuple[str, ...]:
    """Return the weights to store with 8 bits: those with the largest cost per number, as far as the average allows.

    Args:
        costs: What 4 bits cost each weight.
        sizes: The number of values of each weight.
        average_bits: Largest average of the bits of all of them.

    Returns:
        Their names, in the order of `sizes`.
    """
    room = (average_bits - FEW_BITS) / (MANY_BITS - FEW_BITS) * sum(sizes.values())
    chosen = set()
    for name in sorted(costs, key=lambda name: costs[name] / sizes[name], reverse=True):
        if sizes[name] <= room:
            chosen.add(name)
            room -= sizes[name]
    return tuple(name for name in sizes if name in chosen)
