"""Builds an engine from an ONNX graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError
from amp_export.exporters.tensorrt.problems import explain_build, explain_parse
from amp_export.exporters.tensorrt.progress import BuildProgress, monitor_class

if TYPE_CHECKING:
    from amp_export.exporters.tensorrt.flavors import TensorRtFlavor
    from amp_export.exporters.tensorrt.profiles import Profile

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class BuildSettings:
    """Settings of a build.

    Attributes:
        profiles: Optimization profiles of the engine.
        compute_capability: Compute capability of the target GPU.
        workspace_bytes: Limit of the scratch memory of a kernel; None for no limit.
        timing_cache: File with the timings of earlier builds, which is read and updated; None for no such file.
    """

    profiles: Sequence[Profile]
    compute_capability: str
    workspace_bytes: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in memory.

    Attributes:
        content: Its bytes.
        seconds: Duration of the build, including parsing.
        attentions: Number of Attention operators in the graph.
    """

    content: memoryview
    seconds: float
    attentions: int


@dataclass
class Messages:
    """Errors and warnings that a runtime logs; they are not printed."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def build_engine(
    graph: Path, runtime: TensorRtFlavor, settings: BuildSettings, *, on_progress: Advance | None = None
) -> BuiltEngine:
    """Build an engine.

    Args:
        graph: ONNX graph, with its weights next to it.
        runtime: TensorRT variant to build with.
        settings: Settings of the build.
        on_progress: Called with the work done and the total.

    Raises:
        ModelError: The file is not an ONNX graph.
        UnsupportedModelError: The runtime does not support an operator of the graph; the message names it.
        RequestError: The build failed.
        KeyboardInterrupt: The user interrupted the build.
    """  # noqa: DOC501  `explain_parse` and `explain_build` return the errors above
    started = time.perf_counter()
    trt, messages = runtime.module, Messages()
    builder = trt.Builder(_logger(trt, messages))
    network = runtime.create_network(builder)
    parser = trt.OnnxParser(network, builder.logger)
    parsed = parser.parse_from_file(str(graph))
    # the parser accepts a file that is not a graph, and returns an empty network
    if not parsed or network.num_outputs == 0:
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        raise explain_parse(graph, runtime, errors)
    attentions = runtime.allow_any_attention(network)

    config = create_config(builder, runtime, settings)
    for profile in settings.profiles:
        _add_profile(builder, config, profile)
    cache = settings.timing_cache if runtime.has_timing_cache else None
    if cache is not None:
        _take_timing_cache(config, cache)
    progress = BuildProgress(on_progress)
    config.progress_monitor = monitor_class(trt)(progress)
    content = builder.build_serialized_network(network, config)
    if progress.interrupted:
        raise KeyboardInterrupt
    if content is None:
        raise explain_build(graph, runtime, messages.errors)
    if cache is not None:
        _keep_timing_cache(config, cache)
    return BuiltEngine(memoryview(content), time.perf_counter() - started, attentions)


def create_config(builder: Any, runtime: TensorRtFlavor, settings: BuildSettings) -> Any:
    """Return TensorRT's builder config for these settings, without profiles."""
    trt = runtime.module
    config = builder.create_builder_config()
    # on by default; TF32 would round the mantissas of float32 to 10 bits
    config.clear_flag(trt.BuilderFlag.TF32)
    runtime.set_compute_capability(config, settings.compute_capability)
    # so that an engine inspector can show the names, inputs and outputs of kernels
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    return config


def _logger(trt: Any, messages: Messages) -> Any:
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                messages.errors.append(message)
            elif level == severity.WARNING:
                messages.warnings.append(message)

    return Logger()


def _add_profile(builder: Any, config: Any, profile: Profile) -> None:
    made = builder.create_optimization_profile()
    for name, shapes in profile.ranges.items():
        made.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
    number = config.add_optimization_profile(made)
    if number < 0:
        raise RequestError(
            f"TensorRT refuses the limits of the profile {profile.name}.\nGive others: --max-batch, --max-context."
        )


def _take_timing_cache(config: Any, file: Path) -> None:
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    # a cache of another version or GPU is rejected: use an empty one
    if not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timing_cache(config: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(memoryview(config.get_timing_cache().serialize()))
    partial.replace(file)
