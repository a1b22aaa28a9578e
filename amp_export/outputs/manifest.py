"""The manifest: what an output directory holds, where it came from, and what was found out about it."""

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
    """The dense checkpoint: what was asked for, where it was found, and a hash over its config and weights."""

    asked: str
    path: str
    sha256: str


@dataclass(frozen=True)
class FileRecord:
    """A file of the output directory.

    Attributes:
        sha256: Its SHA-256.
        bytes: Its size.
    """

    sha256: str
    bytes: int


class RewriteKind(enum.StrEnum):
    """What a rewrite may be, in order of preference."""

    SAME_CLASS = "same class"
    SIBLING_CLASS = "sibling class"
    RESIZED_CLASS = "resized class"
    PADDED = "padded"


class RewriteRecord(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """How the pruned checkpoint is written.

    Attributes:
        kind: The kind of rewrite.
        class_name: The transformers class that loads it.
        reason: Why.
    """

    kind: RewriteKind
    class_name: str
    reason: str


@dataclass(frozen=True)
class PlanSummary:
    """What a plan removes.

    Attributes:
        asked: The ratio that was asked for, or None for a plan made by hand.
        achieved: The share of all parameters that is removed.
        parameters_before: Parameters of the dense model, tied ones counted once.
        parameters_after: Parameters of the pruned model.
        widths_before: Widths of the dense model.
        widths: Widths of the pruned model, layer by layer.
        settings: How the counts were chosen.
        reasons: Why the counts are what they are, for heads and for neurons.
        notes: What the user should know.
        calibration: What the scores were measured on; None where a plan was given.
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
        plan: The plan's summary, or None where nothing was pruned.
        config_before: config.json of the source.
        config_after: config.json of the pruned checkpoint, or None.
        rewrite: Kind of rewrite and why, or None.
        exports: By format, the dtype of the graph.
        exporters: By format, how the graph was made: `direct` or `trace`.
        packages: Versions of what computed it.
        files: SHA-256 and bytes of every file, by relative path.
        verdicts: What was proved or measured, by name.
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
        """Return the same with one more verdict."""
        return replace(self, verdicts={**self.verdicts, name: verdict})

    def with_export(self, to: Format, dtype: Dtype, via: Via) -> Manifest:
        """Return the same with one more graph."""
        return replace(
            self,
            exports={**self.exports, to: dtype},
            exporters={**self.exporters, to: via},
        )

    def with_hashes(self, folder: Path, names: Iterable[str] | None = None) -> Manifest:
        """Return the same with the hashes of files that lie in a folder now.

        Args:
            folder: The folder.
            names: Which files have changed; by default all that there are.
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
        """Write it into a folder, with the hash of every file that lies there now."""
        return replace(self.with_hashes(folder), packages=package_versions()).write(folder)

    def write(self, folder: Path) -> Manifest:
        """Write it into a folder as it is."""
        replace_text(folder / MANIFEST, to_json(self))
        return self

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of an output directory.

        Raises:
            OutputError: There is none, it is damaged, or it is from a newer version.
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
    """Return versions of the packages whose numerics matter, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
