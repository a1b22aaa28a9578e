"""Facts about each supported architecture: one file per `model_type`, registered by its file name.

A file's name has `_` where its `model_type` has `-`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from amp_export.architectures._blocks import (
    Block,
    Count,
    Features,
    Layout,
    Offset,
    Projection,
    PrunedUnit,
    SharedExpert,
    Tensor,
    Total,
)
from amp_export.architectures._caches import CacheTensor, cache_tensors
from amp_export.architectures._computation import (
    AttentionScale,
    Computation,
    Factor,
    HeadNorms,
    Learned,
    NormKind,
    NormSpan,
    Not,
    Order,
    Rotary,
    Windows,
)
from amp_export.architectures._config import ModelConfig, first_class
from amp_export.architectures._derived import Derived, Share, TwoThirds
from amp_export.architectures._experts import ClampedSwish, Experts
from amp_export.architectures._external import given_architecture, other_architecture, using_facts
from amp_export.architectures._facts import Architecture, Kind, Modality, Sibling, Stack
from amp_export.architectures._gguf import (
    ATTENTION,
    GGUF_ARCHITECTURES,
    MLP,
    OUTPUT,
    GgufArchitecture,
    GgufRoutes,
    Multipliers,
)
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._mixers import GatedDeltaRule, Mixer, ShortConvolution, State, StateSpace
from amp_export.architectures._parts import flatten_parts, with_fields
from amp_export.architectures._patches import PATCH_MASK, SPATIAL_SHAPES
from amp_export.architectures._sites import LayerWidths, Site
from amp_export.architectures._tensors import (
    attribute_values,
    expert_name,
    matrix_shapes,
    parameter_count,
    part_lengths,
    resized_layer,
    resized_modules,
    sliced_axes,
    stacked_names,
    stored_parts,
    tensor_shapes,
)
from amp_export.architectures._waveforms import Convolutions, Padding
from amp_export.errors import UnsupportedModelError

RESIZED_MODEL_TYPE = "amp_resized"
"""The `model_type` of checkpoints that only `modeling_amp.py` can load; it must be unknown to transformers."""

__all__ = [
    "ATTENTION",
    "GGUF_ARCHITECTURES",
    "MLP",
    "OUTPUT",
    "PATCH_MASK",
    "RESIZED_MODEL_TYPE",
    "SPATIAL_SHAPES",
    "Architecture",
    "AttentionScale",
    "Block",
    "CacheTensor",
    "ClampedSwish",
    "Computation",
    "Convolutions",
    "Count",
    "Derived",
    "Experts",
    "Factor",
    "Features",
    "GatedDeltaRule",
    "GgufArchitecture",
    "GgufRoutes",
    "HeadNorms",
    "Kind",
    "LayerRule",
    "LayerWidths",
    "Layout",
    "Learned",
    "Mixer",
    "Modality",
    "ModelConfig",
    "Multipliers",
    "NormKind",
    "NormSpan",
    "Not",
    "Offset",
    "Order",
    "Padding",
    "Projection",
    "PrunedUnit",
    "Rotary",
    "Share",
    "SharedExpert",
    "ShortConvolution",
    "Sibling",
    "Site",
    "Stack",
    "State",
    "StateSpace",
    "Tensor",
    "Total",
    "TwoThirds",
    "Windows",
    "attribute_values",
    "cache_tensors",
    "describes",
    "expert_name",
    "find_architecture",
    "first_class",
    "flatten_parts",
    "matrix_shapes",
    "own_architectures",
    "parameter_count",
    "part_lengths",
    "resized_layer",
    "resized_modules",
    "sliced_axes",
    "stacked_names",
    "stored_parts",
    "supported_model_types",
    "tensor_shapes",
    "using_facts",
    "with_fields",
]


@functools.cache
def own_architectures() -> tuple[Architecture, ...]:
    """Return the facts of every `model_type` that has a file in this folder, sorted by it."""
    return tuple(sorted(map(_load, _file_names()), key=lambda architecture: architecture.model_type))


def supported_model_types() -> tuple[str, ...]:
    """Return every `model_type` that has a file in this folder, sorted."""
    return tuple(architecture.model_type for architecture in own_architectures())


def describes(model_type: str) -> bool:
    """Return whether this folder has a file for a `model_type`; unlike `supported_model_types`, read no other."""
    name = model_type.replace("-", "_")
    return name in _file_names() and _load(name).model_type == model_type


def find_architecture(model_type: str) -> Architecture:
    """Return the facts of one architecture: see `_external` for those outside of this folder.

    Raises:
        UnsupportedModelError: There is no file for `model_type`.
        RequestError: A file outside of this folder cannot be read.
    """
    architecture = given_architecture(model_type)
    if architecture is None and describes(model_type):
        architecture = _load(model_type.replace("-", "_"))
    if architecture is None:
        architecture = other_architecture(model_type)
    if architecture is None:
        raise UnsupportedModelError(
            f"Models of type {model_type!r} are not supported.\nSupported: {', '.join(supported_model_types())}.\n"
            "For others, try what can be found out: amp-export inspect --model MODEL."
        )
    return architecture


@functools.cache
def _file_names() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


@functools.cache
def _load(name: str) -> Architecture:
    architecture = importlib.import_module(f"{__name__}.{name}").ARCHITECTURE
    assert isinstance(architecture, Architecture)
    return architecture
