"""A decoder on TensorRT: an engine with two optimization profiles, 0 for prefill and 1 for decode.

Uses only the Python API that 10.3 and 11.1 have in common (python/src/infer/pyCore.cpp of NVIDIA/TensorRT).
"""

from __future__ import annotations

import importlib
import mmap
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from .cuda import Cuda
from .errors import RunError
from .runtimes import TENSORRT, Array, widen_bfloat16

PREFILL, DECODE = 0, 1
"""Indices of the profiles, in the order in which the engine was built with them."""

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "uint16", "INT64": "int64", "INT32": "int32"}
"""numpy's dtypes by `trt.DataType`; numpy has no bfloat16, so uint16 holds its bits."""


class TensorRT:
    """A decoder on TensorRT, with the interface of `runtimes.OnnxRuntime`.

    The KV cache stays on the GPU in two sets of buffers. A step reads the cached tokens from one set, and writes cached
    and new tokens to the other; then the sets are swapped.

    Attributes:
        description: Name and version.
        threads: None, because the CPU computes nothing.
    """

    def __init__(self, engine_file: str, *, cuda: Any = None) -> None:
        trt = importlib.import_module(TENSORRT)
        self._cuda = cuda or Cuda()
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        with Path(engine_file).open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise RunError(
                f"TensorRT {trt.__version__} cannot load {engine_file}: see the log for the reason.\n"
                "An engine runs only with the version and on the GPU that built it. Remove it, and run again."
            )
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        self._past_names = [name for name in names if name.startswith("past_key_values.")]
        self._inputs = {name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self._dtypes = {name: _DTYPES[self._engine.get_tensor_dtype(name).name] for name in names}
        self._contexts = [self._context(trt, profile) for profile in (PREFILL, DECODE)]
        self._buffers: dict[str, tuple[int, int]] = {}
        self._flip, self._length = 0, 0
        self.description = f"TensorRT {trt.__version__}"
        self.threads = None

    def start(self, batch: int, tokens: int) -> None:
        """Clear the KV cache, and allocate its buffers.

        Args:
            batch: Batch size of the next texts.
            tokens: Largest number of tokens of a text.
        """
        self._length = 0
        for name in self._past_names:
            _, heads, _, head_dim = self._engine.get_tensor_shape(name)
            size = batch * heads * tokens * head_dim * self._item_bytes(name)
            for half in (0, 1):
                self._buffer(f"{name}.{half}", size)

    def step(self, input_ids: Array, attention_mask: Array, position_ids: Array) -> Array:
        """Compute the logits of new tokens; arguments and result are those of `runtimes.OnnxRuntime.step`."""
        context = self._contexts[DECODE if self._length else PREFILL]
        # the copies must stay referenced until the stream is synchronized
        given = self._give(
            context, {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        )
        batch, new = input_ids.shape
        self._place_past(context, batch)
        logits = self._run(context, batch)
        del given
        self._flip, self._length = 1 - self._flip, self._length + new
        return logits

    def device_memory_bytes(self) -> int:
        """Return the GPU memory that all processes use, in bytes."""
        return int(self._cuda.used_bytes())

    def _context(self, trt: Any, profile: int) -> Any:
        """Return a context for one profile, with only the memory that this profile needs."""
        context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)
        if context is None or not context.set_optimization_profile_async(profile, self._cuda.stream):
            raise RunError(
                f"TensorRT could not prepare profile {profile} of the engine: the GPU's memory may be full.\n"
                "Close other programs, or make the bundle with a smaller --max-context."
            )
        self._cuda.synchronize()
        return context

    def _give(self, context: Any, arrays: dict[str, Array]) -> Sequence[Array]:
        given = []
        for name, array in arrays.items():
            if name not in self._inputs:
                continue
            converted = np.ascontiguousarray(array, dtype=self._dtypes[name])
            address = self._buffer(name, converted.nbytes)
            self._cuda.to_device(address, converted)
            self._set_shape(context, name, converted.shape)
            context.set_tensor_address(name, address)
            given.append(converted)
        return given

    def _place_past(self, context: Any, batch: int) -> None:
        for name in self._past_names:
            _, heads, _, head_dim = self._engine.get_tensor_shape(name)
            self._set_shape(context, name, (batch, heads, self._length, head_dim))
            context.set_tensor_address(name, self._buffers[f"{name}.{self._flip}"][0])
            present = name.replace("past_key_values", "present")
            context.set_tensor_address(present, self._buffers[f"{name}.{1 - self._flip}"][0])

    def _run(self, context: Any, batch: int) -> Array:
        # those of all new tokens, or of the last one
        _, kept, vocabulary = (int(size) for size in context.get_tensor_shape("logits"))
        row_bytes = vocabulary * self._item_bytes("logits")
        address = self._buffer("logits", batch * kept * row_bytes)
        context.set_tensor_address("logits", address)
        if not context.execute_async_v3(self._cuda.stream):
            raise RunError("TensorRT could not run the engine: see the log for the reason.")
        last = np.empty((batch, vocabulary), self._dtypes["logits"])
        for row in range(batch):
            self._cuda.to_host(last[row], address + ((row + 1) * kept - 1) * row_bytes)
        self._cuda.synchronize()
        return widen_bfloat16(last) if last.dtype == np.uint16 else last.astype(np.float32)

    def _set_shape(self, context: Any, name: str, shape: Sequence[int]) -> None:
        if context.set_input_shape(name, tuple(shape)):
            return
        profile = context.active_optimization_profile
        smallest, _, largest = (tuple(each) for each in self._engine.get_tensor_profile_shape(name, profile))
        raise RunError(
            f"{name} has the shape {list(shape)}, but the engine takes {list(smallest)} to {list(largest)}.\n"
            "Make the bundle with a larger --max-batch or --max-context."
        )

    def _buffer(self, name: str, size: int) -> int:
        """Return the address of a buffer of at least this many bytes; even an empty one needs an address."""
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity < max(size, 1):
            if address:
                self._cuda.free(address)
            capacity = max(size, 1)
            address = self._cuda.allocate(capacity)
            self._buffers[name] = address, capacity
        return address

    def _item_bytes(self, name: str) -> int:
        return np.dtype(self._dtypes[name]).itemsize
