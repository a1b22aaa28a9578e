"""The manifest: content, provenance and verdicts of an output directory."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import msgspec

from amp_export._version import __version__
from amp_export.architectures import LayerWidths
from amp_export.checkpoints.hashing import hash_file
from amp_export.documents import read_json, to_json
from amp_export.errors import OutputError
from amp_export.options import Dtype, Format, Via
from amp_export.outputs.names import MANIFEST, SOURCE
from amp_export.outputs.scratch import is_temporary
from amp_export.outputs.staging import replace_text, require_directory

PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "safetensors", "numpy")


@dataclass(frozen=True)
class SourceRecord:
    """The dense checkpoint.

    Attributes:
        asked: The model as the user named it.
        path: Its path.
        sha256: A hash of its config and weights.
        revision: The branch, tag or commit on the hub that the user named, or None.
        commit: The commit on the hub that this was, or None if it does not come from there.
        whole: The path of the vision-language model whose language model it is, or None.
        whole_sha256: A hash of the vision-language model's files.
    """

    asked: str
    path: str
    sha256: str
    revision: str | None = None
    commit: str | None = None
    whole: str | None = None
    whole_sha256: str | None = None

    @property
    def name(self) -> str:
        """The model as the user named it, with the revision if one was named."""
        return self.asked if self.revision is None else f"{self.asked} at {self.revision}"

    @property
    def words(self) -> tuple[str, ...]:
        """The options that name the same model again: of a repository on the hub, the same commit."""
        return ("--model", self.asked, *(("--revision", self.commit) if self.commit else ()))


@dataclass(frozen=True)
class FileRecord:
    """A file of the output directory.

    Attributes:
        sha256: SHA-256 of its content.
        bytes: Its size in bytes.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Judged:
    """The files that a verdict is about.

    Attributes:
        part: The folder with the files, such as `onnx`, or `source` for the dense checkpoint.
        sha256: Fingerprint of the files, from `Manifest.fingerprint`.
    """

    part: str
    sha256: str


class Step(enum.StrEnum):
    """A step of an end-to-end run after pruning."""

    EXPORT = "export"
    VALIDATE = "validate"
    BENCHMARK = "benchmark"


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
        export_options: Other options of the exports that were given, by format and by name.
        packages: Versions of the packages that computed the output.
        files: SHA-256 and size of every file, by relative path.
        verdicts: Results of checks and measurements, by name.
        unfinished: Steps of an end-to-end run that failed or were not reached.
        request: Options of an end-to-end run with which its unfinished steps go on.
    """

    SCHEMA: ClassVar[int] = 2

    source: SourceRecord
    config_before: Mapping[str, Any]
    plan: PlanSummary | None = None
    config_after: Mapping[str, Any] | None = None
    rewrite: RewriteRecord | None = None
    exports: Mapping[Format, Dtype] = field(default_factory=dict)
    exporters: Mapping[Format, Via] = field(default_factory=dict)
    export_options: Mapping[Format, Mapping[str, str]] = field(default_factory=dict)
    verdicts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    unfinished: tuple[Step, ...] = ()
    request: Mapping[str, Any] | None = None
    schema: int = SCHEMA
    amp_export: str = __version__

    def with_verdict(self, name: str, verdict: Any) -> Manifest:
        """Return a copy with one more verdict, or without an old one if the new one is None."""
        others = {key: value for key, value in self.verdicts.items() if key != name}
        return replace(self, verdicts=others if verdict is None else {**others, name: verdict})

    def with_export(self, to: Format, dtype: Dtype, via: Via, options: Mapping[str, str] | None = None) -> Manifest:
        """Return a copy with one more export."""
        return replace(
            self,
            exports={**self.exports, to: dtype},
            exporters={**self.exporters, to: via},
            export_options={**self.export_options, to: dict(options or {})},
        )

    def with_hashes(self, folder: Path, names: Iterable[str] | None = None) -> Manifest:
        """Return a copy with the current hashes of the files in a folder.

        Args:
            folder: The folder.
            names: Names of the changed files or folders; by default all files are hashed.
        """
        if names is None:
            changed = tuple(entry.name for entry in folder.iterdir())
            kept: Mapping[str, FileRecord] = {}
        else:
            changed = tuple(names)
            kept = {name: record for name, record in self.files.items() if not _is_part_of(name, changed)}
        files = {**kept, **record_files(folder, changed)}
        return replace(self, files=dict(sorted(files.items())))

    def with_missing_hashes(self, folder: Path) -> Manifest:
        """Return a copy with the hashes of the files in a folder that it does not list yet."""
        return self.with_hashes(folder, [name for name in _files(folder) if name not in self.files])

    def without(self, names: Iterable[str]) -> Manifest:
        """Return a copy without the hashes of some files."""
        gone = set(names)
        return replace(self, files={name: record for name, record in self.files.items() if name not in gone})

    def fingerprint(self, part: str) -> str:
        """Return one SHA-256 of a folder's files, by their names and hashes, or of the dense checkpoint's.

        Args:
            part: Name of the folder, such as `onnx`, or `source`.
        """
        if part == SOURCE:
            return self.source.sha256
        digest = hashlib.sha256()
        for name, record in sorted(self.files.items()):
            if _is_part_of(name, (part,)):
                digest.update(f"{name}:{record.sha256}\n".encode())
        return digest.hexdigest()

    def judged(self, part: str) -> Judged:
        """Return what a verdict on a folder's files is bound to."""
        return Judged(part, self.fingerprint(part))

    def stands(self, judged: Judged | None) -> bool:
        """Return whether a verdict is about the files that the manifest describes."""
        return judged is not None and judged == self.judged(judged.part)

    def verify(self, folder: Path) -> None:
        """Raise OutputError if a file is not the one that the manifest describes.

        Raises:
            OutputError: A file is missing, or its content has changed.
        """
        with ThreadPoolExecutor() as pool:
            present = list(pool.map(lambda name: _find_record(folder / name), self.files))
        for (name, record), found in zip(self.files.items(), present, strict=True):
            file = folder / name
            if found is None:
                # reports, bundles and scores may be moved away: no verdict is about them
                if "/" not in name:
                    continue
                raise OutputError(
                    f"{file} is missing, but {folder / MANIFEST} lists it.\nPut it back, or make the output again with "
                    "--overwrite."
                )
            if found != record:
                raise OutputError(
                    f"{file} is not the file that {folder / MANIFEST} describes: it has SHA-256 {found.sha256[:12]}…, "
                    f"and {record.sha256[:12]}… is expected.\nNothing that was found out about {folder} holds for it. "
                    "Put the file back, or make the output again with --overwrite."
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
            OutputError: The manifest is missing, damaged, or from a newer version, or lists files elsewhere.
        """
        require_directory(folder)
        if not (folder / MANIFEST).is_file():
            raise OutputError(
                f"{folder} has no {MANIFEST}, so it is not an output of amp-export.\nGive the directory that was its "
                "--output, not a folder in it."
            )
        manifest = read_json(folder / MANIFEST, cls, newest=cls.SCHEMA)
        for name in manifest.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise OutputError(
                    f"{folder / MANIFEST} lists {name!r}, which is outside of {folder}.\nDo not use an output that "
                    "you do not trust."
                )
        return manifest


def record_files(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Return the records of files in a folder by their relative paths, given names of files or folders."""
    parts = tuple(names)
    present = [name for name in _files(folder) if _is_part_of(name, parts)]
    with ThreadPoolExecutor() as pool:
        records = pool.map(lambda name: _file_record(folder / name), present)
        return dict(zip(present, records, strict=True))


def _files(folder: Path) -> list[str]:
    files = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    return [file.as_posix() for file in files if file.as_posix() != MANIFEST and not any(map(is_temporary, file.parts))]


def _is_part_of(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}/") for part in parts)


def _file_record(file: Path) -> FileRecord:
    return FileRecord(hash_file(file), file.stat().st_size)


def _find_record(file: Path) -> FileRecord | None:
    return _file_record(file) if file.is_file() else None


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages whose numerics matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
