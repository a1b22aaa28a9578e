"""How models are run by a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.options import Format, Precision, Provider, Runtime

if TYPE_CHECKING:
    pass


FORMATS = {
    Runtime.ONNXRUNTIME: Format.ONNX,
    Runtime.GENAI: Format.ONNX,
    Runtime.TENSORRT: Format.TENSORRT,
    Runtime.OPENVINO: Format.OPENVINO,
    Runtime.EXECUTORCH: Format.EXECUTORCH,
}
"""The export that a runtime runs; PyTorch runs the checkpoint."""

RUNTIMES = {
    Format.ONNX: Runtime.ONNXRUNTIME,
    Format.TENSORRT: Runtime.TENSORRT,
    Format.OPENVINO: Runtime.OPENVINO,
    Format.EXECUTORCH: Runtime.EXECUTORCH,
}
"""The runtime of an export where nothing else is said."""


@dataclass(frozen=True)
class Setup:
    """How a model is run.

    Attributes:
        runtime: What runs it.
        threads: Threads that compute one operator; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        gpu: Whether a GPU is asked for, where neither runtime nor provider says so.
        precision: What PyTorch computes in; graphs and engines have theirs.
    """

    runtime: Runtime = Runtime.ONNXRUNTIME
    threads: int | None = None
    provider: Provider = Provider.CPU
    gpu: bool = False
    precision: Precision = Precision.FLOAT32

    @property
    def format(self) -> Format | None:
        """The export that is run; None where PyTorch runs the checkpoint."""
        return FORMATS.get(self.runtime)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.gpu or self.provider is not Provider.CPU or self.runtime is Runtime.TENSORRT

    @property
    def name(self) -> str:
        """What a report calls it."""
        if self.runtime is Runtime.ONNXRUNTIME and self.provider is not Provider.CPU:
            return f"{self.runtime}-{self.provider}"
        return f"{self.runtime}-cuda" if self.gpu and self.runtime is not Runtime.TENSORRT else self.runtime.value
