"""Runs an exported decoder on ONNX Runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import MissingExtraError, ModelError, RequestError, UnsupportedModelError
from amp_export.exporters import Precision
from amp_export.exporters.onnx.exporting import GRAPH
from amp_export.exporters.onnx.threads import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession, OrtValue

    Integers = np.ndarray[Any, np.dtype[np.int64]]
    Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Past:
    """The keys and values of all tokens so far, which stay in the runtime.

    Attributes:
        length: How many tokens, padding counted.
        values: By the name of the graph's input that takes it.
    """

    length: int
    values: Mapping[str, OrtValue]


class OnnxDecoder:
    """A decoder, loaded and ready. `run` makes one.

    Attributes:
        num_layers: How many decoder layers it has.
        precision: The dtype of its weights, activations, keys and values.
        threads: How many threads compute one operator.
    """

    def __init__(self, session: InferenceSession, *, threads: int) -> None:
        self._session: InferenceSession | None = session
        self._inputs = {entry.name for entry in session.get_inputs()}
        self._outputs = [output.name for output in session.get_outputs()]
        self._past_inputs = [entry for entry in session.get_inputs() if entry.name.startswith("past_key_values.")]
        self.num_layers = len(self._past_inputs) // 2
        self.precision = _PRECISIONS[self._past_inputs[0].type]
        self.threads = threads

    def forward(
        self, input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Past | None = None
    ) -> tuple[Floats, Past]:
        """Computes the logits of new tokens.

        Args:
            input_ids: The new tokens, int64 [batch_size, sequence_length].
            attention_mask: 1 for tokens and 0 for padding, int64 [batch_size, past length + sequence_length].
            position_ids: The place of each new token in its text, int64 [batch_size, sequence_length].
            past: What the call before returned; None at the start of a text.

        Returns:
            Logits, float32 [batch_size, sequence_length, vocab_size], and the past for the next call.

        Raises:
            ValueError: The decoder was closed, or the attention mask does not cover the past and the new tokens.
        """
        from onnxruntime import OrtValue

        if self._session is None:
            raise ValueError("This decoder was closed.")
        batch_size, sequence_length = input_ids.shape
        past = past if past is not None else self._empty_past(batch_size)
        total = past.length + sequence_length
        if attention_mask.shape != (batch_size, total):
            raise ValueError(
                f"attention_mask has the shape {list(attention_mask.shape)}; {past.length} tokens of past and "
                f"{sequence_length} new ones need {[batch_size, total]}."
            )
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        # some traced decoders take no position_ids
        values = {name: OrtValue.ortvalue_from_numpy(array) for name, array in given.items() if name in self._inputs}
        logits, *present = self._session.run_with_ort_values(self._outputs, {**values, **past.values})
        names = [name.replace("present", "past_key_values") for name in self._outputs[1:]]
        return _to_float32(logits), Past(length=total, values=dict(zip(names, present, strict=True)))

    def close(self) -> None:
        """Frees the weights."""
        self._session = None

    def _empty_past(self, batch_size: int) -> Past:
        import numpy as np
        from onnxruntime import OrtValue

        dtype, onnx_type = _ELEMENTS[self.precision]
        values = {}
        for entry in self._past_inputs:
            _, heads, _, head_dim = entry.shape
            empty = np.empty((batch_size, heads, 0, head_dim), dtype)
            values[entry.name] = OrtValue.ortvalue_from_numpy_with_onnx_type(empty, onnx_type)
        return Past(length=0, values=values)


def require_runtime() -> None:
    """Imports ONNX Runtime, so that its absence is known before any work is done.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("onnxruntime", needed_for="Running an ONNX graph") from error


def run(
    folder: Path, *, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> OnnxDecoder:
    """Loads an exported decoder into ONNX Runtime.

    Args:
        folder: What `export` wrote.
        threads: How many threads compute one operator; by default one for each core that the process may use.
        providers: ONNX Runtime's execution providers, in order of preference.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: The folder holds no graph, or a damaged one.
        RequestError: A provider is not part of the onnxruntime that is installed.
        UnsupportedModelError: The graph is not a decoder's, or the providers lack an operator in its precision.
    """
    require_runtime()
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedByRuntime

    graph = folder / GRAPH
    if not graph.is_file():
        raise ModelError(f"{folder} holds no {GRAPH}.\nExport a checkpoint first: amp-export export --to onnx.")
    available = onnxruntime.get_available_providers()
    if missing := [provider for provider in providers if provider not in available]:
        raise RequestError(f"onnxruntime has no {', '.join(missing)} here.\nAvailable: {', '.join(available)}.")

    threads = threads if threads is not None else usable_cores()
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
    if not any(entry.name.startswith("past_key_values.") for entry in session.get_inputs()):
        raise UnsupportedModelError(
            f"{graph} takes no keys and values: it is not a decoder.\nOpen it with onnxruntime.InferenceSession."
        )
    return OnnxDecoder(session, threads=threads)


def _to_float32(value: OrtValue) -> Floats:
    import numpy as np

    if value.data_type() != "tensor(bfloat16)":
        floats: Floats = value.numpy().astype(np.float32, copy=False)
        return floats
    # onnxruntime 1.32 makes no array of bfloat16, which is the upper half of float32
    halves = np.ctypeslib.as_array((ctypes.c_uint16 * int(np.prod(value.shape()))).from_address(value.data_ptr()))
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(value.shape())


_PRECISIONS = {
    "tensor(float)": Precision.FLOAT32,
    "tensor(float16)": Precision.FLOAT16,
    "tensor(bfloat16)": Precision.BFLOAT16,
}
"""By the names that ONNX Runtime gives to types."""

_ELEMENTS = {Precision.FLOAT32: ("float32", 1), Precision.FLOAT16: ("float16", 10), Precision.BFLOAT16: ("uint16", 16)}
"""numpy's dtype for the bits, and the number in `TensorProto.DataType`."""
