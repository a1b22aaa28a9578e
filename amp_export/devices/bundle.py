"""The command `bundle`: packs everything that a device needs to build, verify and measure into one archive."""

from __future__ import annotations

import contextlib
import hashlib
import json
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
from amp_export.errors import OutputError, RequestError, UnsupportedModelError
from amp_export.exporters.dispatch import quantized_graph
from amp_export.exporters.limits import Limits, choose_limits
from amp_export.exporters.onnx import can_build, exported_graphs
from amp_export.exporters.onnx.quantized_weights import same_codes
from amp_export.exporters.support import refuse_experts, refuse_states
from amp_export.exporters.tensorrt.device.bundle import MANIFEST, SCHEMA
from amp_export.exporters.tensorrt.exporting import describe_decoder
from amp_export.exporters.tensorrt.flavors import builds_with_new_operators
from amp_export.exporting.run import export_into
from amp_export.exporting.settings import ExportSettings
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, Format, Logits, Operators, Opset, TargetName, Via
from amp_export.outputs.lookup import exported_checkpoint
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import BUNDLE
from amp_export.outputs.scratch import lock_output, scratch_beside, translate_os_errors
from amp_export.parity.quantized import QuantizedWeights
from amp_export.progress import Progress, Silent
from amp_export.verb_options import BundleOptions

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig


@dataclass(frozen=True)
class BundleResult:
    """A bundle.

    Attributes:
        file: Path of the archive.
        bytes: Size of the archive.
        sha256: SHA-256 of the archive.
        manifest: Content of its `manifest.json`.
        identity: SHA-256 of the manifest, which identifies the bundle in a device's report.
    """

    file: Path
    bytes: int
    sha256: str
    manifest: Mapping[str, Any]
    identity: str

    @property
    def unpacked_bytes(self) -> int:
        """Total size of the unpacked files."""
        return sum(facts["bytes"] for facts in self.manifest["files"].values())


def bundle(
    output: Path,
    options: BundleOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BundleResult:
    """Pack the pruned and the dense graph of an output directory with everything needed to measure them on a device.

    The same input gives the same bytes.

    Args:
        output: The output directory of `export` or `convert`.
        options: The device and the content of the bundle.
        overwrite: Whether to replace an existing bundle.
        progress: Shows progress.

    Raises:
        OutputError: `output` holds no graph to compare, or the bundle exists already.
        UnsupportedModelError: The model is no decoder, its cache holds states, or it needs an engine and has experts.
        RequestError: The limits do not fit the model.
    """
    options = options or BundleOptions()
    target, against = options.target, options.against
    progress = progress or Silent()
    manifest = Manifest.load(output)
    manifest.verify(output)
    file = options.file or default_file(output, target)
    _check_file(file, overwrite=overwrite)
    _check_kind(output)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_beside(output))
        pruned = _subject(output, manifest)
        _check_model(pruned.config, target)
        opset = options.opset or choose_opset(output, target, pruned.config, pruned.dtype)
        # an engine cannot be told at run time which logits are needed, and a device needs the last ones
        logits = Logits.LAST if TARGETS[target].tensorrt else Logits.ALL
        if against is not None:
            _check_kind(against)
            other = Manifest.load(against)
            other.verify(against)
            dense = _subject(against, other)
        else:
            folder = export_dense(
                output,
                Format.ONNX,
                manifest,
                scratch / "dense",
                progress,
                opset=opset,
                operators=Operators.STANDARD,
                logits=logits,
            )
            dense = BundledGraph(folder, Path(manifest.source.path), pruned.dtype)
        subjects = {
            name: _with_choices(subject, opset, logits, scratch / f"{name}-{opset}", progress)
            for name, subject in (("dense", dense), ("pruned", pruned))
        }
        context = min(subject.config.context for subject in subjects.values())
        limits = choose_limits(context, max_batch=options.max_batch, max_context=options.max_context)
        references = {name: _make_reference(name, subject, limits, progress) for name, subject in subjects.items()}
        contents = _contents(manifest, target, subjects, references)
        made_of = made_of_graphs(output, against)
        description = describe_bundle(manifest, target, limits, subjects, references, contents, made_of)
        contents[MANIFEST] = (json.dumps(description, indent=2) + "\n").encode()
        with progress.step(f"Writing {file.name}") as advance, translate_os_errors(file):
            write_archive(file, f"bundle-{target.value}", contents, first=MANIFEST, advance=advance)
    if file.resolve().parent == output.resolve():
        with lock_output(output):
            Manifest.load(output).with_hashes(output, [file.name]).write(output)
    return find_bundle(file)


def default_file(output: Path, target: TargetName) -> Path:
    """Return the default path of a bundle."""
    return output / BUNDLE.format(target=target.value)


def find_bundle(file: Path) -> BundleResult:
    """Read an existing bundle.

    Raises:
        OutputError: The file is not a bundle, is damaged, or is newer than this version.
    """
    content = read_first(file, MANIFEST)
    source = f"{file} ({MANIFEST})"
    manifest: dict[str, Any] = parse_json(content, source=source)
    check_schema(manifest, source=source, newest=SCHEMA)
    identity = hashlib.sha256(content).hexdigest()
    return BundleResult(file, file.stat().st_size, hash_file(file), manifest, identity)


def is_current(found: BundleResult, output: Path, against: Path | None) -> bool:
    """Return whether a bundle holds the current graphs of an output directory."""
    return bool(found.manifest.get("made_of") == made_of_graphs(output, against))


def _check_file(file: Path, *, overwrite: bool) -> None:
    if not file.exists():
        return
    if file.is_dir():
        raise OutputError(f"{file} is a directory.\nGive the path of a file with --output.")
    find_bundle(file)
    if not overwrite:
        raise OutputError(f"{file} already exists.\nGive --overwrite to replace it, or another --output.")


def _check_kind(output: Path) -> None:
    if not _holds_decoder(output):
        raise UnsupportedModelError(
            f"{output} does not hold a decoder; only decoders can be bundled.\n"
            "Copy its onnx/ folder to the device and run it there with onnxruntime."
        )


def _check_model(config: ModelConfig, target: TargetName) -> None:
    reason = refuse_states(config, what="what a bundle runs on a device")
    if reason is None and TARGETS[target].tensorrt:
        reason = refuse_experts(config)
    if reason is not None:
        raise UnsupportedModelError(
            f"{reason}\nCopy its onnx/ folder to the device and run it there with onnxruntime-genai."
        )


def _holds_decoder(output: Path) -> bool:
    graphs = exported_graphs(output / Format.ONNX)
    try:
        describe_decoder(graphs[0])
    except UnsupportedModelError:
        return False
    return len(graphs) == 1


def choose_opset(output: Path, target: TargetName, config: ModelConfig, dtype: Dtype) -> Opset:
    """Return the opset that all TensorRT versions of a device support, or the opset of the existing graph.

    TensorRT has no Attention kernel for float32 and for small head dimensions, and trtexec has no option like
    `Runtime.allow_any_attention` to decompose it. The older opset is used in these cases.
    """
    found = describe_decoder(exported_graphs(output / Format.ONNX)[-1]).opset
    facts = TARGETS[target]
    if not facts.tensorrt:
        return found
    spelled_out = dtype is Dtype.FLOAT32 or not builds_with_new_operators(config)
    return Opset.OPSET_20 if spelled_out else min(found, facts.opset, key=lambda opset: opset.version)


def _with_choices(
    subject: BundledGraph, opset: Opset, logits: Logits, scratch: Path, progress: Progress
) -> BundledGraph:
    """Return a flat folder with operators of the standard in this opset, and with these logits: found, or made again.

    A traced graph has the logits that it was traced with.

    Raises:
        RequestError: Its weights are quantized, which that opset cannot say.
    """
    graph = exported_graphs(subject.folder)[-1]
    found = describe_decoder(graph)
    if can_build(subject.config) is not None:
        logits = found.logits
    is_flat = graph.parent == subject.folder
    if is_flat and (found.opset, found.operators, found.logits) == (opset, Operators.STANDARD, logits):
        return subject
    if opset is Opset.OPSET_20 and found.quantization is not None and found.quantization.block_size is not None:
        raise RequestError(
            f"The weights of {subject.folder} are {found.quantization.weights}, and this device needs opset 20 here, "
            "whose DequantizeLinear has no blocks.\nExport with --dtype float16 for a device with TensorRT 10.15 or "
            "later, or without --weights."
        )
    settings = ExportSettings(
        Format.ONNX, subject.dtype, opset, Via.AUTO, logits=logits, quantization=found.quantization
    )
    if found.quantization is not None:
        settings = replace(settings, rounding=same_codes(graph))
    exported = export_into(
        scratch,
        open_checkpoint(subject.checkpoint),
        settings,
        progress=progress,
        description=f"Exporting again with opset {opset}",
    )
    return replace(subject, folder=exported.folder)


def _subject(output: Path, manifest: Manifest) -> BundledGraph:
    dtype = manifest.exports[Format.ONNX]
    return BundledGraph(output / Format.ONNX, exported_checkpoint(output, manifest), dtype)


def _make_reference(name: str, subject: BundledGraph, limits: Limits, progress: Progress) -> Reference:
    with progress.step(f"Running the {name} model in PyTorch for reference"):
        quantized = quantized_graph(subject.folder)
        weights = QuantizedWeights(quantized) if quantized is not None else None
        return make_reference(subject.checkpoint, subject.dtype, limits, weights=weights)


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
            contents[name] = text.format(model=manifest.source.name, target=target.value).encode()
    return contents
