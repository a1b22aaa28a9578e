"""The form in which the facts of a device are written down."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from amp_export.options import Opset


class NumberFormat(enum.StrEnum):
    """What a device's matrix units multiply."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4 weights"
    """Weights of 4 bits that are widened to 16 before they are multiplied."""
    FLOAT8 = "float8"
    FLOAT4 = "float4"


@dataclass(frozen=True)
class TensorRt:
    """A TensorRT that a device can have.

    Attributes:
        version: Its version, or None where the user installs any.
        comes_with: What brings it.
        opset: The newest operators, of those that graphs are exported in, that its parser takes.
    """

    version: str | None
    comes_with: str
    opset: Opset


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        device: Its name and variant, as its maker gives them.
        neuron_multiple: Kept neurons are rounded to a multiple of this.
        sources: Where each of the other fields is from, by the field's name.
        compute_capability: What it can do, by NVIDIA's numbers, such as `8.7`.
        memory_bytes: Its memory, all of it. None where it is not known.
        is_unified: Whether CPU and GPU share the memory.
        bandwidth: The memory's, as published: the peak in bytes a second. None where it is not known.
        dtypes: What its tensor cores take.
        tensorrt: The TensorRT that it can have, the oldest first; none where it has no NVIDIA GPU.
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
        """The newest operators that every TensorRT of this device takes."""
        return min((each.opset for each in self.tensorrt), key=lambda opset: opset.version, default=Opset.OPSET_23)
