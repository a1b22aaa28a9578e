"""Engines built beside the graphs of an output directory; whether they can be built is checked first."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.errors import RequestError
from amp_export.options import Dtype, Format, Opset
from amp_export.verb_options import ExportOptions

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig
    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.tensorrt import EngineFacts, EngineSettings
    from amp_export.exporters.tensorrt.flavors import TensorRtFlavor
    from amp_export.hardware.gpus import Gpu
    from amp_export.progress import Progress

WORKSPACE_SHARE = 0.25
"""Share of the device's memory that a kernel may use as workspace; the weights, their copies during the build and, on a
Jetson, the system need the rest."""


def workspace_bytes(memory_bytes: int | None) -> int | None:
    """Return the workspace size for a device's memory, or None if the memory's size is not known."""
    return int(memory_bytes * WORKSPACE_SHARE) if memory_bytes is not None else None


@dataclass(frozen=True)
class EngineJob:
    """An engine that can be built here, as far as this is known in advance.

    Attributes:
        runtime: The TensorRT flavor that builds it.
        settings: Settings of the engine.
        gpu: The GPU in this machine, or None.
    """

    runtime: TensorRtFlavor
    settings: EngineSettings
    gpu: Gpu | None

    @property
    def runs_here(self) -> bool:
        """Whether the engine will run on the GPU in this machine."""
        wanted = self.settings.compute_capability
        return self.gpu is not None and wanted in (None, self.gpu.compute_capability)

    def choose_opset(self, config: ModelConfig) -> Opset:
        """Return the opset that its parser and builder support for this decoder."""
        from amp_export.exporters.tensorrt.flavors import builds_with_new_operators

        old = self.runtime.newest_opset is not None
        return Opset.OPSET_20 if old or not builds_with_new_operators(config) else Opset.OPSET_23


def prepare_engine(options: ExportOptions, config: ModelConfig) -> EngineJob:
    """Find a TensorRT flavor that can build an engine for a decoder, and choose its settings.

    Raises:
        UnsupportedModelError: The model is not a decoder whose graph is built directly.
        MissingExtraError: No TensorRT is installed.
        RequestError: The target has no TensorRT, or the limits do not fit the model.
    """
    from amp_export.caching import cache_directory
    from amp_export.exporters.limits import choose_limits
    from amp_export.exporters.support import require_exportable
    from amp_export.exporters.tensorrt import EngineSettings, load_flavor
    from amp_export.hardware.gpus import find_gpu
    from amp_export.hardware.targets import TARGETS

    require_exportable(config, Format.TENSORRT)
    context = config.context
    limits = choose_limits(context, max_batch=options.max_batch, max_context=options.max_context)
    target = TARGETS[options.target] if options.target is not None else None
    if target is not None and target.compute_capability is None:
        raise RequestError(f"{options.target} has no TensorRT.\nExport with --to onnx, or give a GPU with --target.")
    gpu = find_gpu()
    capability = target.compute_capability if target is not None else None
    here = gpu is not None and capability in (None, gpu.compute_capability)
    runtime = load_flavor(options.runtime, for_target=not here)
    present = gpu.compute_capability if gpu is not None else None
    runtime.check_compute_capability(capability, present=present)
    memory = target.memory_bytes if target is not None else gpu.memory_bytes if gpu is not None else None
    return EngineJob(
        runtime,
        EngineSettings(
            limits=limits,
            compute_capability=capability,
            workspace_bytes=workspace_bytes(memory),
            timing_cache=cache_directory() / "timing",
        ),
        gpu,
    )


def build_into(
    folder: Path, job: EngineJob, *, progress: Progress, description: str = "Building the engine"
) -> EngineFacts:
    """Build the engine of the graph in a staging folder."""
    from amp_export.checkpoints.reading import read_config
    from amp_export.exporters import tensorrt

    goal = job.settings.compute_capability or (job.gpu.name if job.gpu is not None else "")
    engine = folder / Format.TENSORRT
    with progress.step(f"{description} with {job.runtime.label} for {goal}") as advance:
        facts = tensorrt.export(
            folder / Format.ONNX, engine, job.runtime, job.settings, gpu=job.gpu, on_progress=advance
        )
    # transformers before 5.24 has no exporters that could open it
    if importlib.util.find_spec("transformers.exporters") is not None:
        from amp_export.exporters.tensorrt.transformers_format import write_manifest

        write_manifest(engine, facts, read_config(engine)[1].architecture.class_name)
    return facts


def check_dtype(checkpoint: Checkpoint, dtype: Dtype, *, progress: Progress) -> None:
    """Raise RequestError if activations overflow an engine's dtype.

    Raises:
        RequestError: Activations overflow float16.
    """
    if dtype is not Dtype.FLOAT16:
        return
    from amp_export.exporting.overflow import check_float16

    with progress.step("Checking for values that overflow float16"):
        check_float16(checkpoint.path)
