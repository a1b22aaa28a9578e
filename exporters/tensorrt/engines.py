"""Files of an exported engine's folder: the engine, and `engine.json`, which describes it and where it runs."""

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
    """Return whether a folder holds an exported engine."""
    return (folder / FACTS).is_file()


class EngineFacts(msgspec.Struct, frozen=True, rename={"dtype": "precision"}):
    """Facts of an engine, stored in `engine.json`.

    Attributes:
        runtime: Runtime that built it; no other runtime loads it.
        version: Version of that runtime.
        compute_capability: Compute capability of its GPU; None if it is for the GPU that it was built on.
        device: Name of its GPU; None if the GPU was not in the machine.
        dtype: Dtype of the graph.
        opset: Opset of the graph.
        graph_sha256: SHA-256 of the graph that it was built from, without its weights.
        inputs: Inputs by name.
        outputs: Outputs by name.
        limits: The largest batch and context.
        profiles: Its optimization profiles.
        attentions: Number of Attention operators in the graph; each becomes a fused kernel if there is one for it.
        build_seconds: Duration of the build.
        engine_bytes: Size of the engine.
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
            ModelError: The file or the engine is missing, or the file is damaged or from a newer version.
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
        """Refuse a runtime or a GPU on which the engine would not load.

        Args:
            runtime: Runtime to load it.
            present: Compute capability of the GPU in the machine; None without one.

        Raises:
            RequestError: There is no GPU, or the engine is for another runtime or GPU.
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
