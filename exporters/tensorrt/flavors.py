"""The TensorRT variants behind one builder, and their differences.

`tensorrt` 10 and 11 build for the GPU in the machine; `tensorrt_rtx` builds for any GPU that it supports, and needs
none.
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
"""The first TensorRT whose parser has Attention, RotaryEmbedding and RMSNormalization: onnx-tensorrt, pull 1048."""

OPSET_OF_OLD_PARSERS = 20
"""The newest opset of earlier parsers: docs/operators.md, onnx-tensorrt 10.0."""


@dataclass(frozen=True)
class TensorRtFlavor:
    """An installed TensorRT variant.

    Attributes:
        kind: The variant.
        module: Its Python module.
    """

    kind: EngineRuntime
    module: Any

    @property
    def version(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(part) for part in re.findall(r"\d+", str(self.module.__version__)))

    @property
    def label(self) -> str:
        """Name and version, as in reports."""
        return f"{NAMES[self.kind]} {'.'.join(map(str, self.version[:3]))}"

    @property
    def newest_opset(self) -> int | None:
        """The newest opset that its parser supports; None if it supports the opsets of all our graphs."""
        is_old = self.kind is EngineRuntime.TENSORRT and self.version < _FULL_PARSER
        return OPSET_OF_OLD_PARSERS if is_old else None

    @property
    def has_timing_cache(self) -> bool:
        """Whether it times kernels during a build; TensorRT-RTX chooses them when an engine is loaded."""
        return self.kind is EngineRuntime.TENSORRT

    def create_network(self, builder: Any) -> Any:
        """Return an empty strongly typed network, which keeps the graph's dtypes.

        TensorRT 11 has no other kind; earlier versions need the flag.
        """
        return builder.create_network(1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def compute_capabilities(self) -> tuple[str, ...]:
        """Return those that it can build for without the GPU, e.g. `8.9`; empty if it needs the GPU."""
        if self.kind is EngineRuntime.TENSORRT:
            return ()
        named = (re.fullmatch(r"SM(\d+)(\d)", name) for name in self.module.ComputeCapability.__members__)
        return tuple(f"{match[1]}.{match[2]}" for match in named if match is not None)

    def check_compute_capability(self, wanted: str | None, *, present: str | None) -> None:
        """Refuse GPUs that it cannot build for.

        Args:
            wanted: Requested compute capability; None for the GPU in the machine.
            present: Compute capability of the GPU in the machine; None without one.

        Raises:
            RequestError: It cannot build for the GPU, or there is none and none was requested.
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
        """Set the target GPU of a build; TensorRT has no such setting."""
        if self.kind is EngineRuntime.TENSORRT:
            return
        config.num_compute_capabilities = 1
        member = getattr(self.module.ComputeCapability, f"SM{capability.replace('.', '')}")
        if not config.set_compute_capability(member, 0):
            raise RequestError(
                f"{self.label} refuses compute capability {capability}.\nBuild on the device: amp-export bundle."
            )

    def allow_any_attention(self, network: Any) -> int:
        """Allow all attentions to be decomposed if they have no fused kernel, and return their number.

        Otherwise an Attention in float32, or with narrow heads, fails the build. The parser has no option for it.
        """
        attentions = 0
        for number in range(network.num_layers):
            layer = network.get_layer(number)
            if layer.type == self.module.LayerType.ATTENTION_OUTPUT:
                # layers are returned as their base class: polygraphy casts them in the same way
                layer.__class__ = self.module.IAttentionOutputLayer
                layer.attention.decomposable = True
                attentions += 1
        return attentions


def load_flavor(asked: EngineRuntime | None = None, *, for_target: bool = False) -> TensorRtFlavor:
    """Load a TensorRT variant.

    Args:
        asked: Variant to load; by default one that is installed.
        for_target: Whether the engine is for another machine: then TensorRT-RTX is preferred, otherwise TensorRT.

    Raises:
        MissingExtraError: It is not installed, or no variant is.
        RequestError: It is installed, but cannot be loaded.
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

    An interleaved RotaryEmbedding, as in Cohere, failed the build with an internal error. From graphs of opset 20, the
    engines of all decoders were built, in float32, float16 and bfloat16.
    """
    computation = config.architecture.computation
    positions = computation.positions if computation is not None else None
    return not (isinstance(positions, Rotary) and positions.interleaved)
