"""Runs an exported model on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amp_export.exporters.models.kinds import GraphModel, choose_model
from amp_export.exporters.models.ports import check_decoder
from amp_export.exporters.models.replaying import ReplayingDecoder
from amp_export.exporters.onnx.capturing import check_capturable
from amp_export.exporters.onnx.sessions import CPU_PROVIDER, exported_graphs, open_session, require_runtime
from amp_export.hardware.threads import usable_cores


def run(
    folder: Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] = (CPU_PROVIDER,),
    exact: bool = False,
    cuda_graph: bool = False,
) -> GraphModel:
    """Load an exported model into ONNX Runtime; its kind is detected from its files and inputs.

    Args:
        folder: Folder that `export` or `trace` wrote.
        threads: Number of intra-op threads; by default one per core that the process may use.
        providers: Execution providers of ONNX Runtime, in order of preference.
        exact: Whether products with quantized weights take activations as they are, instead of rounding them.
        cuda_graph: Whether a decoder's steps are captured as CUDA graphs, which needs the CUDA execution provider.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: The folder holds no graph, or a damaged one.
        RequestError: The installed onnxruntime lacks a provider, could not start it, or cannot capture the graph.
        UnsupportedModelError: The providers do not support an operator in the graph's dtype.
    """
    require_runtime()
    if cuda_graph:
        check_capturable(folder)
    threads = threads if threads is not None else usable_cores()
    sessions = [
        open_session(graph, threads=threads, providers=providers, exact=exact, cuda_graph=cuda_graph)
        for graph in exported_graphs(folder)
    ]
    if cuda_graph:
        check_decoder(sessions[-1], folder)
        return ReplayingDecoder(sessions[-1])
    return choose_model(sessions, folder)
