"""Runs exported programs on ExecuTorch, on the CPU."""

from __future__ import annotations

import gc
import io
import os
import sys
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, RequestError
from amp_export.exporters.executorch.programs import ProgramFacts, require_runtime, runtime_version
from amp_export.exporters.files import exported_files
from amp_export.exporters.models.kinds import GraphModel, choose_model
from amp_export.exporters.models.session import Session
from amp_export.exporters.tracing.environment import quiet
from amp_export.hardware.threads import usable_cores
from amp_export.options import Dtype, Format

if TYPE_CHECKING:
    import torch

    from amp_export.exporters.models.session import Floats

_loaded: weakref.WeakSet[ExecutorchSession] = weakref.WeakSet()
"""The loaded programs, which share the process's threads."""


def run(folder: Path, *, threads: int | None = None) -> GraphModel:
    """Load exported programs into ExecuTorch; the kind of model is detected from their files.

    Args:
        folder: Folder that `export` wrote.
        threads: Number of intra-op threads; by default one per core that the process may use. All programs of a process
            share them.

    Raises:
        MissingExtraError: ExecuTorch is not installed.
        ModelError: The folder holds no program, or a damaged one.
        RequestError: Another program is loaded with another number of threads.
    """
    require_runtime()
    files = exported_files(folder, Format.EXECUTORCH)
    facts = [ProgramFacts.load(file) for file in files]
    _set_threads(threads if threads is not None else usable_cores())
    return choose_model([ExecutorchSession(*each) for each in zip(files, facts, strict=True)], folder)


def import_runtime() -> None:
    """Import ExecuTorch, which takes seconds because its runtime imports its compiler."""
    with _silence():
        import executorch.runtime  # noqa: F401


class ExecutorchSession(Session):
    """A program on ExecuTorch. Values are torch tensors."""

    def __init__(self, file: Path, facts: ProgramFacts) -> None:
        self.inputs, self.outputs, self.limits = facts.inputs, facts.outputs, facts.limits
        self._file, self._sizes = file, facts.sizes
        self.description = f"ExecuTorch {runtime_version()}"
        with _silence():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            self.threads = int(portable_lib._threadpool_get_thread_count())
            try:
                # the program must live as long as its method
                self._program = Runtime.get().load_program(file)
                self._method = self._program.load_method("forward")
                found = (self._method.metadata.num_inputs(), self._method.metadata.num_outputs())
            except (KeyError, RuntimeError) as error:
                raise ModelError(f"ExecuTorch cannot load {file}: {error}\nExport it again.") from error
        if found != (len(self.inputs), len(self.outputs)):
            raise ModelError(
                f"{file} has {found[0]} inputs and {found[1]} outputs, but its JSON file describes {len(self.inputs)} "
                f"and {len(self.outputs)}.\nExport it again."
            )
        _loaded.add(self)

    def to_value(self, array: Any, dtype: Dtype | None = None) -> torch.Tensor:
        """See `Session.to_value`."""
        import numpy as np
        import torch

        value = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        torch_dtype = value.dtype if dtype is None else getattr(torch, dtype.value)
        # a copy: the runtime refuses the strides that numpy gives to an empty array
        return value.to(torch_dtype, copy=True, memory_format=torch.contiguous_format)

    def to_float32(self, value: torch.Tensor) -> Floats:
        """See `Session.to_float32`."""
        floats: Floats = value.float().numpy()
        return floats

    def run(
        self, outputs: Sequence[str], values: Mapping[str, torch.Tensor], *, keep: Collection[str] = ()
    ) -> list[torch.Tensor]:
        """See `Session.run`.

        Raises:
            RequestError: The program was not exported for these shapes, or failed.
        """
        del keep  # the CPU computes, so all outputs stay in place
        self._check(values)
        try:
            # it returns copies of its own memory, which the next run writes into
            found = self._method.execute([values[name] for name in self.inputs])
        except RuntimeError as error:
            raise RequestError(
                f"ExecuTorch could not compute {self._file}: {error}\n"
                "See its log above; the usual cause is a token that is not in the vocabulary."
            ) from error
        by_name = dict(zip(self.outputs, found, strict=True))
        return [by_name[name] for name in outputs]

    def _check(self, values: Mapping[str, torch.Tensor]) -> None:
        """Check the shape of every input against the planned sizes: the runtime itself only counts elements."""
        sizes: dict[str, int] = {}
        for name, port in self.inputs.items():
            shape = tuple(values[name].shape)
            if len(shape) != len(port.axes) or any(
                size != (sizes.setdefault(axis, size) if isinstance(axis, str) else axis)
                for axis, size in zip(port.axes, shape, strict=True)
            ):
                expected = ", ".join(f"{axis} = {sizes[axis]}" if axis in sizes else str(axis) for axis in port.axes)
                raise RequestError(f"{self._file} takes {name} of shape [{expected}], but got {list(shape)}.")
        for axis, size in sizes.items():
            if size > self._sizes[axis]:
                option = "--max-batch" if axis == "batch_size" else "--max-context"
                raise RequestError(
                    f"{self._file} takes a {axis} of up to {self._sizes[axis]}, but got {size}.\n"
                    f"Export it again with a larger {option}."
                )


def _set_threads(threads: int) -> None:
    """Set the number of threads that the process's programs share.

    Raises:
        RequestError: Loaded programs use another number of threads.
    """
    with _silence():
        from executorch.extension.pybindings import portable_lib

        present = int(portable_lib._threadpool_get_thread_count())
        if present == threads:
            return
        gc.collect()  # a closed program may still be referenced by a caught exception
        if _loaded:
            raise RequestError(
                f"{threads} threads were requested, but a program loaded in this process has {present}, and all "
                "programs share them.\nClose it first, or give the same number."
            )
        portable_lib._unsafe_reset_threadpool(threads)


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the runtime's output: its C++ part writes to Python's stderr, or to its file descriptor."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with quiet(), redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
