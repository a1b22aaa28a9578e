"""Exports a model to a folder with ExecuTorch programs, by tracing it with sample inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.older_versions import write_config
from amp_export.documents import decode_json
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.executorch.programs import ProgramFacts, require_runtime, runtime_version
from amp_export.exporters.limits import Limits
from amp_export.exporters.models.session import Port
from amp_export.exporters.tracing.environment import check_traceable, fast_export, named_errors, quiet
from amp_export.exporters.tracing.kinds import model_kind, tracing_jobs
from amp_export.options import Dtype

if TYPE_CHECKING:
    from executorch.exir import ExecutorchProgramManager
    from transformers import PreTrainedModel

    from amp_export.exporters.tracing.jobs import Job, Sample

DEFAULT_CONTEXT = 512
"""Default of the longest context in tokens; memory for the logits of all its tokens is planned."""

BATCH_AXIS = "batch_size"


@dataclass(frozen=True)
class ExecutorchExport:
    """Exported programs.

    Attributes:
        folder: Folder of the programs.
        programs: The files in order of execution; the facts of each are next to it.
        bytes_on_disk: Size of all files in the folder.
    """

    folder: Path
    programs: tuple[Path, ...]
    bytes_on_disk: int


def export(
    model: PreTrainedModel,
    folder: Path,
    *,
    dtype: Dtype,
    limits: Limits,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExecutorchExport:
    """Export a model for ExecuTorch's CPU runtime: XNNPACK where it supports an operator, else portable kernels.

    A decoder becomes one `model.pte` for prefill and decode, an encoder one too. An encoder-decoder becomes
    `encoder_model.pte`, `decoder_model.pte` for the first call and `decoder_with_past_model.pte` for all others; each
    file holds all weights that it uses, so the decoder's weights are stored twice. Inputs and outputs are those of
    `exporters.onnx.tracing.trace`. `config.json` is written next to them.

    Args:
        model: Model to export, in evaluation mode and with the dtype `dtype`.
        folder: Folder to create; an existing folder must be empty.
        dtype: Dtype of weights, activations, KV cache and outputs.
        limits: The largest shapes: memory is planned for them.
        on_progress: Called with the number of written programs and their total, at the start and after each.

    Raises:
        MissingExtraError: ExecuTorch is not installed.
        UnsupportedModelError: The model cannot be traced or lowered, or takes images of any size.
        OutputError: The folder is not empty.
        ValueError: The model is in training mode, or has another dtype.
    """
    require_runtime()
    check_traceable(model, folder, dtype)
    with named_errors(model), quiet():
        jobs = tracing_jobs(model, model_kind(model))
    folder.mkdir(parents=True, exist_ok=True)
    report = on_progress or (lambda _done, _total: None)
    report(0, len(jobs))
    programs = []
    for number, job in enumerate(jobs, start=1):
        programs.append((folder / job.file).with_suffix(".pte"))
        _write_program(model, job, programs[-1], dtype, limits)
        report(number, len(jobs))
    write_config(folder, decode_json(model.config.to_json_string()))
    return ExecutorchExport(folder, tuple(programs), directory_size(folder))


def _write_program(model: PreTrainedModel, job: Job, file: Path, dtype: Dtype, limits: Limits) -> None:
    import torch

    from amp_export.exporters.tracing.jobs import flatten, map_samples

    sizes = _largest_sizes(model, (sample for _, sample in flatten(job.inputs)), limits)

    def tensor(sample: Sample) -> torch.Tensor:
        # a static axis has exactly the program's size
        return sample.tensor[:1] if BATCH_AXIS in sample.axes and sizes[BATCH_AXIS] == 1 else sample.tensor

    with named_errors(model), quiet(), fast_export():
        inputs = map_samples(tensor, job.inputs)
        with torch.no_grad():
            returned = [name for name, _ in flatten(job.module(**inputs))]
        program = _lower(job.module, inputs, map_samples(lambda sample: _bounds(sample, sizes), job.inputs))
        taken, given = _ports(model, program, job, returned, sizes)
        with file.open("wb") as stream:
            program.write_to_file(stream)
    ProgramFacts(runtime_version(), dtype, limits, sizes, taken, given).save(file)


def _lower(module: Any, inputs: Any, shapes: Any) -> ExecutorchProgramManager:
    from transformers.exporters.configs import ExecutorchConfig
    from transformers.exporters.exporter_executorch import ExecutorchExporter

    settings = ExecutorchConfig(dynamic=True, dynamic_shapes=shapes)
    # its annotations only allow whole models, but it exports any module
    return cast("ExecutorchProgramManager", ExecutorchExporter().export(module, inputs, settings).program)


def _largest_sizes(model: PreTrainedModel, samples: Iterable[Sample], limits: Limits) -> dict[str, int]:
    """Return the largest size of each dynamic axis, at least the sample's: the model fixes the length of audio."""
    sizes: dict[str, int] = {}
    for sample in samples:
        for name, size in zip(sample.axes, sample.tensor.shape, strict=True):
            if name in ("height", "width"):
                raise UnsupportedModelError(
                    f"{type(model).__name__} takes images of any size, but an ExecuTorch program needs a largest size "
                    "to plan its memory.\nExport with --to onnx or --to openvino."
                )
            if name is not None:
                sizes[name] = limits.max_batch if name == BATCH_AXIS else max(limits.max_context, size)
    return sizes


def _bounds(sample: Sample, sizes: Mapping[str, int]) -> dict[int, Any]:
    """Return the dynamic axes of an input and their ranges."""
    import torch

    return {
        axis: torch.export.Dim.AUTO(min=1, max=sizes[name])
        for axis, name in enumerate(sample.axes)
        if name is not None and sizes[name] > 1
    }


def _ports(
    model: PreTrainedModel, program: ExecutorchProgramManager, job: Job, returned: list[str], sizes: Mapping[str, int]
) -> tuple[dict[str, Port], dict[str, Port]]:
    """Return inputs and outputs by name.

    Raises:
        UnsupportedModelError: Tracing specialized a dynamic size to a constant.
    """
    from amp_export.exporters.tracing.jobs import flatten

    graph = program.exported_program().graph
    by_name = {node.name: node.meta.get("val") for node in graph.nodes if node.op == "placeholder"}
    given = [by_name[name] for name in program.exported_program().graph_signature.user_inputs]
    (last,) = (node for node in graph.nodes if node.op == "output")
    declared = {name: sample.axes for name, sample in flatten(job.inputs)}
    names: dict[str, str] = {}
    for (input_name, axes), value in zip(declared.items(), given, strict=True):
        for axis, size in zip(axes, value.shape, strict=True):
            if axis is not None and isinstance(size, int) and sizes[axis] > 1:
                raise UnsupportedModelError(
                    f"{type(model).__name__} cannot be traced for inputs of any size: {axis} of {input_name} became "
                    f"{size}.\nIts forward must not convert input sizes to constants."
                )
            if axis is not None:
                names.setdefault(str(size), axis)
    outputs = dict(zip(returned, (node.meta["val"] for node in last.args[0]), strict=True))
    return (
        {name: _port(value, declared[name], {}) for name, value in zip(declared, given, strict=True)},
        {name: _port(value, job.output_axes(name), names) for name, value in outputs.items()},
    )


def _port(value: Any, axes: tuple[str | None, ...], names: Mapping[str, str]) -> Port:
    """Return an input or output, its axes named as declared, or else after an input's axis of the same size."""
    return Port(str(value.dtype).removeprefix("torch."), tuple(_sizes(value.shape, axes, names)))


def _sizes(shape: Iterable[Any], axes: tuple[str | None, ...], names: Mapping[str, str]) -> Iterator[int | str]:
    for number, size in enumerate(shape):
        axis = axes[number] if number < len(axes) else None
        if axis is not None:
            yield axis
        else:
            yield size if isinstance(size, int) else names.get(str(size), str(size))
