"""TensorRT engines as a backend of `transformers.exporters`, which `ExportedModel.from_pretrained` opens."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.exporters.auto import register_backend
from transformers.exporters.base import HfExporter
from transformers.exporters.configs import ExportConfigMixin
from transformers.exporters.metadata import ExportMetadata

from amp_export.exporters.tensorrt.engines import ENGINE, FACTS, EngineFacts
from amp_export.exporters.tensorrt.transformers_format import FORMAT, EngineProgram, TensorrtRunner, describe_calls
from amp_export.options import Dtype


@dataclass
class TensorrtConfig(ExportConfigMixin):
    """Settings of an engine.

    Attributes:
        max_batch: The largest batch.
        max_context: Maximum number of tokens of a text; by default 2048, or the model's context if that is shorter.
        target: The target device, a value of `--target`; by default the GPU in this machine.
        runtime: The TensorRT flavor that builds it, a value of `--runtime`; by default the installed one.
        export_format: Name of the export format; fixed.
    """

    max_batch: int = 1
    max_context: int | None = None
    target: str | None = None
    runtime: str | None = None
    export_format: str = FORMAT


class TensorrtExporter(HfExporter):
    """Builds the engine of a decoder; one engine does prefill and decode."""

    export_format = FORMAT
    config_class = TensorrtConfig
    program_suffix = ".engine"
    required_packages: list[str] = ["torch", "onnx"]  # noqa: RUF012  as the base class has it

    def export_program(
        self, model: PreTrainedModel, sample_inputs: MutableMapping[str, Any], config: ExportConfigMixin
    ) -> tuple[EngineProgram, ExportMetadata]:
        """Build an engine in the model's own dtype.

        Args:
            model: A decoder whose graph is built directly.
            sample_inputs: Ignored, since the graph is not traced.
            config: Settings of the engine, a `TensorrtConfig`.

        Raises:
            AmpExportError: See `amp_export.api.export.export`.
        """
        del sample_inputs
        assert isinstance(config, TensorrtConfig)
        folder = Path(tempfile.mkdtemp(prefix="amp-export-"))
        try:
            program = EngineProgram(_build(model, folder, config))
            described = describe_calls(EngineFacts.load(program.folder), type(model).__name__)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # an engine can be as large as its model, so it stays on disk until the program is garbage-collected
        weakref.finalize(program, shutil.rmtree, folder, ignore_errors=True)
        return program, described

    def export_for_generation(self, *_: Any, **__: Any) -> Any:
        """Raise NotImplementedError: a separate engine for decode would store the weights twice."""
        raise NotImplementedError("One engine does prefill and decode: use TensorrtExporter().export.")

    @classmethod
    def save_program(cls, program: EngineProgram, path: str | Path) -> None:
        """Write the engine and its facts."""
        shutil.copyfile(program.folder / ENGINE, path)
        shutil.copyfile(program.folder / FACTS, Path(path).parent / FACTS)

    @classmethod
    def load_program(cls, path: str | Path) -> EngineProgram:
        """Return the engine's program; the engine is loaded when it first runs."""
        return EngineProgram(Path(path).parent)

    @classmethod
    def program_files(cls, filename: str) -> list[str]:
        """Return the file names of the engine and its facts."""
        return [filename, FACTS]


def _build(model: PreTrainedModel, folder: Path, config: TensorrtConfig) -> Path:
    """Build the engine of a model below a folder, and return the engine's folder."""
    from amp_export.api.export import export
    from amp_export.options import EngineRuntime, Format, TargetName
    from amp_export.verb_options import ExportOptions

    model.save_pretrained(folder / "checkpoint")
    options = ExportOptions(
        to=Format.TENSORRT,
        dtype=Dtype(str(model.dtype).removeprefix("torch.")),
        target=TargetName(config.target) if config.target is not None else None,
        runtime=EngineRuntime(config.runtime) if config.runtime is not None else None,
        max_batch=config.max_batch,
        max_context=config.max_context,
    )
    return export(folder / "checkpoint", folder / "out", options).folder


def register() -> None:
    """Register engines with transformers' exporters, unless they already are."""
    from transformers.exporters.auto import EXPORT_BACKENDS

    if FORMAT not in EXPORT_BACKENDS:
        register_backend(TensorrtExporter, TensorrtRunner)
