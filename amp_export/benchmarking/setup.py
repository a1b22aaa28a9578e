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

CAPTURING = (Runtime.ONNXRUNTIME, Runtime.GENAI, Runtime.COMPILED)
"""Runtimes that can capture decode steps as CUDA graphs here. The steps of an engine have a cache that grows."""


@dataclass(frozen=True)
class Setup:
    """Runtime and settings for a model.

    Attributes:
        runtime: The runtime.
        threads: Threads that compute one operator; by default one per core.
        provider: Execution provider of ONNX Runtime.
        gpu: Whether a GPU is requested, if neither runtime nor provider implies it.
        dtype: Dtype of PyTorch; exports have their own.
        cuda_graph: Whether steps of decoding are captured as CUDA graphs, and replayed.
    """

    runtime: Runtime = Runtime.ONNXRUNTIME
    threads: int | None = None
    provider: Provider = Provider.CPU
    gpu: bool = False
    dtype: Dtype = Dtype.FLOAT32
    cuda_graph: bool = False

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
        name = self.runtime.value
        if self.runtime is Runtime.ONNXRUNTIME and self.provider is not Provider.CPU:
            name += f"-{self.provider}"
        elif self.gpu and self.runtime is not Runtime.TENSORRT:
            name += "-cuda"
        return f"{name}-graph" if self.cuda_graph else name


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
    if options.cuda_graph:
        _check_captures(runtime, provider, gpu=gpu)
    return Setup(runtime, threads=options.threads, provider=provider, gpu=gpu, cuda_graph=options.cuda_graph)


def _check_captures(runtime: Runtime, provider: Provider, *, gpu: bool) -> None:
    """Check that a runtime can capture decode steps as CUDA graphs.

    Raises:
        RequestError: It cannot, or runs on the CPU.
    """
    if runtime not in CAPTURING:
        raise RequestError(
            f"--cuda-graph is for {', '.join(CAPTURING)}, and --runtime {runtime} cannot capture its steps here.\n"
            "Leave --cuda-graph out, or measure another runtime."
        )
    if runtime is Runtime.ONNXRUNTIME and provider not in (Provider.CPU, Provider.CUDA):
        raise RequestError(
            f"--cuda-graph is for the execution provider cuda, and --provider {provider} was given.\n"
            "Leave one of them out."
        )
    if not gpu and provider is Provider.CPU:
        raise RequestError(
            "--cuda-graph replays steps on a GPU, and this benchmark runs on the CPU.\n"
            "Add --device cuda, or leave --cuda-graph out."
        )
