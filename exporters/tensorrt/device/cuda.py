"""The few required calls of the CUDA runtime, through ctypes: a device has its library, but maybe no Python binding.

Names and signatures: CUDA Runtime API, 12.6 and 13.0, sections Memory Management, Stream Management and Device
Management (docs.nvidia.com/cuda/cuda-runtime-api).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from pathlib import Path
from typing import Any, Iterator

from .errors import RunError

_TO_DEVICE, _TO_HOST = 1, 2
"""`cudaMemcpyHostToDevice` and `cudaMemcpyDeviceToHost`."""

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""`cudaDevAttrComputeCapabilityMajor` and `-Minor`."""


class Cuda:
    """The first GPU, and one stream on it."""

    def __init__(self) -> None:
        self._library = _load()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(handle))
        self.stream = int(handle.value or 0)

    def allocate(self, size: int) -> int:
        """Allocate GPU memory, and return its address.

        Raises:
            RunError: There is not enough memory.
        """
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return int(pointer.value or 0)

    def free(self, address: int) -> None:
        """Free GPU memory."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def to_device(self, address: int, array: Any) -> None:
        """Copy a contiguous array to the GPU; the array must stay until the stream is synchronized."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def to_host(self, array: Any, address: int) -> None:
        """Copy from the GPU into a contiguous array; it is filled when the stream is synchronized."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def synchronize(self) -> None:
        """Wait for all work on the stream."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))

    def used_bytes(self) -> int:
        """Return the GPU memory that all processes use, in bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value

    def compute_capability(self) -> str:
        """Return the compute capability, such as `8.7`."""
        numbers = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            numbers.append(str(value.value))
        return ".".join(numbers)

    def _copy(self, destination: int, source: int, size: int, kind: int) -> None:
        addresses = ctypes.c_void_p(destination), ctypes.c_void_p(source)
        self._call("cudaMemcpyAsync", *addresses, ctypes.c_size_t(size), kind, ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(code)
            reason = said.decode() if said else f"error {code}"
            raise RunError(f"{name} failed on the GPU: {reason}.\nIf it ran out of memory, close other programs.")


def _load() -> Any:
    libraries = filter(None, map(_open, _candidates()))
    for library in libraries:
        return library
    raise RunError(
        "CUDA's runtime library, libcudart.so, is not found.\n"
        "Add its folder to LD_LIBRARY_PATH, such as /usr/local/cuda/lib64, or give --runtime onnxruntime."
    )


def _open(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _candidates() -> Iterator[str]:
    found = ctypes.util.find_library("cudart")
    if found:
        yield found
    yield from ("libcudart.so", "libcudart.so.13", "libcudart.so.12")
    yield "/usr/local/cuda/lib64/libcudart.so"
    # if TensorRT was installed with pip, so were CUDA's libraries
    for folder in sys.path:
        yield from map(str, sorted(Path(folder).glob("nvidia/*/lib/libcudart.so.*")))
