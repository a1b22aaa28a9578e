"""From a folder with an ONNX graph to a folder with an engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints import hash_file
from amp_export.errors import ModelError, UnsupportedModelError
from amp_export.exporters import Precision
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx.opsets import read_ports
from amp_export.exporters.sessions import Port
from amp_export.exporters.tensorrt.building import BuildSettings, build_engine
from amp_export.exporters.tensorrt.engines import ENGINE, EngineFacts
from amp_export.exporters.tensorrt.profiles import decoder_profiles

if TYPE_CHECKING:
    from amp_export.exporters.tensorrt.runtimes import Runtime
    from amp_export.gpus import Gpu

GRAPH = "model.onnx"

COMPANIONS = ("config.json", "generation_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is to be.

    Attributes:
        limits: The largest batch and context.
        compute_capability: Of the GPU that it is for, or None for the one in the machine.
        workspace_bytes: The most scratch memory that a kernel may take, or None for all that there is.
        timing_cache: The folder where what builds measured is kept, or None to measure anew.
    """

    limits: Limits
    compute_capability: str | None = None
    workspace_bytes: int | None = None
    timing_cache: Path | None = None


def export(
    graph_folder: Path,
    folder: Path,
    runtime: Runtime,
    settings: EngineSettings,
    *,
    gpu: Gpu | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EngineFacts:
    """Builds the engine of a decoder's graph, with config and tokenizer beside it.

    Args:
        graph_folder: What `exporters.onnx.export` wrote.
        folder: Where to; it is made.
        runtime: What builds.
        settings: What the engine is to be.
        gpu: The GPU in the machine, if there is one.
        on_progress: Called with how much of the work is done, and of how much.

    Raises:
        ModelError: There is no graph.
        UnsupportedModelError: It is no decoder's graph, or the runtime cannot take an operator of it.
        RequestError: The build failed, or it cannot be done for that GPU.
    """
    graph = graph_folder / GRAPH
    described = describe_graph(graph)
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
    for file in sorted(graph_folder.iterdir()):
        if file.name in COMPANIONS or file.name.startswith("tokenizer"):
            shutil.copy2(file, folder / file.name)
    facts = EngineFacts(
        runtime=runtime.kind,
        version=".".join(map(str, runtime.version[:3])),
        compute_capability=capability,
        device=gpu.name if gpu is not None and capability == present else None,
        precision=described.precision,
        opset=described.opset,
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


@dataclass(frozen=True)
class GraphDescription:
    """What a decoder's graph takes and returns.

    Attributes:
        inputs: By name.
        outputs: By name.
        precision: The dtype of keys and values.
        opset: The version of its operators.
    """

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    precision: Precision
    opset: int


def describe_graph(graph: Path) -> GraphDescription:
    """Reads what a decoder's graph takes and returns.

    Raises:
        ModelError: There is no graph, or it is damaged.
        UnsupportedModelError: It is no decoder's.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(graph, load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f"{graph.parent} holds no {graph.name}.\nExport it: amp-export export --to onnx.") from error
    except DecodeError as error:
        raise ModelError(f"{graph} is damaged: {error}\nExport it again.") from error
    inputs, outputs = read_ports(model.graph.input), read_ports(model.graph.output)
    past = next((port for name, port in inputs.items() if name.startswith("past_key_values.")), None)
    if past is None:
        raise UnsupportedModelError(
            f"{graph} is no decoder's graph with keys and values of the past: it takes {', '.join(inputs)}.\n"
            "Engines are built from decoders. For others, run the ONNX graph with ONNX Runtime's TensorRT provider."
        )
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    return GraphDescription(inputs, outputs, Precision(past.dtype), opset)
