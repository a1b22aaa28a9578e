"""A fake `tensorrt` that computes with ONNX Runtime, and a fake GPU whose memory is this process's.

It has the names, profiles and refusals of the real one, as far as the device's scripts use them. A wrong shape, buffer
or address gives wrong logits.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

Profiles = list[dict[str, list[list[int]]]]
DTYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}


class FakeCuda:
    """Memory by address; freed blocks are forgotten, so that using them fails."""

    stream = 7

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}

    def allocate(self, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        address = ctypes.addressof(block)
        self.blocks[address] = block
        return address

    def free(self, address: int) -> None:
        del self.blocks[address]

    def to_device(self, address: int, array: Any) -> None:
        self.at(address, array.nbytes)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def to_host(self, array: Any, address: int) -> None:
        self.at(address, array.nbytes)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def at(self, address: int, size: int) -> None:
        """Check that this many bytes at an address are allocated."""
        assert any(start <= address and address + size <= start + len(block) for start, block in self.blocks.items()), (
            "beyond what was allocated"
        )

    def synchronize(self) -> None: ...

    def used_bytes(self) -> int:
        return sum(map(len, self.blocks.values()))


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.active_optimization_profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream == FakeCuda.stream
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        self._shapes[name] = shape
        return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, new = self._shapes["input_ids"]
        _, heads, past, head_dim = self._shapes.get(name.replace("present", "past_key_values"), (0, 0, 0, 0))
        if name == "logits":
            return (batch, new, self._engine.get_tensor_shape(name)[2])
        return (batch, heads, past + new, head_dim)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == FakeCuda.stream
        engine = self._engine
        inputs = {name: self._read(name, self._shapes[name]) for name in engine.inputs}
        found = engine.session.run(engine.outputs, inputs)
        for name, array in zip(engine.outputs, found, strict=True):
            assert array.shape == self.get_tensor_shape(name)
            engine.cuda.to_device(self._addresses[name], np.ascontiguousarray(array))
        return True

    def _read(self, name: str, shape: tuple[int, ...]) -> Any:
        array = np.empty(shape, NUMPY[self._engine.get_tensor_dtype(name).name])
        if array.size:
            self._engine.cuda.to_host(array, self._addresses[name])
        return array


class FakeEngine:
    def __init__(self, graph: Path, profiles: Profiles, cuda: FakeCuda) -> None:
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        self._entries = {entry.name: entry for entry in (*self.session.get_inputs(), *self.session.get_outputs())}
        self._profiles = profiles
        self.cuda = cuda
        self.num_io_tensors = len(self._entries)

    def get_tensor_name(self, number: int) -> str:
        return str(list(self._entries)[number])

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=DTYPES[self._entries[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._entries[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        return self._profiles[profile][name]

    def create_execution_context(self, strategy: str) -> FakeContext:
        assert strategy == "on profile change"
        return FakeContext(self)


def fake_tensorrt(graph: Path, profiles: Profiles, cuda: FakeCuda) -> Any:
    """Return the module; the file of an engine contains the word `engine`."""

    def deserialize(content: Any) -> FakeEngine | None:
        return FakeEngine(graph, profiles, cuda) if bytes(content) == b"engine" else None

    return SimpleNamespace(
        __version__="10.15.0.1",
        Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None}),
        Runtime=lambda _: SimpleNamespace(deserialize_cuda_engine=deserialize),
        TensorIOMode=SimpleNamespace(INPUT="input"),
        ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE="on profile change"),
    )
