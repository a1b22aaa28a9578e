"""Runners for benchmarks: one module per runtime, each with a function `load`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.benchmarking.setup import Setup
from amp_export.options import Format, Runtime

if TYPE_CHECKING:
    from amp_export.benchmarking.runners.base import Runner


def require(setup: Setup) -> None:
    """Raise an error if a runtime is not available, before anything is exported for it.

    Raises:
        MissingExtraError: The runtime is not installed.
        RequestError: The requested GPU, execution provider or compiler is not available.
    """
    if setup.format is Format.ONNX:
        from amp_export.exporters.onnx.sessions import check_providers, require_runtime

        require_runtime()
        check_providers([setup.provider.onnxruntime_name])
    if setup.runtime is Runtime.GENAI:
        from amp_export.benchmarking.runners import genai

        genai.require()
    if setup.format is Format.OPENVINO:
        from amp_export.exporters import openvino

        openvino.require_runtime()
    if setup.format is Format.EXECUTORCH:
        from amp_export.exporters import executorch

        executorch.require_runtime()
    if setup.format is Format.GGUF:
        from amp_export.exporters import gguf

        gguf.require_writer()
        gguf.require_runtime()
    if setup.format is None:
        from amp_export.benchmarking.runners import pytorch

        pytorch.require(compiled=setup.runtime is Runtime.COMPILED, gpu=setup.gpu)


def import_runtime(setup: Setup) -> None:
    """Import a runtime that takes seconds to import, so that the load time excludes the import."""
    if setup.format is Format.EXECUTORCH:
        from amp_export.exporters import executorch

        executorch.import_runtime()


def load(folder: Path, setup: Setup) -> Runner:
    """Load a model into its runtime.

    Args:
        folder: An export, or a checkpoint for PyTorch.
        setup: Runtime and settings.

    Raises:
        AmpExportError: See the runtime's module.
    """
    if setup.runtime is Runtime.GENAI:
        from amp_export.benchmarking.runners import genai

        return genai.load(folder, threads=setup.threads, gpu=setup.gpu, cuda_graph=setup.cuda_graph)
    if setup.format is None:
        from amp_export.benchmarking.runners import pytorch

        return pytorch.load(
            folder,
            dtype=setup.dtype,
            threads=setup.threads,
            compiled=setup.runtime is Runtime.COMPILED,
            gpu=setup.gpu,
            cuda_graph=setup.cuda_graph,
        )
    from amp_export.benchmarking.runners import exported as graphs

    return graphs.load(folder, threads=setup.threads, provider=setup.provider, cuda_graph=setup.cuda_graph)
