"""The verb `bundle`: all that a device needs to build, verify and measure, in one archive."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.benchmarking.subjects import export_dense
from amp_export.checkpoints.hashing import hash_file
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.devices.archives import read_first, write_archive
from amp_export.devices.bundle_manifest import BundledGraph, Contents, describe_bundle, made_of_graphs
from amp_export.devices.references import Reference, make_reference
from amp_export.documents import check_schema, parse_json
from amp_export.errors import OutputError, UnsupportedModelError
from amp_export.exporters.limits import Limits, choose_limits
from amp_export.exporters.onnx import exported_graphs
from amp_export.exporters.tensorrt.device.bundle import MANIFEST, SCHEMA
from amp_export.exporters.tensorrt.exporting import describe_decoder
from amp_export.exporters.tensorrt.flavors import builds_with_new_operators
from amp_export.exporting.run import export_into
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, Format, Opset, TargetName
from amp_export.outputs.lookup import exported_checkpoint
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.staging import translate_os_errors
from amp_export.progress import Progress, Silent
from amp_export.verb_options import BundleOptions

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig


@dataclass(frozen=True)
class BundleResult:
    """A bundle.

    Attributes:
        file: Where it is.
        bytes: Its size.
        sha256: Of the file.
        manifest: The content of its `manifest.json`.
        identity: SHA-256 of that, by which a device's report names the bundle.
    """

    file: Path
    bytes: int
    sha256: str
    manifest: Mapping[str, Any]
    identity: str

    @property
    def unpacked_bytes(self) -> int:
        """Size of all that is in it."""
        return sum(facts["bytes"] for facts in self.manifest["files"].values())


def bundle(
    output: Path,
    options: BundleOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BundleResult:
    """Pack the pruned and the dense graph of an output directory, and all that a device needs to measure them.

    The same input gives the same bytes.

    Args:
        output: The output directory of `export` or `convert`.
        options: Which device the bundle is for, and what it holds.
        overwrite: Replace an earlier bundle.
        progress: Where to show progress.

    Raises:
        OutputError: `output` holds no graph to compare, or the file must not be written.
        UnsupportedModelError: The model is not a decoder.
        RequestError: The limits do not suit the model.
    """
    options = options or BundleOptions()
    target, against = options.target, options.against
    progress = progress or Silent()
    manifest = Manifest.load(output)
    file = options.file or default_file(output, target)
    _check_file(file, overwrite=overwrite)
    _check_kind(output)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".bundle-", dir=output)))
        pruned = _subject(output, manifest)
        opset = options.opset or choose_opset(output, target, pruned.config, pruned.dtype)
        if against is not None:
            _check_kind(against)
            dense = _subject(against, Manifest.load(against))
        else:
            folder = export_dense(output, Format.ONNX, manifest, scratch / "dense", progress, opset=opset)
            dense = BundledGraph(folder, Path(manifest.source.path), pruned.dtype)
        subjects = {
            name: _in_opset(subject, opset, scratch / f"{name}-{opset}", progress)
            for name, subject in (("dense", dense), ("pruned", pruned))
        }
        context = min(subject.config.max_position_embeddings for subject in subjects.values())
        limits = choose_limits(context, max_batch=options.max_batch, max_context=options.max_context)
        references = {name: _make_reference(name, subject, limits, progress) for name, subject in subjects.items()}
        contents = _contents(manifest, target, subjects, references)
        made_of = made_of_graphs(output, against)
        description = describe_bundle(manifest, target, limits, subjects, references, contents, made_of)
        contents[MANIFEST] = (json.dumps(description, indent=2) + "\n").encode()
        with progress.step(f"Writing {file.name}") as advance, translate_os_errors(file):
            write_archive(file, f"bundle-{target.value}", contents, first=MANIFEST, advance=advance)
    if file.resolve().parent == output.resolve():
        manifest.save(output)
    return find_bundle(file)


def default_file(output: Path, target: TargetName) -> Path:
    """Return where a bundle goes if nothing else is said."""
    return output / f"bundle-{target.value}.tar.gz"


def find_bundle(file: Path) -> BundleResult:
    """Return a bundle that is there.

    Raises:
        OutputError: It is none, damaged, or newer than this version.
    """
    content = read_first(file, MANIFEST)
    source = f"{file} ({MANIFEST})"
    manifest: dict[str, Any] = parse_json(content, source=source)
    check_schema(manifest, source=source, newest=SCHEMA)
    identity = hashlib.sha256(content).hexdigest()
    return BundleResult(file, file.stat().st_size, hash_file(file), manifest, identity)


def is_current(found: BundleResult, output: Path, against: Path | None) -> bool:
    """Return whether a bundle holds the graphs that are there now."""
    return bool(found.manifest.get("made_of") == made_of_graphs(output, against))


def _check_file(file: Path, *, overwrite: bool) -> None:
    if not file.exists():
        return
    if file.is_dir():
        raise OutputError(f"{file} is a directory.\nName a file with --output.")
    find_bundle(file)
    if not overwrite:
        raise OutputError(f"{file} is there already.\nGive --overwrite to replace it, or name another with --output.")


def _check_kind(output: Path) -> None:
    if not _holds_decoder(output):
        raise UnsupportedModelError(
            f"{output} holds no decoder, and bundles are made of decoders only.\n"
            "Copy its folder onnx/ to the device, and run it there with onnxruntime."
        )


def _holds_decoder(output: Path) -> bool:
    graphs = exported_graphs(output / Format.ONNX)
    try:
        describe_decoder(graphs[0])
    except UnsupportedModelError:
        return False
    return len(graphs) == 1


def choose_opset(output: Path, target: TargetName, config: ModelConfig, dtype: Dtype) -> Opset:
    """Return the operators that every TensorRT of a device takes, or those of the graph that is there.

    In float32, and with narrow heads, there is no kernel for Attention; trtexec has no option to do without, as
    `Runtime.allow_any_attention` does. Then older operators spell it out.
    """
    found = describe_decoder(output / Format.ONNX / "model.onnx").opset
    facts = TARGETS[target]
    if not facts.tensorrt:
        return found
    spelled_out = dtype is Dtype.FLOAT32 or not builds_with_new_operators(config)
    return Opset.OPSET_20 if spelled_out else min(found, facts.opset, key=lambda opset: opset.version)


def _in_opset(subject: BundledGraph, opset: Opset, scratch: Path, progress: Progress) -> BundledGraph:
    """Return the graph in that opset: the one that is there, or the same exported again."""
    if describe_decoder(subject.folder / "model.onnx").opset is opset:
        return subject
    exported = export_into(
        scratch,
        open_checkpoint(subject.checkpoint),
        dtype=subject.dtype,
        opset=opset,
        progress=progress,
        description=f"Exporting again in opset {opset}",
    )
    return replace(subject, folder=exported.folder)


def _subject(output: Path, manifest: Manifest) -> BundledGraph:
    dtype = manifest.exports[Format.ONNX]
    return BundledGraph(output / Format.ONNX, exported_checkpoint(output, manifest), dtype)


def _make_reference(name: str, subject: BundledGraph, limits: Limits, progress: Progress) -> Reference:
    with progress.step(f"Running the {name} model in PyTorch for reference"):
        return make_reference(subject.checkpoint, subject.dtype, limits)


def _contents(
    manifest: Manifest, target: TargetName, subjects: Mapping[str, BundledGraph], references: Mapping[str, Reference]
) -> Contents:
    contents: Contents = {}
    for name, subject in subjects.items():
        for path in sorted(subject.folder.glob("model.onnx*")):
            contents[f"{name}/{path.name}"] = path
        contents[f"{name}/references.npz"] = references[name].to_npz()
    for script in package_files("amp_export.exporters.tensorrt.device").iterdir():
        name = script.name
        if name.endswith(".py"):
            contents[f"device/{name}"] = script.read_bytes()
        elif name.endswith(".sh"):
            contents[name] = script.read_bytes()
        elif name == "README.md":
            text = script.read_text(encoding="utf-8")
            contents[name] = text.format(model=manifest.source.asked, target=target.value).encode()
    return contents
