"""An exported engine's folder: the engine, and `engine.json`, which says what it is and where it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, RequestError
from amp_export.exporters.limits import Limits
from amp_export.exporters.models.session import Port, load_ports
from amp_export.exporters.tensorrt.profiles import Profile, Range
from amp_export.options import EngineRuntime, Precision

if TYPE_CHECKING:
    from amp_export.exporters.tensorrt.flavors import TensorRtFlavor

ENGINE = "model.engine"
FACTS = "engine.json"
SCHEMA = 1


def is_engine(folder: Path) -> bool:
    """Whether a folder is one of an engine."""
    return (folder / FACTS).is_file()


@dataclass(frozen=True)
class EngineFacts:
    """What `engine.json` says of an engine.

    Attributes:
        runtime: What built it; nothing else loads it.
        version: The version of that.
        compute_capability: Of the GPU that it is for, or None where it is for the one it was built on.
        device: The name of that GPU, where it was in the machine.
        precision: The graph's.
        opset: The graph's operators.
        graph_sha256: Of the graph that it was built from, without its weights.
        inputs: By name.
        outputs: By name.
        limits: The largest batch and context.
        profiles: The shapes that it takes.
        attentions: Attention operators of the graph; each is one kernel where there is one for it.
        build_seconds: How long the build took.
        engine_bytes: How large the engine is.
        schema: Version of this format.
    """

    runtime: EngineRuntime
    version: str
    compute_capability: str | None
    device: str | None
    precision: Precision
    opset: int
    graph_sha256: str
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    limits: Limits
    profiles: tuple[Profile, ...]
    attentions: int
    build_seconds: float
    engine_bytes: int
    schema: int = SCHEMA

    def save(self, folder: Path) -> None:
        """Writes `engine.json` into a folder."""
        (folder / FACTS).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> EngineFacts:
        """Reads `engine.json`.

        Raises:
            ModelError: There is none, it is damaged, or it is from a newer version.
        """
        file = folder / FACTS
        if not file.is_file() or not (folder / ENGINE).is_file():
            raise ModelError(f"{folder} holds no {ENGINE} with its {FACTS}.\nExport it: amp-export --to tensorrt.")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if (schema := int(content["schema"])) > SCHEMA:
                raise ModelError(f"{file} has schema {schema}, this version knows up to {SCHEMA}.\nUpdate amp-export.")
            return cls(
                **{
                    **content,
                    "runtime": EngineRuntime(content["runtime"]),
                    "precision": Precision(content["precision"]),
                    "limits": Limits(**content["limits"]),
                    "profiles": tuple(map(_profile, content["profiles"])),
                    **{name: load_ports(content[name]) for name in ("inputs", "outputs")},
                }
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{file} is damaged: {error!r}\nExport it again.") from error

    def check_runs_on(self, runtime: TensorRtFlavor, *, present: str | None) -> None:
        """Refuses what would not load, before it is tried.

        Args:
            runtime: What is to load it.
            present: Compute capability of the GPU in the machine, or None.

        Raises:
            RequestError: The runtime or the GPU is another.
        """
        found = ".".join(map(str, runtime.version[:3]))
        if present is None:
            raise RequestError(
                "An engine runs on a GPU, and there is none in this machine, or its driver does not answer.\n"
                "Measure it on the device: amp-export bundle."
            )
        if runtime.kind is not self.runtime or found != self.version:
            raise RequestError(
                f"The engine was built with {self.runtime} {self.version}, and here is {runtime.kind} {found}; engines "
                "are tied to it.\nBuild it again here: amp-export export --to tensorrt --overwrite."
            )
        if self.compute_capability not in (None, present):
            raise RequestError(
                f"The engine is for compute capability {self.compute_capability}, and the GPU here has {present}.\n"
                "Build it again here: amp-export export --to tensorrt --overwrite."
            )


def _profile(content: Mapping[str, Any]) -> Profile:
    ranges = {}
    for name, shapes in content["ranges"].items():
        ranges[name] = Range(**{end: tuple(shape) for end, shape in shapes.items()})
    return Profile(content["name"], ranges)
