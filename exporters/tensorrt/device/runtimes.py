"""Runtimes of a device with the same interface: ONNX Runtime here, TensorRT in `engines`."""

from __future__ import annotations

import importlib
from typing import Any, Sequence

import numpy as np

from .errors import RunError

TENSORRT, ONNXRUNTIME = "tensorrt", "onnxruntime"

Array = Any
"""A numpy array."""

_ELEMENTS = {"float32": ("float32", 1), "float16": ("float16", 10), "bfloat16": ("uint16", 16)}
"""numpy's dtype for the bits, and the number in `TensorProto.DataType`, by dtype."""

_LOGITS_TO_KEEP = "num_logits_to_keep"

_MEETS_OPSET = {20: "1.17", 23: "1.23"}
"""The first ONNX Runtime that loads our graphs, by opset: tested with 1.16 to 1.24."""


class OnnxRuntime:
    """A decoder on ONNX Runtime.

    Attributes:
        description: Name, version and provider.
        threads: Number of intra-op threads; 0 is the runtime's default.
    """

    def __init__(self, graph: str, *, precision: str, opset: int, provider: str | None, threads: int) -> None:
        runtime = importlib.import_module(ONNXRUNTIME)
        chosen = provider or default_provider(runtime.get_available_providers())
        self._session = _open_session(runtime, graph, chosen, precision, opset, threads)
        self._runtime = runtime
        self._place = "cpu" if chosen == "CPUExecutionProvider" else "cuda"
        self._precision = precision
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._options = {entry.name for entry in self._session.get_overridable_initializers()}
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self._past_shapes = {
            entry.name: entry.shape for entry in self._session.get_inputs() if entry.name.startswith("past_key_values.")
        }
        self._past: dict[str, Any] = {}
        self._cuda: Any = None
        self.description = f"ONNX Runtime {runtime.__version__}, {chosen}"
        self.threads = threads

    def start(self, batch: int, tokens: int) -> None:
        """Clear the KV cache.

        Args:
            batch: Batch size of the next texts.
            tokens: Largest number of tokens of a text; ignored, since this runtime allocates memory as needed.
        """
        del tokens
        self._past = {
            name: self._value(np.empty((batch, shape[1], 0, shape[3]), _ELEMENTS[self._precision][0]))
            for name, shape in self._past_shapes.items()
        }

    def step(self, input_ids: Array, attention_mask: Array, position_ids: Array) -> Array:
        """Compute the logits of new tokens.

        Args:
            input_ids: The new tokens, int64 [batch, new].
            attention_mask: 1 for tokens and 0 for padding, int64 [batch, past + new].
            position_ids: The position of each new token, int64 [batch, new].

        Returns:
            Logits of the last new token, float32 [batch, vocabulary].
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        binding = self._session.io_binding()
        for name, array in given.items():
            if name in self._inputs:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        if _LOGITS_TO_KEEP in self._options:
            # arrays can be bound only to inputs without a default
            one = self._runtime.OrtValue.ortvalue_from_numpy(np.array(1, np.int64))
            binding.bind_ortvalue_input(_LOGITS_TO_KEEP, one)
        for name, value in self._past.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, "cpu" if name == "logits" else self._place)
        self._session.run_with_iobinding(binding)
        values = dict(zip(self._outputs, binding.get_outputs()))
        logits = self._to_float32(values.pop("logits"))
        self._past = {name.replace("present", "past_key_values"): value for name, value in values.items()}
        return logits

    def device_memory_bytes(self) -> int | None:
        """Return the GPU memory that all processes use, in bytes; None on a CPU."""
        if self._place == "cpu":
            return None
        if self._cuda is None:
            from .cuda import Cuda

            self._cuda = Cuda()
        return int(self._cuda.used_bytes())

    def _value(self, array: Array) -> Any:
        value = self._runtime.OrtValue
        if self._precision != "bfloat16":
            return value.ortvalue_from_numpy(array)
        # numpy has no bfloat16, so its bits are passed
        return value.ortvalue_from_numpy_with_onnx_type(array, _ELEMENTS["bfloat16"][1])

    def _to_float32(self, value: Any) -> Array:
        if self._precision != "bfloat16":
            return value.numpy()[:, -1].astype(np.float32)
        import ctypes

        # onnxruntime does not convert bfloat16, which is the upper half of float32
        shape = value.shape()
        count = int(np.prod(shape))
        halves = np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(value.data_ptr())).reshape(shape)
        return widen_bfloat16(halves[:, -1])


def widen_bfloat16(halves: Array) -> Array:
    """Return bfloat16 numbers, given as their bits in uint16, as float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def default_provider(available: Sequence[str]) -> str:
    """Return the default provider: CUDA if onnxruntime has it, otherwise the CPU."""
    return "CUDAExecutionProvider" if "CUDAExecutionProvider" in available else "CPUExecutionProvider"


def _open_session(runtime: Any, graph: str, provider: str, precision: str, opset: int, threads: int) -> Any:
    available = runtime.get_available_providers()
    if provider not in available:
        raise RunError(
            f"onnxruntime {runtime.__version__} has no {provider}.\nGive --provider one of: {', '.join(available)}."
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # 3 shows errors only: users cannot act on the runtime's warnings
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(graph, options, providers=_with_fallbacks(provider, available, precision))
    except Exception as error:  # onnxruntime's errors have no other base class in common
        raise RunError(_explain(runtime.__version__, graph, precision, opset, error)) from error
    # onnxruntime continues without a provider that cannot start
    taken = session.get_providers()[0]
    if taken != provider:
        raise RunError(
            f"onnxruntime {runtime.__version__} could not start {provider} and fell back to {taken}.\n"
            "Install the libraries and versions that it needs, or give --provider CPUExecutionProvider."
        )
    return session


def _with_fallbacks(provider: str, available: Sequence[str], precision: str) -> list[Any]:
    """Return the provider, and those for the operators that it does not support."""
    cuda = "CUDAExecutionProvider"
    names = [provider]
    if provider not in (cuda, "CPUExecutionProvider") and cuda in available:
        names.append(cuda)
    if provider != "CPUExecutionProvider":
        names.append("CPUExecutionProvider")
    # TF32 would round mantissas to 10 bits, but the graph's own dtype is to be verified and measured
    return [(name, {"use_tf32": "0"}) if name == cuda and precision == "float32" else name for name in names]


def _explain(version: str, graph: str, precision: str, opset: int, error: Exception) -> str:
    first = str(error).strip().splitlines()[0][:300]
    lines = [f"onnxruntime {version} cannot load {graph}: {first}"]
    if version_tuple(version) < version_tuple(_MEETS_OPSET.get(opset, "0")):
        lines.append(
            f"The graph has opset {opset}, which needs onnxruntime {_MEETS_OPSET[opset]} or later: install that, or "
            "export with --opset 20 and make the bundle again."
        )
    elif precision == "bfloat16":
        lines.append("The CPU provider has no bfloat16 arithmetic: export in float16 or float32.")
    else:
        lines.append("If it ran out of memory, close other programs.")
    return "\n".join(lines)


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparison."""
    numbers = []
    for part in version.split(".")[:3]:
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def choose_runtime(asked: str | None) -> str:
    """Return the runtime to use: by default TensorRT if it can be imported, otherwise ONNX Runtime.

    Raises:
        RunError: It cannot be imported.
    """
    if asked is not None:
        _require(asked)
        return asked
    for name in (TENSORRT, ONNXRUNTIME):
        if _imports(name) is None:
            return name
    raise RunError(
        "This python3 has neither tensorrt nor onnxruntime.\n"
        "JetPack's TensorRT: sudo apt install python3-libnvinfer. ONNX Runtime: python3 -m pip install onnxruntime. "
        "If another Python has them, use it: AMP_EXPORT_PYTHON=/path/to/python3 bash run.sh."
    )


def _require(name: str) -> None:
    error = _imports(name)
    if error is not None:
        raise RunError(
            f"This python3 cannot import {name}: {error}\nInstall it there, or use the Python that has it: "
            "AMP_EXPORT_PYTHON=/path/to/python3 bash run.sh."
        )


def _imports(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that tensorrt needs is missing
        return str(error)
    return None
