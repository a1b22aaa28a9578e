"""Data classes for the facts about a device."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from amp_export.options import Opset


class NumberFormat(enum.StrEnum):
    """Number formats of a device's matrix units."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4 weights"
    """4-bit weights that are converted to 16 bits before the multiplication."""
    FLOAT8 = "float8"
    FLOAT4 = "float4"


@dataclass(frozen=True)
class TensorRt:
    """A TensorRT version available for a device.

    Attributes:
        version: The version, or None if the user chooses one.
        comes_with: How it is installed, such as a JetPack version.
        opset: The newest export opset that its parser supports.
    """

    version: str | None
    comes_with: str
    opset: Opset


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        device: The vendor's name for it, including the variant.
        neuron_multiple: The number of kept neurons is rounded to a multiple of this.
        sources: Sources of the other fields, by field name.
        compute_capability: NVIDIA's compute capability, such as `8.7`.
        memory_bytes: Its total memory; None if not known.
        is_unified: Whether CPU and GPU share the memory.
        bandwidth: Published peak memory bandwidth in bytes per second; None if not known.
        dtypes: Number formats of its tensor cores.
        tensorrt: TensorRT versions available for it, oldest first; empty if it has no NVIDIA GPU.
    """

    device: str
    neuron_multiple: int
    sources: Mapping[str, str]
    compute_capability: str | None = None
    memory_bytes: int | None = None
    is_unified: bool = False
    bandwidth: float | None = None
    dtypes: frozenset[NumberFormat] = field(default_factory=frozenset)
    tensorrt: tuple[TensorRt, ...] = ()

    @property
    def opset(self) -> Opset:
        """The newest opset that every TensorRT version of this device supports."""
        return min((each.opset for each in self.tensorrt), key=lambda opset: opset.version, default=Opset.OPSET_23)
