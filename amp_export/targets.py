"""What the shape of a pruned model should suit."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.options import TargetName


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        neuron_multiple: Kept neurons are rounded to a multiple of this.
        workspace_bytes: What a build may take for its temporary memory; None leaves it all of the device's.
    """

    neuron_multiple: int
    workspace_bytes: int | None = None


# 16 float32 numbers fill a 64-byte cache line and one AVX-512 register; 64 is the widest K tile that NVIDIA's guide to
# matrix multiplication names for 16-bit types ("Tensor Core Requirements", docs.nvidia.com/deeplearning/performance).
TARGETS = {TargetName.CPU: Target(neuron_multiple=16), TargetName.GPU: Target(neuron_multiple=64)}
