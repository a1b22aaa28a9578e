"""Exports a folder with an ONNX graph to a folder with an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.hashing import hash_file
from amp_export.checkpoints.source_files import copy_files
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx.descriptions import GraphDescription, describe_graph
from amp_export.exporters.tensorrt.building import BuildSettings, build_engine
from amp_export.exporters.tensorrt.engines import ENGINE, EngineFacts
from amp_export.exporters.tensorrt.profiles import decoder_profiles

if TYPE_CHECKING:
    from amp_export.exporters.tensorrt.flavors import TensorRtFlavor
    from amp_export.hardware.gpus import Gpu

GRAPH = "model.onnx"


@dataclass(frozen=True)
class EngineSettings:
    """Settings of an engine.

    Attributes:
        limits: The largest batch and context.
        compute_capability: Compute capability of the target GPU; None for the GPU in the machine.
        workspace_bytes: Limit of the scratch memory of a kernel; None for no limit.
        timing_cache: Folder of timing caches; None to measure every time.
    """

    limits: Limits
    compute_capability: str | None = None
    workspace_bytes: int | None = None
    timing_cache: Path | None = None


def export(
    graph_folder: Path,
    folder: Path,
    runtime: TensorRtFlavor,
    settings: EngineSettings,
    *,
    gpu: Gpu | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EngineFacts:
    """Build the engine of a decoder's graph, and copy config and tokenizer next to it.

    Args:
        graph_folder: Folder that `exporters.onnx.export` wrote.
        folder: Folder to create.
        runtime: TensorRT variant to build with.
        settings: Settings of the engine.
        gpu: GPU in the machine; None without one.
        on_progress: Called with the work done and the total.

    Raises:
        ModelError: The graph is missing or damaged.
        UnsupportedModelError: It is not a decoder's graph, or the runtime does not support one of its operators.
        RequestError: The build failed, or the runtime cannot build for that GPU.
    """
    graph = graph_folder / GRAPH
    described = describe_decoder(graph)
    present = gpu.compute_capability if gpu is not None else None
    runtime.check_compute_capability(settings.compute_capability, present=present)
    capability = settings.compute_capability or present
    assert capability is not None
    profiles = decoder_profiles({name: port.axes for name, port in described.inputs.items()}, settings.limits)
    cache = None
    if settings.timing_cache is not None:
        cache = settings.timing_cache / f"{runtime.kind}-{'.'.join(map(str, runtime.version))}-sm{capability}.cache"
    engine = build_engine(
        graph,
        runtime,
        BuildSettings(
            profiles=profiles,
            compute_capability=capability,
            workspace_bytes=settings.workspace_bytes,
            timing_cache=cache,
        ),
        on_progress=on_progress,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENGINE).write_bytes(engine.content)
    copy_files([graph_folder / "config.json", *find_companions(graph_folder)], folder, base=graph_folder)
    facts = EngineFacts(
        runtime=runtime.kind,
        version=".".join(map(str, runtime.version[:3])),
        compute_capability=capability,
        device=gpu.name if gpu is not None and capability == present else None,
        dtype=described.dtype,
        opset=described.opset.version,
        graph_sha256=hash_file(graph),
        inputs=described.inputs,
        outputs=described.outputs,
        limits=settings.limits,
        profiles=profiles,
        attentions=engine.attentions,
        build_seconds=engine.seconds,
        engine_bytes=engine.content.nbytes,
    )
    facts.save(folder)
    return facts


def describe_decoder(graph: Path) -> GraphDescription:
    """Return the description of a decoder's graph.

    Raises:
        ModelError: The graph is missing or damaged.
        UnsupportedModelError: It is not a decoder's graph.
    """
    described = describe_graph(graph)
    if described.cache_length is not None:
        raise UnsupportedModelError(
            f"{graph} has a KV cache of fixed length, and engines are built with one that grows.\nExport the graph "
            "without --static-cache."
        )
    if not any(name.startswith("past_key_values.") for name in described.inputs):
        raise UnsupportedModelError(
            f"{graph} is not the graph of a decoder with a KV cache: its inputs are {', '.join(described.inputs)}.\n"
            "Engines are built from decoders only. For other models, run the ONNX graph with ONNX Runtime's TensorRT "
            "provider."
        )
    return described
