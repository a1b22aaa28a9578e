"""Find out and prove the facts of a model's architecture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.architectures import Architecture
from amp_export.architectures._external import read_facts
from amp_export.checkpoints.reading import read_raw_config
from amp_export.checkpoints.sources import resolve_model
from amp_export.discovery.learning import find_out, is_known, keep
from amp_export.errors import OutputError, RequestError
from amp_export.progress import Progress, Silent
from amp_export.verb_options import InspectOptions

if TYPE_CHECKING:
    from amp_export.discovery.proving import Case


@dataclass(frozen=True)
class Inspection:
    """The facts of a model's architecture, and their proof.

    Attributes:
        architecture: The facts.
        cases: The cases of the proof.
        described: Whether this package describes the type, or a file that was found earlier.
        file: The file that the facts were written to; None if they were only proved.
    """

    architecture: Architecture
    cases: tuple[Case, ...]
    described: bool
    file: Path | None

    @property
    def holds(self) -> bool:
        """Whether every case of the proof holds."""
        return all(case.holds for case in self.cases)


def inspect(
    model: str | Path,
    options: InspectOptions | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Find out the facts of a model's architecture on tiny random copies, and prove them; or prove given ones.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        options: Options of the inspection.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        progress: Where to show progress.

    Raises:
        OutputError: The file exists, and may not be replaced.
        ModelError: The config names no type.
        RequestError: The facts that are given are of another type.
        UnsupportedModelError: The facts could not be found out.
        AmpExportError: See `amp_export.errors`.
    """
    from amp_export.discovery.finding import check_facts

    options, progress = options or InspectOptions(), progress or Silent()
    output, given = options.facts, options.architecture
    if output is not None and given is not None:
        raise RequestError(
            "--architecture proves facts that are there, and --facts writes new ones.\nGive one of them."
        )
    if output is not None and output.exists() and not options.overwrite:
        raise OutputError(f"{output} exists already.\nGive --overwrite to replace it, or another file with --facts.")
    path = resolve_model(model, revision=revision, on_status=progress.note).path
    raw_config = read_raw_config(path / "config.json")
    model_type = raw_config["model_type"]
    if given is not None:
        architecture = read_facts(given)
        if architecture.model_type != model_type:
            raise RequestError(f"{given} has the facts of {architecture.model_type}, but {path} is a {model_type}.")
        with progress.step(f"Proving the facts in {given}"):
            return Inspection(architecture, check_facts(architecture, raw_config), described=True, file=None)
    described = is_known(model_type)
    found = find_out(raw_config, progress)
    file = keep(found.architecture, output) if output is not None or not described else None
    return Inspection(found.architecture, found.cases, described, file)
