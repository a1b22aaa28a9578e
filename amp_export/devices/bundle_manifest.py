"""Makes the content of a bundle's `manifest.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export._version import __version__
from amp_export.checkpoints.hashing import hash_file
from amp_export.checkpoints.reading import read_config
from amp_export.devices.references import Reference
from amp_export.documents import to_builtins
from amp_export.exporters.files import GRAPH, SUBFOLDER
from amp_export.exporters.limits import Limits
from amp_export.exporters.tensorrt.device.bundle import SCHEMA
from amp_export.exporters.tensorrt.exporting import describe_decoder
from amp_export.exporters.tensorrt.profiles import decoder_profiles
from amp_export.exporting.engines import workspace_bytes
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, Format, TargetName
from amp_export.outputs.manifest import Manifest

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig

PROMPT_TOKENS, DECODE_TOKENS = 128, 16
"""Numbers of prompt and decoded tokens per round on a device, as in `benchmark`; fewer if the context is shorter."""

SEED = 0

Contents = dict[str, Path | bytes]

NOT_OF_THE_GRAPHS = ("speedup", "gain", "devices")
"""Verdicts that can change while the graphs stay the same, and must not change the bundle (`gain`: version 0.1)."""


@dataclass(frozen=True)
class BundledGraph:
    """One of the two graphs of a bundle.

    Attributes:
        folder: Folder of the graph.
        checkpoint: Checkpoint that it was exported from.
        dtype: Dtype of the graph.
    """

    folder: Path
    checkpoint: Path
    dtype: Dtype

    @property
    def config(self) -> ModelConfig:
        """Config of the model."""
        return read_config(self.folder)[1]


def describe_bundle(
    manifest: Manifest,
    target: TargetName,
    limits: Limits,
    subjects: Mapping[str, BundledGraph],
    references: Mapping[str, Reference],
    contents: Contents,
    made_of: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of the bundle's manifest."""
    decode_tokens = min(DECODE_TOKENS, limits.max_context // 2)
    return {
        "schema": SCHEMA,
        "amp_export": __version__,
        "target": {"name": target.value, "workspace_bytes": workspace_bytes(TARGETS[target].memory_bytes)},
        "limits": asdict(limits),
        "output": _describe_output(manifest),
        "made_of": made_of,
        "graphs": {name: _describe_graph(subject, limits) for name, subject in subjects.items()},
        "references": {
            name: {"file": f"{name}/references.npz", **reference.summary()} for name, reference in references.items()
        },
        "measure": {
            "prompt_tokens": min(PROMPT_TOKENS, limits.max_context - decode_tokens),
            "decode_tokens": decode_tokens,
            "vocab_size": min(subject.config.vocab_size for subject in subjects.values()),
            "seed": SEED,
        },
        "files": {name: _facts(content) for name, content in sorted(contents.items())},
    }


def made_of_graphs(output: Path, against: Path | None) -> dict[str, Any]:
    """Return the hashes that identify the graphs of a bundle, from the outputs' manifests."""

    def graphs(folder: Path) -> dict[str, str]:
        files = Manifest.load(folder).files.items()
        places = f"{Format.ONNX}/{GRAPH}", f"{Format.ONNX}/{SUBFOLDER}/model"
        return {name: record.sha256 for name, record in files if name.startswith(places)}

    return {"output": graphs(output), "against": None if against is None else graphs(against)}


def _describe_output(manifest: Manifest) -> dict[str, Any]:
    """Return the output's manifest without local paths and without files that are not bundled."""
    content = to_builtins(manifest)
    del content["files"]
    verdicts = {name: verdict for name, verdict in manifest.verdicts.items() if name not in NOT_OF_THE_GRAPHS}
    source = {name: value for name, value in content["source"].items() if name != "path"}
    return {**content, "source": source, "verdicts": verdicts}


def _describe_graph(subject: BundledGraph, limits: Limits) -> dict[str, Any]:
    graph = describe_decoder(subject.folder / "model.onnx")
    profiles = decoder_profiles({name: binding.axes for name, binding in graph.inputs.items()}, limits)
    return {
        "opset": graph.opset.version,
        "precision": graph.dtype.value,
        "profiles": [
            {
                "name": profile.name,
                "shapes": {
                    name: [list(each.minimum), list(each.optimum), list(each.maximum)]
                    for name, each in profile.ranges.items()
                },
            }
            for profile in profiles
        ],
    }


def _facts(content: Path | bytes) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return {"sha256": hash_file(content), "bytes": content.stat().st_size}
