"""The runtimes behind one builder, and all that differs between them.

`tensorrt` 10 and 11 build for the GPU in the machine; `tensorrt_rtx` builds for any that it knows, and needs none.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from amp_export.architectures import ModelConfig, Rotary
from amp_export.errors import MissingExtraError, RequestError
from amp_export.options import EngineRuntime

MODULES = {EngineRuntime.TENSORRT: "tensorrt", EngineRuntime.TENSORRT_RTX: "tensorrt_rtx"}

NAMES = {EngineRuntime.TENSORRT: "TensorRT", EngineRuntime.TENSORRT_RTX: "TensorRT-RTX"}

_FULL_PARSER = (10, 15)
"""The first TensorRT whose parser knows Attention, RotaryEmbedding and RMSNormalization: onnx-tensorrt, pull 1048."""

OPSET_OF_OLD_PARSERS = 20
"""What parsers before take: docs/operators.md, onnx-tensorrt 10.0."""


@dataclass(frozen=True)
class TensorRtFlavor:
    """A runtime that is installed.

    Attributes:
        kind: Which one.
        module: Its Python module.
    """

    kind: EngineRuntime
    module: Any

    @property
    def version(self) -> tuple[int, ...]:
        """As numbers."""
        return tuple(int(part) for part in re.findall(r"\d+", str(self.module.__version__)))

    @property
    def label(self) -> str:
        """Name and version, as a report says them."""
        return f"{NAMES[self.kind]} {'.'.join(map(str, self.version[:3]))}"

    @property
    def newest_opset(self) -> int | None:
        """The newest operators that its parser takes, where they are older than those of our graphs."""
        is_old = self.kind is EngineRuntime.TENSORRT and self.version < _FULL_PARSER
        return OPSET_OF_OLD_PARSERS if is_old else None

    @property
    def has_timing_cache(self) -> bool:
        """Whether it times kernels while it builds; TensorRT-RTX chooses them when an engine is loaded."""
        return self.kind is EngineRuntime.TENSORRT

    def create_network(self, builder: Any) -> Any:
        """Return an empty network, in which the graph's own dtypes hold.

        TensorRT 11 knows no other; before, that had to be asked for.
        """
        return builder.create_network(1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def compute_capabilities(self) -> tuple[str, ...]:
        """Return those that it can build for without such a GPU, e.g. `8.9`; none if it needs the GPU here."""
        if self.kind is EngineRuntime.TENSORRT:
            return ()
        named = (re.fullmatch(r"SM(\d+)(\d)", name) for name in self.module.ComputeCapability.__members__)
        return tuple(f"{match[1]}.{match[2]}" for match in named if match is not None)

    def check_compute_capability(self, wanted: str | None, *, present: str | None) -> None:
        """Refuse GPUs that it cannot build for.

        Args:
            wanted: The compute capability that is asked for, or None for the GPU in the machine.
            present: That of the GPU in the machine, or None where there is none.

        Raises:
            RequestError: It cannot.
        """
        wanted = wanted or present
        if wanted is None:
            raise RequestError(
                "There is no GPU in this machine, so the engine's target GPU must be given.\nGive it with --target, "
                "e.g. --target rtx4090. amp-export export --help lists the targets."
            )
        if self.kind is EngineRuntime.TENSORRT and wanted != present:
            found = f"the GPU here has {present}" if present else "there is no GPU here"
            raise RequestError(
                f"{self.label} builds for the GPU in this machine only; compute capability {wanted} was requested, "
                f"but {found}.\nBuild on the device, from a bundle: amp-export bundle. Or build here with another "
                "runtime: "
                '--runtime tensorrt-rtx (pip install "amp-export[tensorrt-rtx]").'
            )
        if self.kind is EngineRuntime.TENSORRT_RTX and wanted not in self.compute_capabilities():
            raise RequestError(
                f"{self.label} cannot build engines for compute capability {wanted}, only for "
                f"{', '.join(self.compute_capabilities())}.\n"
                "Build on the device with its own TensorRT, from a bundle: amp-export bundle."
            )

    def set_compute_capability(self, config: Any, capability: str) -> None:
        """Say which GPU an engine is for, where that can be said."""
        if self.kind is EngineRuntime.TENSORRT:
            return
        config.num_compute_capabilities = 1
        member = getattr(self.module.ComputeCapability, f"SM{capability.replace('.', '')}")
        accepted = config.set_compute_capability(member, 0)
        assert accepted, capability

    def allow_any_attention(self, network: Any) -> int:
        """Let attentions for which there is no fused kernel be computed in steps; returns how many there are.

        Without, an Attention in float32, or with narrow heads, ends the build. The parser has no option for it.
        """
        attentions = 0
        for number in range(network.num_layers):
            layer = network.get_layer(number)
            if layer.type == self.module.LayerType.ATTENTION_OUTPUT:
                # layers come back as their base class: polygraphy casts them in the same way
                layer.__class__ = self.module.IAttentionOutputLayer
                layer.attention.decomposable = True
                attentions += 1
        return attentions


def load_flavor(asked: EngineRuntime | None = None, *, for_target: bool = False) -> TensorRtFlavor:
    """Find a runtime.

    Args:
        asked: Which one; by default what is installed.
        for_target: Whether the engine is for another machine. Then TensorRT-RTX goes first, otherwise TensorRT.

    Raises:
        MissingExtraError: It is not installed, or none is.
        RequestError: It is installed and cannot be loaded.
    """
    order = [asked] if asked is not None else [EngineRuntime.TENSORRT, EngineRuntime.TENSORRT_RTX]
    if for_target:
        order.reverse()
    for kind in order:
        try:
            return TensorRtFlavor(kind, importlib.import_module(MODULES[kind]))
        except ModuleNotFoundError as error:
            if error.name != MODULES[kind]:
                raise RequestError(f"{NAMES[kind]} is installed, but incomplete: {error}\nInstall it again.") from error
        except OSError as error:
            raise RequestError(f"{NAMES[kind]} is installed, but cannot be loaded: {error}") from error
    needed = f"Building with {NAMES[asked]}" if asked is not None else "Building an engine"
    raise MissingExtraError((asked or EngineRuntime.TENSORRT_RTX).value, needed_for=needed)


def builds_with_new_operators(config: ModelConfig) -> bool:
    """Return whether an engine can be built from the decoder's graph of opset 23.

    A RotaryEmbedding whose pairs lie side by side, which Cohere has, ended the build with an internal error. From the
    graph of opset 20 every decoder's engine was built, in float32, float16 and bfloat16.
    """
    computation = config.architecture.computation
    positions = computation.positions if computation is not None else None
    return not (isinstance(positions, Rotary) and positions.interleaved)
