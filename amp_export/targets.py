"""What the shape of a pruned model should suit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: How the command line calls it.
        neuron_multiple: Kept neurons are rounded to a multiple of this.
    """

    name: str
    neuron_multiple: int


# 16 float32 numbers fill a 64-byte cache line and one AVX-512 register; 64 is the widest K tile that NVIDIA's guide to
# matrix multiplication names for 16-bit types ("Tensor Core Requirements", docs.nvidia.com/deeplearning/performance).
TARGETS = {target.name: target for target in (Target("cpu", neuron_multiple=16), Target("gpu", neuron_multiple=64))}
