"""The manifest: content, provenance and verdicts of an output directory."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from amp_export._version import __version__
from amp_export.architectures import LayerWidths
from amp_export.checkpoints.hashing import hash_file
from amp_export.documents import read_json, to_json
from amp_export.errors import OutputError
from amp_export.options import Dtype, Format, Via
from amp_export.outputs.names import MANIFEST
from amp_export.outputs.staging import replace_text, require_directory

PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "safetensors", "numpy")


@dataclass(frozen=True)
class SourceRecord:
    """The dense checkpoint: the model as the user named it, its path, and a hash of its config and weights."""

    asked: str
    path: str
    sha256: str


@dataclass(frozen=True)
class FileRecord:
    """A file of the output directory.

    Attributes:
        sha256: SHA-256 of its content.
        bytes: Its size in bytes.
    """

    sha256: str
    bytes: int


class RewriteKind(enum.StrEnum):
    """Kinds of rewrite, in order of preference."""

    SAME_CLASS = "same class"
    SIBLING_CLASS = "sibling class"
    RESIZED_CLASS = "resized class"
    PADDED = "padded"


class RewriteRecord(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """How the pruned checkpoint is written.

    Attributes:
        kind: The kind of rewrite.
        class_name: The transformers class that loads it.
        reason: Reason for this kind.
    """

    kind: RewriteKind
    class_name: str
    reason: str


@dataclass(frozen=True)
class PlanSummary:
    """Summary of a pruning plan.

    Attributes:
        asked: The requested ratio, or None for a plan written by hand.
        achieved: The share of all parameters that is removed.
        parameters_before: Number of parameters of the dense model, tied ones counted once.
        parameters_after: Number of parameters of the pruned model.
        widths_before: Widths of the dense model.
        widths: Widths of the pruned model, layer by layer.
        settings: Settings that the counts were chosen with.
        reasons: Reasons for the counts, for heads and for neurons.
        notes: Notes to the user.
        calibration: Calibration data of the scores; None for a given plan.
    """

    asked: float | None
    achieved: float
    parameters_before: int
    parameters_after: int
    widths_before: LayerWidths
    widths: tuple[LayerWidths, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    calibration: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The content of `amp_export.json`.

    Attributes:
        schema: Version of this format.
        amp_export: Version of the package that wrote it.
        source: The dense checkpoint.
        plan: Summary of the plan, or None if nothing was pruned.
        config_before: config.json of the source.
        config_after: config.json of the pruned checkpoint, or None.
        rewrite: Kind of rewrite and its reason, or None.
        exports: Dtypes of the exports, by format.
        exporters: How the graphs were made, `direct` or `trace`, by format.
        packages: Versions of the packages that computed the output.
        files: SHA-256 and size of every file, by relative path.
        verdicts: Results of checks and measurements, by name.
    """

    SCHEMA: ClassVar[int] = 1

    source: SourceRecord
    config_before: Mapping[str, Any]
    plan: PlanSummary | None = None
    config_after: Mapping[str, Any] | None = None
    rewrite: RewriteRecord | None = None
    exports: Mapping[Format, Dtype] = field(default_factory=dict)
    exporters: Mapping[Format, Via] = field(default_factory=dict)
    verdicts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    amp_export: str = __version__

    def with_verdict(self, name: str, verdict: Any) -> Manifest:
        """Return a copy with one more verdict."""
        return replace(self, verdicts={**self.verdicts, name: verdict})

    def with_export(self, to: Format, dtype: Dtype, via: Via) -> Manifest:
        """Return a copy with one more export."""
        return replace(
            self,
            exports={**self.exports, to: dtype},
            exporters={**self.exporters, to: via},
        )

    def with_hashes(self, folder: Path, names: Iterable[str] | None = None) -> Manifest:
        """Return a copy with the current hashes of the files in a folder.

        Args:
            folder: The folder.
            names: Names of the changed files; by default all files are hashed.
        """
        if names is not None:
            changed = set(names)
            files = {name: record for name, record in self.files.items() if name not in changed}
            files |= {name: _file_record(folder / name) for name in changed if (folder / name).is_file()}
            return replace(self, files=dict(sorted(files.items())))
        return replace(
            self,
            files={
                str(file.relative_to(folder)): _file_record(file)
                for file in sorted(folder.rglob("*"))
                if file.is_file() and file.name != MANIFEST
            },
        )

    def save(self, folder: Path) -> Manifest:
        """Write the manifest into a folder, with current hashes of all its files, and return it."""
        return replace(self.with_hashes(folder), packages=package_versions()).write(folder)

    def write(self, folder: Path) -> Manifest:
        """Write the manifest into a folder as it is, and return it."""
        replace_text(folder / MANIFEST, to_json(self))
        return self

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of an output directory.

        Raises:
            OutputError: The manifest is missing, damaged, or from a newer version.
        """
        require_directory(folder)
        if not (folder / MANIFEST).is_file():
            raise OutputError(
                f"{folder} has no {MANIFEST}, so it is not an output of amp-export.\nGive the directory that was its "
                "--output, not a folder in it."
            )
        return read_json(folder / MANIFEST, cls, newest=cls.SCHEMA)


def _file_record(file: Path) -> FileRecord:
    return FileRecord(hash_file(file), file.stat().st_size)


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages whose numerics matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
