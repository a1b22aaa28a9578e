"""One graph loaded into a runtime: the interface through which models of all kinds run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.exporters.limits import Limits
from amp_export.options import Dtype

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[Any, np.dtype[np.int64]]
    Floats = np.ndarray[Any, np.dtype[np.float32]]

DTYPES = frozenset(dtype.value for dtype in Dtype)


@dataclass(frozen=True)
class Port:
    """An input or an output of a graph.

    Attributes:
        dtype: Dtype by numpy's name, or `bfloat16`.
        axes: Sizes of its axes; dynamic axes have names.
    """

    dtype: str
    axes: tuple[int | str, ...]

    @property
    def float_dtype(self) -> Dtype | None:
        """Its floating-point dtype; None for integers and booleans."""
        return Dtype(self.dtype) if self.dtype in DTYPES else None


def floating_dtype(name: str, port: Port) -> Dtype:
    """Return the dtype of an output that must be floating-point.

    Raises:
        UnsupportedModelError: It is not.
    """
    if port.float_dtype is None:
        raise UnsupportedModelError(
            f"The graph's {name} has the dtype {port.dtype}.\nSupported: {', '.join(Dtype)}. Export it in one of them."
        )
    return port.float_dtype


def widen_bfloat16(bits: Any) -> Floats:
    """Return bfloat16 numbers, given as their bits in uint16, as float32: they are its upper half."""
    import ml_dtypes
    import numpy as np

    floats: Floats = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    return floats


class FixedCall(ABC):
    """A call whose inputs and outputs keep their shapes and addresses, so that a CUDA graph can replay it."""

    @abstractmethod
    def run(self, arrays: Mapping[str, Any]) -> None:
        """Compute the outputs.

        Args:
            arrays: What replaces the inputs' contents, by name, in the same shapes.
        """


class Session(ABC):
    """A loaded graph. Values have the runtime's own type and stay on its device.

    Attributes:
        inputs: Inputs by name.
        outputs: Outputs by name, in order.
        options: Inputs that need not be given.
        threads: Number of intra-op threads; 0 on a GPU.
        description: Name and version of the runtime.
        limits: The largest batch and context; None if there is no limit.
        context: The longest text in tokens that the graph has positions for; None if it does not say.
        takes_padding: Whether texts of a batch may be padded.
        fills_cache: Whether a KV cache with room for further tokens can be filled in place.
        activation_block: Number of activations that are rounded to int8 with one scale before a product with quantized
            weights; None if they are not.
    """

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    options: frozenset[str] = frozenset()
    threads: int
    description: str
    limits: Limits | None = None
    context: int | None = None
    takes_padding: bool = True
    fills_cache: bool = False
    activation_block: int | None = None

    @abstractmethod
    def to_value(self, array: Any, dtype: Dtype | None = None) -> Any:
        """Convert an array to a value of the runtime.

        Args:
            array: Array of any dtype.
            dtype: Dtype to round floating-point numbers to; None does not convert.
        """

    @abstractmethod
    def to_float32(self, value: Any) -> Floats:
        """Convert a floating-point value to a float32 array."""

    @abstractmethod
    def run(self, outputs: Sequence[str], values: Mapping[str, Any], *, keep: Collection[str] = ()) -> list[Any]:
        """Compute outputs; neither the inputs nor the outputs of earlier runs are modified.

        Args:
            outputs: Names of the outputs to return.
            values: All inputs, by name, and options if any.
            keep: Outputs that are inputs of a later run; they stay on the device that computed them.
        """

    def new_value(self, shape: Sequence[int], dtype: Dtype, *, zeros: bool = False) -> Any:
        """Return a value that `run_into` may fill, of zeros if needed; only for sessions that fill a cache in place."""
        raise NotImplementedError

    def run_into(
        self,
        outputs: Sequence[str],
        values: Mapping[str, Any],
        into: Mapping[str, Any],
        *,
        keep: Collection[str] = (),
    ) -> list[Any]:
        """Compute outputs, and write others in place; only for sessions that fill a cache in place.

        Args:
            outputs: Names of the outputs to return.
            values: All inputs, by name, and options if any.
            into: Values to write further outputs to, by name; they may be inputs, too.
            keep: Outputs that stay on the device that computed them.
        """
        raise NotImplementedError

    def fix_call(self, arrays: Mapping[str, Any], values: Mapping[str, Any], into: Mapping[str, Any]) -> FixedCall:
        """Return a call that can be repeated; only for sessions that fill a cache in place.

        Args:
            arrays: Inputs that each run replaces, by name, and options if any, which stay as they are.
            values: All other inputs, by name.
            into: Values to write all outputs to, by name; they may be inputs, too.

        Returns:
            The call, which owns memory for `arrays`.
        """
        raise NotImplementedError

    def choose_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Select the graph's inputs and convert floating-point numbers to its dtype.

        Args:
            given: Arrays by name; arrays that the graph does not take are ignored.

        Raises:
            RequestError: An input is missing.
        """
        if missing := [name for name in self.inputs if name not in given]:
            raise RequestError(
                f"The graph also needs the inputs {', '.join(missing)}; got {', '.join(given) or 'none'}."
            )
        return {name: self.to_value(given[name], port.float_dtype) for name, port in self.inputs.items()}
