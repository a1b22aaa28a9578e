"""How models are run by a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.errors import RequestError
from amp_export.options import BenchmarkDevice, Dtype, Format, Provider, Runtime
from amp_export.verb_options import BenchmarkOptions

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
"""The default runtime of an export."""


@dataclass(frozen=True)
class Setup:
    """How a model is run.

    Attributes:
        runtime: What runs it.
        threads: Threads that compute one operator; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        gpu: Whether a GPU is requested, if neither runtime nor provider implies it.
        dtype: What PyTorch computes in; graphs and engines have theirs.
    """

    runtime: Runtime = Runtime.ONNXRUNTIME
    threads: int | None = None
    provider: Provider = Provider.CPU
    gpu: bool = False
    dtype: Dtype = Dtype.FLOAT32

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


def choose_setup(options: BenchmarkOptions) -> Setup:
    """Return how models are run, every choice made.

    Raises:
        RequestError: Runtime, export and execution provider do not go together.
    """
    runtime, to, provider = options.runtime, options.to, options.provider
    if runtime is None:
        runtime = RUNTIMES[to or Format.ONNX]
    if to is not None and to is not FORMATS.get(runtime):
        runs = FORMATS.get(runtime, "the checkpoint")
        raise RequestError(f"--runtime {runtime} runs {runs}, not what --to {to} names.\nLeave one of them out.")
    if provider is not Provider.CPU and runtime is not Runtime.ONNXRUNTIME:
        raise RequestError(f"--provider is for ONNX Runtime, and --runtime {runtime} has none.\nLeave one of them out.")
    gpu = options.device is BenchmarkDevice.CUDA
    if gpu and runtime is Runtime.ONNXRUNTIME and provider is Provider.CPU:
        provider = Provider.CUDA
    return Setup(runtime, threads=options.threads, provider=provider, gpu=gpu)
