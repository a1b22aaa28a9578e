"""An exported engine's folder: the engine, and `engine.json`, which says what it is and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from amp_export.documents import read_json, to_json
from amp_export.errors import ModelError, NewerSchemaError, OutputError, RequestError
from amp_export.exporters.limits import Limits
from amp_export.exporters.models.session import Port
from amp_export.exporters.tensorrt.profiles import Profile
from amp_export.options import Dtype, EngineRuntime

if TYPE_CHECKING:
    from amp_export.exporters.tensorrt.flavors import TensorRtFlavor

ENGINE = "model.engine"
FACTS = "engine.json"


def is_engine(folder: Path) -> bool:
    """Return whether a folder is one of an engine."""
    return (folder / FACTS).is_file()


class EngineFacts(msgspec.Struct, frozen=True, rename={"dtype": "precision"}):
    """What `engine.json` says of an engine.

    Attributes:
        runtime: What built it; nothing else loads it.
        version: The version of that.
        compute_capability: Of the GPU that it is for, or None where it is for the one it was built on.
        device: The name of that GPU, where it was in the machine.
        dtype: The graph's.
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

    SCHEMA: ClassVar[int] = 1

    runtime: EngineRuntime
    version: str
    compute_capability: str | None
    device: str | None
    dtype: Dtype
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
        """Write `engine.json` into a folder."""
        (folder / FACTS).write_text(to_json(self), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> EngineFacts:
        """Read `engine.json`.

        Raises:
            ModelError: There is none, it is damaged, or it is from a newer version.
        """
        file = folder / FACTS
        if not file.is_file() or not (folder / ENGINE).is_file():
            raise ModelError(f"{folder} holds no {ENGINE} with its {FACTS}.\nExport it: amp-export --to tensorrt.")
        try:
            return read_json(file, cls, newest=cls.SCHEMA)
        except NewerSchemaError as error:
            raise ModelError(str(error)) from error
        except OutputError as error:
            raise ModelError(f"{error}\nExport it again.") from error

    def check_runs_on(self, runtime: TensorRtFlavor, *, present: str | None) -> None:
        """Refuse what would not load, before it is tried.

        Args:
            runtime: What is to load it.
            present: Compute capability of the GPU in the machine, or None.

        Raises:
            RequestError: The runtime or the GPU is another.
        """
        found = ".".join(map(str, runtime.version[:3]))
        if present is None:
            raise RequestError(
                "An engine runs on a GPU, but this machine has none, or its driver does not respond.\n"
                "Measure it on the device: amp-export bundle."
            )
        if runtime.kind is not self.runtime or found != self.version:
            raise RequestError(
                f"The engine was built with {self.runtime} {self.version} and runs only with it, but {runtime.kind} "
                f"{found} is installed.\nBuild it again here: amp-export export --to tensorrt --overwrite."
            )
        if self.compute_capability not in (None, present):
            raise RequestError(
                f"The engine is for compute capability {self.compute_capability}, but the GPU here has {present}.\n"
                "Build it again here: amp-export export --to tensorrt --overwrite."
            )
