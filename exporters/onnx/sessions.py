"""What running a graph on ONNX Runtime takes, whatever its kind: the session, and values of all precisions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import MissingExtraError, ModelError, RequestError, UnsupportedModelError
from amp_export.exporters import Precision
from amp_export.exporters.onnx.exporting import GRAPH

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession, OrtValue

    Integers = np.ndarray[Any, np.dtype[np.int64]]
    Floats = np.ndarray[Any, np.dtype[np.float32]]

ENCODER = "encoder_model.onnx"
DECODER = "decoder_model.onnx"
DECODER_WITH_PAST = "decoder_with_past_model.onnx"

CPU_PROVIDER = "CPUExecutionProvider"

PRECISIONS = {
    "tensor(float)": Precision.FLOAT32,
    "tensor(float16)": Precision.FLOAT16,
    "tensor(bfloat16)": Precision.BFLOAT16,
}
"""By the names that ONNX Runtime gives to types."""

_ELEMENTS = {Precision.FLOAT32: ("float32", 1), Precision.FLOAT16: ("float16", 10), Precision.BFLOAT16: ("uint16", 16)}
"""numpy's dtype for the bits, and the number in `TensorProto.DataType`."""


def require_runtime() -> None:
    """Imports ONNX Runtime, so that its absence is known before any work is done.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("onnxruntime", needed_for="Running an ONNX graph") from error


def exported_graphs(folder: Path) -> tuple[Path, ...]:
    """The graphs in a folder, in the order in which they are run: one, or three of an encoder with a decoder.

    Raises:
        ModelError: There is none, or one of the three is missing.
    """
    names = (ENCODER, DECODER, DECODER_WITH_PAST) if (folder / ENCODER).is_file() else (GRAPH,)
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"{folder} holds no {name}.\nExport a checkpoint first: amp-export export --to onnx.")
    return tuple(folder / name for name in names)


def check_providers(providers: Sequence[str]) -> None:
    """Finds out whether providers are part of the onnxruntime that is installed.

    Raises:
        RequestError: One is not.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if missing := [provider for provider in providers if provider not in available]:
        raise RequestError(f"onnxruntime has no {', '.join(missing)} here.\nAvailable: {', '.join(available)}.")


def open_session(graph: Path, *, threads: int, providers: Sequence[str]) -> InferenceSession:
    """Loads one graph.

    Args:
        graph: Its file.
        threads: How many threads compute one operator.
        providers: ONNX Runtime's execution providers, in order of preference.

    Raises:
        ModelError: The graph is damaged.
        RequestError: A provider is not part of the onnxruntime that is installed.
        UnsupportedModelError: The providers lack an operator in the graph's precision.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedByRuntime

    check_providers(providers)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=list(providers))
    except NotImplementedByRuntime as error:
        raise UnsupportedModelError(
            f"{', '.join(providers)} cannot run {graph}: {error}\n"
            "The CPU provider has no bfloat16 arithmetic. Export in float32 or float16 to run it here."
        ) from error
    except Exception as error:  # onnxruntime's errors have no other base class in common
        raise ModelError(f"onnxruntime cannot load {graph}: {error}\nExport it again.") from error
    # a provider whose driver or libraries are missing is left out with a warning, and the processor computes
    if missing := [provider for provider in providers if provider not in session.get_providers()]:
        instead = ", ".join(session.get_providers())
        raise RequestError(
            f"onnxruntime could not start {', '.join(missing)} here, and fell back to {instead}.\n"
            "See that the GPU's driver and the provider's libraries are of the versions that onnxruntime asks for."
        )
    return session


def describe_runtime(session: InferenceSession) -> str:
    """Name and version of what runs a session, and its provider where that is not the processor's."""
    import onnxruntime

    provider = session.get_providers()[0]
    return f"ONNX Runtime {onnxruntime.__version__}" + (f" ({provider})" if provider != CPU_PROVIDER else "")


def to_value(array: Any, precision: Precision | None = None) -> OrtValue:
    """An array as the runtime takes it.

    Args:
        array: Numbers of any type.
        precision: What floating-point numbers are rounded to; None leaves the array as it is.
    """
    from onnxruntime import OrtValue

    if precision is None:
        return OrtValue.ortvalue_from_numpy(array)
    dtype, onnx_type = _ELEMENTS[precision]
    if precision is not Precision.BFLOAT16:
        return OrtValue.ortvalue_from_numpy(array.astype(dtype))
    import ml_dtypes

    # numpy has no bfloat16, so the runtime is given its bits
    return OrtValue.ortvalue_from_numpy_with_onnx_type(array.astype(ml_dtypes.bfloat16).view(dtype), onnx_type)


def empty_value(shape: Sequence[int], precision: Precision) -> OrtValue:
    """A value without entries."""
    import numpy as np
    from onnxruntime import OrtValue

    dtype, onnx_type = _ELEMENTS[precision]
    return OrtValue.ortvalue_from_numpy_with_onnx_type(np.empty(shape, dtype), onnx_type)


def to_float32(value: OrtValue) -> Floats:
    """A value of floating-point numbers as an array."""
    import numpy as np

    if value.data_type() != "tensor(bfloat16)":
        floats: Floats = value.numpy().astype(np.float32, copy=False)
        return floats
    # onnxruntime 1.32 makes no array of bfloat16, which is the upper half of float32
    halves = np.ctypeslib.as_array((ctypes.c_uint16 * int(np.prod(value.shape()))).from_address(value.data_ptr()))
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(value.shape())


def choose_inputs(entries: Sequence[Any], given: dict[str, Any]) -> dict[str, OrtValue]:
    """What a session is run on: its inputs among those given, floating-point numbers in its own precision.

    Args:
        entries: The session's inputs, as `InferenceSession.get_inputs` lists them.
        given: Arrays by name; those that the graph does not take are left out.

    Raises:
        ValueError: One is missing.
    """
    if missing := [entry.name for entry in entries if entry.name not in given]:
        raise ValueError(f"The graph needs {', '.join(missing)} as well; given were {', '.join(given) or 'none'}.")
    return {entry.name: to_value(given[entry.name], PRECISIONS.get(entry.type)) for entry in entries}
