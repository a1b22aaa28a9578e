"""Runtime and settings of a benchmark."""

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
    Runtime.LLAMA_CPP: Format.GGUF,
}
"""Export format by runtime; PyTorch runs the checkpoint."""

RUNTIMES = {
    Format.ONNX: Runtime.ONNXRUNTIME,
    Format.TENSORRT: Runtime.TENSORRT,
    Format.OPENVINO: Runtime.OPENVINO,
    Format.EXECUTORCH: Runtime.EXECUTORCH,
    Format.GGUF: Runtime.LLAMA_CPP,
}
"""Default runtime by export format."""

ON_CPU = frozenset({Runtime.OPENVINO, Runtime.EXECUTORCH, Runtime.LLAMA_CPP})
"""Runtimes that run on the CPU: OpenVINO knows no NVIDIA GPU, and the packages of the others are built for CPUs."""


@dataclass(frozen=True)
class Setup:
    """Runtime and settings for a model.

    Attributes:
        runtime: The runtime.
        threads: Threads that compute one operator; by default one per core.
        provider: Execution provider of ONNX Runtime.
        gpu: Whether a GPU is requested, if neither runtime nor provider implies it.
        dtype: Dtype of PyTorch; exports have their own.
    """

    runtime: Runtime = Runtime.ONNXRUNTIME
    threads: int | None = None
    provider: Provider = Provider.CPU
    gpu: bool = False
    dtype: Dtype = Dtype.FLOAT32

    @property
    def format(self) -> Format | None:
        """Format of the export that is run; None if PyTorch runs the checkpoint."""
        return FORMATS.get(self.runtime)

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on a GPU."""
        return self.gpu or self.provider is not Provider.CPU or self.runtime is Runtime.TENSORRT

    @property
    def name(self) -> str:
        """Name in a report."""
        if self.runtime is Runtime.ONNXRUNTIME and self.provider is not Provider.CPU:
            return f"{self.runtime}-{self.provider}"
        return f"{self.runtime}-cuda" if self.gpu and self.runtime is not Runtime.TENSORRT else self.runtime.value


def choose_setup(options: BenchmarkOptions) -> Setup:
    """Return the setup for the user's options.

    Raises:
        RequestError: Runtime, export format and execution provider are incompatible.
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
    if gpu and runtime in ON_CPU:
        raise RequestError(
            f"--device cuda is for a GPU, and --runtime {runtime} runs on the CPU here.\n"
            "Leave one of them out, or measure on another device: --device ssh://user@host."
        )
    if gpu and runtime is Runtime.ONNXRUNTIME and provider is Provider.CPU:
        provider = Provider.CUDA
    return Setup(runtime, threads=options.threads, provider=provider, gpu=gpu)
