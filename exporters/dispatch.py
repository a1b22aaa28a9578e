"""Dispatches to the packages of the runtimes, each of which has `export` and `run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.errors import RequestError
from amp_export.exporters.files import GRAPH, SUBFOLDER
from amp_export.options import Dtype, Format, Logits, Operators, Opset, Provider

if TYPE_CHECKING:
    from amp_export.exporters.gguf.running import LlamaDecoder
    from amp_export.exporters.models.kinds import GraphModel
    from amp_export.exporters.onnx import GraphDescription
    from amp_export.exporters.onnx.quantization import Quantization
    from amp_export.exporters.tensorrt.running import TensorrtDecoder


def exported_bytes(folder: Path) -> int:
    """Return the size of the files that a runtime loads (engine, programs, or graphs and weights), 0 without any."""
    patterns = ("*.engine", "*.pte", "*.gguf", "openvino_*", "*.onnx*", f"{SUBFOLDER}/*.onnx*")
    files = next((found for pattern in patterns if (found := [*folder.glob(pattern)])), [])
    return sum(file.stat().st_size for file in files)


def exported_opset(folder: Path) -> Opset:
    """Return the opset of an exported graph, or of the graph that an export was converted from.

    Raises:
        ModelError: The folder holds no graph.
    """
    return _described(folder).opset


def exported_operators(folder: Path) -> Operators:
    """Return the operators of an exported graph.

    Raises:
        ModelError: The folder holds no graph.
    """
    return _described(folder).operators


def exported_cache_length(folder: Path) -> int | None:
    """Return the tokens that the KV cache of an ONNX graph has room for; None if it grows.

    Raises:
        ModelError: The folder holds no graph.
    """
    return _described(folder).cache_length


def exported_logits(folder: Path) -> Logits:
    """Return the tokens whose logits the graph or the engine of a decoder computes.

    Raises:
        ModelError: The folder holds no graph.
    """
    from amp_export.exporters.executorch.programs import is_executorch
    from amp_export.exporters.gguf.files import is_gguf
    from amp_export.exporters.models.ports import kept_logits
    from amp_export.exporters.tensorrt.engines import EngineFacts, is_engine

    if is_executorch(folder) or is_gguf(folder):
        return Logits.ALL
    return kept_logits(EngineFacts.load(folder).outputs) if is_engine(folder) else _described(folder).logits


def exported_quantization(folder: Path) -> Quantization | None:
    """Return the format of the weights of an export, or of the graph that an engine was built from.

    Returns:
        The format; None if they are not quantized.

    Raises:
        ModelError: The graph is damaged.
    """
    from amp_export.exporters.gguf import files
    from amp_export.exporters.onnx import describe_graph

    if files.is_gguf(folder):
        return files.read_facts(files.exported_file(folder)).quantization
    graph = quantized_graph(folder)
    return describe_graph(graph).quantization if graph is not None else None


def quantized_graph(folder: Path) -> Path | None:
    """Return the graph with quantized weights that is in a folder, or that an engine in it was built from.

    Returns:
        The graph; None if there is none, or its weights are not quantized. A GGUF file is no graph.

    Raises:
        ModelError: The graph is damaged.
    """
    from amp_export.exporters.executorch.programs import is_executorch
    from amp_export.exporters.gguf.files import is_gguf
    from amp_export.exporters.onnx import describe_graph, exported_graphs
    from amp_export.exporters.openvino.models import is_openvino
    from amp_export.exporters.tensorrt.engines import is_engine

    if is_executorch(folder) or is_openvino(folder) or is_gguf(folder):
        return None
    if not is_engine(folder):
        graph = exported_graphs(folder)[-1]
    elif not (graph := folder.parent / Format.ONNX / GRAPH).is_file():
        return None
    return graph if describe_graph(graph).quantization is not None else None


def exported_dtype(folder: Path) -> Dtype:
    """Return the dtype of the last graph or program of an export that is not an engine.

    Raises:
        ModelError: The folder holds no graph or program, or its dtype is not known.
    """
    from amp_export.exporters.executorch import programs
    from amp_export.exporters.gguf import files
    from amp_export.exporters.onnx import exported_graphs
    from amp_export.exporters.onnx.descriptions import read_dtype
    from amp_export.exporters.openvino import models

    if programs.is_executorch(folder):
        return programs.read_facts(folder).dtype
    if models.is_openvino(folder):
        return models.read_description(folder).dtype
    if files.is_gguf(folder):
        return files.read_facts(files.exported_file(folder)).dtype
    # a benchmark may measure graphs of other exporters
    return read_dtype(exported_graphs(folder)[-1])


def _described(folder: Path) -> GraphDescription:
    """Return the description of the graph that runs last, or that the last model was converted from."""
    from amp_export.exporters.onnx import describe_graph, exported_graphs
    from amp_export.exporters.openvino import models

    return (
        models.read_description(folder) if models.is_openvino(folder) else describe_graph(exported_graphs(folder)[-1])
    )


def run(
    folder: Path,
    *,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    exact: bool = False,
    cuda_graph: bool = False,
) -> GraphModel | TensorrtDecoder | LlamaDecoder:
    """Load an exported model into its runtime, which is detected from the files.

    Args:
        folder: Folder that `export` wrote.
        threads: Number of intra-op threads on the CPU.
        provider: Execution provider of ONNX Runtime.
        exact: Whether ONNX Runtime multiplies quantized weights with activations as they are, instead of rounding them,
            and llama.cpp computes attention in float32, instead of rounding keys and values.
        cuda_graph: Whether ONNX Runtime captures a decoder's steps as CUDA graphs.

    Raises:
        RequestError: A provider is given, but ONNX Runtime does not run the export.
        AmpExportError: See `run` of the runtime.
    """
    from amp_export.exporters.executorch.programs import is_executorch
    from amp_export.exporters.gguf.files import is_gguf
    from amp_export.exporters.openvino.models import is_openvino
    from amp_export.exporters.tensorrt import engines

    is_engine, is_program, is_file = engines.is_engine(folder), is_executorch(folder), is_gguf(folder)
    if not (is_engine or is_program or is_file or is_openvino(folder)):
        from amp_export.exporters import onnx

        providers = [provider.onnxruntime_name]
        return onnx.run(folder, threads=threads, providers=providers, exact=exact, cuda_graph=cuda_graph)
    assert not cuda_graph, "only ONNX Runtime is asked for CUDA graphs"
    if provider is not Provider.CPU:
        raise RequestError(f"--provider applies to ONNX Runtime only, which does not run {folder}.\nLeave it out.")
    if is_engine:
        from amp_export.exporters.tensorrt import running

        return running.run(folder)
    if is_program:
        from amp_export.exporters import executorch

        return executorch.run(folder, threads=threads)
    if is_file:
        from amp_export.exporters import gguf

        return gguf.run(folder, threads=threads, exact=exact)
    from amp_export.exporters import openvino

    return openvino.run(folder, threads=threads)
