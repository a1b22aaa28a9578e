"""Checks of whether a model can be exported at all, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from amp_export.architectures import Kind, ModelConfig
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.gguf.routes import refuse_route
from amp_export.exporters.onnx.support import can_build, require_buildable
from amp_export.options import Format, Via

_UNTRACEABLE_ROPES = ("dynamic",)
"""Types of rotary embeddings whose frequencies depend on the text: `dynamic_frequency_update`,
`modeling_rope_utils.py`, transformers 5.24."""


_WITHOUT_EXPORT = (
    "Prune without exporting: amp-export prune. transformers loads the result, and generate, evaluate and benchmark "
    "--runtime pytorch run it."
)

_WITH_PROVIDER = "Export with --to onnx and run the graph with ONNX Runtime's TensorRT provider: --provider tensorrt."

_ENGINES = f"Engines are built only from decoders whose graph is built directly. {_WITH_PROVIDER}"


def choose_via(config: ModelConfig, via: Via) -> Via:
    """Return how a model is exported, `direct` or `trace`.

    Raises:
        UnsupportedModelError: It can be exported in neither way, or not in the requested one.
        ModelError: The config contradicts itself, or lacks a parameter.
    """
    if via is Via.DIRECT:
        require_buildable(config)
        return via
    if via is Via.AUTO and config.architecture.kind is Kind.DECODER and can_build(config) is None:
        return Via.DIRECT
    if (reason := can_trace(config)) is not None:
        raise UnsupportedModelError(reason)
    return Via.TRACE


def can_export(config: ModelConfig, to: Format) -> str | None:
    """Return why a model cannot be exported to a format, in whichever way; None if nothing is known against it.

    Both `export` and `doctor` ask here, so that they refuse a model with the same words.

    Raises:
        ModelError: The config contradicts itself, or lacks a parameter.
    """
    if to is Format.GGUF:
        return refuse_route(config, differ=False)
    if to is Format.TENSORRT:
        if (reason := can_build(config)) is not None:
            return f"{reason}\n{_ENGINES}"
        found = refuse_states(config, what="what runs engines here") or refuse_experts(config)
        return None if found is None else f"{found}\n{_WITH_PROVIDER}"
    if to is Format.EXECUTORCH and (taken := _inputs_without_limit(config)) is not None:
        return (
            f"config.json: model_type is {config.architecture.model_type!r}, which takes {taken}, but an ExecuTorch "
            "program needs a largest one to plan its memory.\nExport with --to onnx or --to openvino."
        )
    if to is not Format.EXECUTORCH and config.architecture.kind is Kind.DECODER and can_build(config) is None:
        return None
    return can_trace(config)


def _inputs_without_limit(config: ModelConfig) -> str | None:
    """Return what a model takes that may be of any size; None if there is a largest one."""
    if config.architecture.convolutions is not None:
        return "raw audio of any length"
    return "images of any size" if config.architecture.takes_patches else None


def refuse_states(config: ModelConfig, *, what: str) -> str | None:
    """Return why something that knows only keys and values cannot run a model; None if its cache holds no more.

    Args:
        config: Config of the model.
        what: What cannot.
    """
    if not config.architecture.keeps_states:
        return None
    return (
        f"config.json: model_type is {config.architecture.model_type!r}, whose cache holds states of convolutions or "
        f"recurrences, but {what} keeps only keys and values."
    )


def refuse_experts(config: ModelConfig) -> str | None:
    """Return why there are no engines of a model with experts; None if it has none.

    tensorrt-rtx 1.7.1 parses no NonZero, and the sizes of the parts of a Split are data.
    """
    if not config.architecture.mlp.has_experts:
        return None
    return (
        f"config.json: model_type is {config.architecture.model_type!r}, whose graph sends each expert as many tokens "
        "as its router says, but TensorRT plans the shapes of an engine without the data."
    )


def require_exportable(config: ModelConfig, to: Format) -> None:
    """Refuse a model that cannot be exported to a format.

    Raises:
        UnsupportedModelError: It cannot; the message gives the reason.
        ModelError: The config contradicts itself, or lacks a parameter.
    """
    if (reason := can_export(config, to)) is not None:
        raise UnsupportedModelError(reason)


def can_trace(config: ModelConfig) -> str | None:
    """Return why a model cannot be traced, with the config field and its value; None if nothing is known against it."""
    if config.architecture.keeps_states:
        advice = _WITHOUT_EXPORT if can_build(config) is not None else "Export it with --to onnx, without --via trace."
        return (
            f"config.json: model_type is {config.architecture.model_type!r}, whose cache holds states of convolutions "
            f"or recurrences, which traced graphs have no inputs for.\n{advice}"
        )
    shared = config.architecture.shares_cache
    if shared is not None and config.fields[shared]:
        return (
            f"config.json: {shared} is {config.fields[shared]}: so many layers attend to keys and values of others, "
            f"for which graphs here have no inputs.\n{_WITHOUT_EXPORT}"
        )
    if found := set(_UNTRACEABLE_ROPES).intersection(_rope_types(config.fields)):
        return (
            f"config.json: rope_type {min(found)!r} is not supported: its frequencies depend on the length of each "
            "text, which a graph cannot express.\nUse a checkpoint with yarn, llama3 or linear scaling; or prune "
            "without exporting: amp-export prune."
        )
    return None


def _rope_types(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the types of rotary embeddings that a config names, for all layers or by layer type."""
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(given := fields.get(name), Mapping):
            nested = [each for each in given.values() if isinstance(each, Mapping)]
            yield from (str(each.get("rope_type", each.get("type"))) for each in (given, *nested))
