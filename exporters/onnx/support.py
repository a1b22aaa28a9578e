"""Check of which decoders can be built directly as graphs; the others can be traced."""

from __future__ import annotations

from amp_export.architectures import ModelConfig, Rotary, StateSpace
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.onnx.builder.activations import activation_of
from amp_export.exporters.onnx.builder.rotary import check_rope, ropes


def can_build(config: ModelConfig) -> str | None:
    """Return why the graph of a decoder cannot be built directly.

    Returns:
        The reason, with the config field and its value; None if `build_graph` supports the decoder.

    Raises:
        ModelError: The config contradicts itself, or lacks a parameter.
    """
    try:
        _check(config)
    except UnsupportedModelError as error:
        return str(error)
    return None


def require_buildable(config: ModelConfig) -> None:
    """Refuse decoders that cannot be built directly.

    Raises:
        UnsupportedModelError: The decoder is not supported; the message gives the reason and suggests tracing.
        ModelError: The config contradicts itself, or lacks a parameter.
    """
    if (reason := can_build(config)) is not None:
        raise UnsupportedModelError(f"{reason}\nExport it by tracing instead: --via trace.")


def _check(config: ModelConfig) -> None:
    architecture = config.architecture
    if architecture.computation is None:
        raise UnsupportedModelError(
            f"config.json: model_type is {architecture.model_type!r}; its graph cannot be built directly."
        )
    activation_of(config)
    mixer = architecture.mixer
    if isinstance(mixer, StateSpace) and mixer.limits_steps(config.fields):
        raise UnsupportedModelError(
            f"config.json: {mixer.step_limit} is {config.fields[mixer.step_limit]}; transformers keeps to it in "
            "prompts, but not in further tokens."
        )
    positions = architecture.computation.positions
    for rope in ropes(config).values():
        check_rope(rope)
        if isinstance(positions, Rotary) and positions.types is not None and rope.rope_type not in positions.types:
            raise UnsupportedModelError(
                f"config.json: rope_type {rope.rope_type!r} of {architecture.model_type} is not supported.\n"
                f"Supported: {', '.join(positions.types)}."
            )
        partial = rope.parameters.get("partial_rotary_factor", 1.0)
        if partial != 1.0 and isinstance(positions, Rotary) and positions.partial is None:
            raise UnsupportedModelError(
                f"config.json: partial_rotary_factor is {partial}; only 1.0 is supported for {architecture.model_type}."
            )
