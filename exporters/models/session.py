"""One graph, loaded into a runtime: what models of every kind are run through, whatever the runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        dtype: As numpy names it; `bfloat16` besides.
        axes: Its sizes; a name stands for one that varies.
    """

    dtype: str
    axes: tuple[int | str, ...]

    @property
    def float_dtype(self) -> Dtype | None:
        """What its numbers are; None for whole numbers and truths."""
        return Dtype(self.dtype) if self.dtype in DTYPES else None


def widen_bfloat16(bits: Any) -> Floats:
    """Return bfloat16 numbers, given as their bits in uint16, as float32: they are its upper half."""
    import ml_dtypes
    import numpy as np

    floats: Floats = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    return floats


class Session(ABC):
    """A graph, loaded and ready. Values are of the runtime's own type, and stay where it keeps them.

    Attributes:
        inputs: What it takes, by name.
        outputs: What it returns, by name, in its order.
        threads: How many threads compute one operator; 0 where a GPU computes.
        description: Name and version of the runtime.
        limits: The largest batch and text that it takes; None where it takes any.
    """

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    threads: int
    description: str
    limits: Limits | None = None

    @abstractmethod
    def to_value(self, array: Any, dtype: Dtype | None = None) -> Any:
        """Return an array as the runtime takes it.

        Args:
            array: Numbers of any type.
            dtype: What floating-point numbers are rounded to; None leaves the array as it is.
        """

    @abstractmethod
    def to_float32(self, value: Any) -> Floats:
        """Return a value of floating-point numbers as an array."""

    @abstractmethod
    def run(self, outputs: Sequence[str], values: Mapping[str, Any], *, keep: Collection[str] = ()) -> list[Any]:
        """Compute outputs; what is given is not changed, and neither is what an earlier run returned.

        Args:
            outputs: The names of what is wanted.
            values: All inputs, by name.
            keep: Which outputs are inputs of a later run: they stay where they are computed, be it on a GPU.
        """

    def choose_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the graph is run on: its inputs among those given, floating-point numbers in its own dtype.

        Args:
            given: Arrays by name; those that the graph does not take are left out.

        Raises:
            ValueError: One is missing.
        """
        if missing := [name for name in self.inputs if name not in given]:
            raise ValueError(f"The graph also needs the inputs {', '.join(missing)}; got {', '.join(given) or 'none'}.")
        return {name: self.to_value(given[name], port.float_dtype) for name, port in self.inputs.items()}
