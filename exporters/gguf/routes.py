"""Which of llama.cpp's architectures computes what a checkpoint computes, or why none does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amp_export.architectures import (
    ATTENTION,
    GGUF_ARCHITECTURES,
    MLP,
    OUTPUT,
    GgufArchitecture,
    GgufRoutes,
    LayerWidths,
    Mixer,
    ModelConfig,
    StateSpace,
    own_architectures,
)
from amp_export.errors import UnsupportedModelError

ONE_WIDTH = "Prune it with --one-width, or with --uniform pad, which zero-pads layers to a common width."
"""The plan that has a route wherever layers of different widths have none."""

KEPT_HEADS = "Give --heads none, which keeps all heads."
"""The plan that has a route wherever fewer query heads have none."""


@dataclass(frozen=True)
class Route:
    """How a checkpoint is written.

    Attributes:
        name: Value of `general.architecture`.
        facts: What llama.cpp computes for it.
    """

    name: str
    facts: GgufArchitecture


def choose_route(config: ModelConfig, widths: Sequence[LayerWidths]) -> Route:
    """Return the architecture of llama.cpp for a checkpoint.

    Args:
        config: The checkpoint's config.
        widths: The widths of its layers.

    Raises:
        UnsupportedModelError: There is none; the message says why, and which plan of the model has one.
    """
    differ = config.common_widths(widths) is None
    if (reason := refuse_route(config, differ=differ)) is not None:
        raise UnsupportedModelError(reason)
    routes = config.architecture.gguf
    assert routes is not None
    name = routes.varied if differ else _uniform(config, routes)
    assert name is not None
    return Route(name, GGUF_ARCHITECTURES[name])


def refuse_route(config: ModelConfig, *, differ: bool) -> str | None:
    """Return why a checkpoint has no route, and what has one; None if it has one.

    Args:
        config: The checkpoint's config.
        differ: Whether the widths of its layers differ.
    """
    family, routes = config.architecture.model_type, config.architecture.gguf
    if routes is None:
        return (
            f"llama.cpp has no architecture that is known to compute a {family} with any number of heads.\n"
            f"Families that have one: {', '.join(routed_families())}. Export this one with --to onnx."
        )
    uniform = _uniform(config, routes)
    if not differ:
        reason = next(_differences(config, uniform), None)
        return None if reason is None else f"A {family} is written as llama.cpp's {uniform}: {reason}"
    if routes.varied is None:
        return (
            f"The layers of this {family} differ in their widths, and llama.cpp's {uniform} has one width for "
            f"all layers.\n{ONE_WIDTH}{f' {KEPT_HEADS}' if needs_all_heads(config) else ''}"
        )
    if (reason := next(_differences(config, routes.varied), None)) is None:
        return None
    fits = next(_differences(config, uniform), None) is None
    advice = f"\n{ONE_WIDTH}" if fits else ""
    return f"A {family} whose layers differ is written as llama.cpp's {routes.varied}: {reason}{advice}"


def needs_all_heads(config: ModelConfig) -> bool:
    """Return whether a model has a route only as long as it keeps all its query heads."""
    routes = config.architecture.gguf
    return routes is not None and GGUF_ARCHITECTURES[_uniform(config, routes)].fills_hidden_size


def routed_families() -> list[str]:
    """Return the families that GGUF files can be written of."""
    return [family.model_type for family in own_architectures() if family.gguf is not None]


def mixer_of(config: ModelConfig) -> Mixer | None:
    """Return what mixes the tokens of some layers in place of attention or beside it; None if no layer has it."""
    return next((site.stack.mixer for site in config.sites if site.stack.mixer is not None), None)


def rope_of(config: ModelConfig) -> Mapping[str, Any]:
    """Return the RoPE parameters of the layers with full attention, also if no layer is rotated."""
    if config.ropes:
        return config.ropes.get("full_attention", config.rope_parameters)
    given = dict(config.fields.get("rope_scaling") or config.fields.get("rope_parameters") or {})
    theta = config.fields.get("rope_theta") or 10_000.0
    return {"rope_type": given.pop("type", "default"), "rope_theta": theta, **given}


def activation_of(config: ModelConfig) -> str:
    """Return the name of the MLP's activation function, as the family computes it."""
    computation = config.architecture.computation
    if computation is None:
        return str(config.fields["hidden_act"])
    name = str(computation.fixed_activation or config.fields[computation.activation])
    return computation.activation_names.get(name, name)


def _uniform(config: ModelConfig, routes: GgufRoutes) -> str:
    """Return the architecture for a model whose layers have the same widths."""
    return routes.unmixed if routes.unmixed is not None and mixer_of(config) is None else routes.uniform


def _differences(config: ModelConfig, name: str) -> Iterator[str]:
    """Yield what a model computes otherwise than one of llama.cpp's architectures, with what can be done about it."""
    facts = GGUF_ARCHITECTURES[name]
    if (activation := activation_of(config)) != facts.activation:
        yield f"its activation function is {facts.activation}, and config.json says {activation}."
    if facts.fills_hidden_size and config.num_attention_heads * config.head_dim != config.hidden_size:
        yield f"its query heads fill the hidden size, and here they do not. {KEPT_HEADS}"
    if not (facts.has_head or config.tie_word_embeddings):
        yield "its LM head is the embedding, and this model has a head of its own."
    yield from (f"it reads no biases of {place}, which config.json asks for." for place in _surplus(config, facts))
    yield from _rope_differences(config, facts)
    yield from _mixer_differences(config, facts)
    routes = config.architecture.gguf
    for field, value in (routes.requires if routes is not None else {}).items():
        if (said := config.fields.get(field)) != value:
            yield f"it computes with {field} {value!r}, and config.json says {said!r}."
    if facts.unrotated_every is not None or config.architecture.computation is not None:
        turned = tuple(kind is not None for kind in config.layer_ropes)
        every = facts.unrotated_every
        expected = tuple(every is None or (layer + 1) % every != 0 for layer in range(len(turned)))
        if turned != expected and (any(turned) or not facts.may_not_rotate):
            where = "every layer" if every is None else f"all layers but each {every}th"
            yield f"it rotates queries and keys in {where}, and no_rope_layers in config.json asks for others."


def _surplus(config: ModelConfig, facts: GgufArchitecture) -> Iterator[str]:
    """Yield the places of biases that a model has, but the architecture does not read."""
    attention, mlp = config.architecture.attention, config.architecture.mlp
    for place, projections in (
        (ATTENTION, attention.inputs),
        (OUTPUT, (attention.output,)),
        (MLP, (*mlp.inputs, mlp.output)),
    ):
        if place not in facts.biases and any(config.biases[projection.name] for projection in projections):
            yield {ATTENTION: "queries, keys and values", OUTPUT: "the attention's output", MLP: "the MLP"}[place]


def _rope_differences(config: ModelConfig, facts: GgufArchitecture) -> Iterator[str]:
    rope = rope_of(config)
    if (kind := rope["rope_type"]) not in facts.ropes:
        yield f"it has rotary embeddings of the types {', '.join(sorted(facts.ropes))}, and config.json says {kind}."
    if (share := rope.get("partial_rotary_factor") or 1.0) != 1.0:
        yield f"it rotates whole heads, and partial_rotary_factor in config.json is {share}."
    unusual = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if rope.get(name) is not None]
    if kind == "yarn" and unusual:
        yield f"it derives YaRN's attention factor from the scaling factor, and config.json sets {unusual[0]}."


def _mixer_differences(config: ModelConfig, facts: GgufArchitecture) -> Iterator[str]:
    mixer = mixer_of(config)
    if not isinstance(mixer, StateSpace):
        return
    heads, _, width = (config.size(str(axis)) for axis in mixer.states[1].axes)
    if facts.expands is not None and heads * width != facts.expands * config.hidden_size:
        wanted = f"{facts.expands} times as wide as the hidden size of {config.hidden_size}"
        yield f"its state-space mixer is {wanted}, and here it has {heads} heads of {width}."
    gated_last = mixer.gated_last_when
    if gated_last is not None and config.meets(gated_last) and config.meets(mixer.normed_when):
        asked = ", ".join(f"{field} {value}" for field, value in gated_last.items())
        yield f"the gate of its state-space mixer precedes the norm, and config.json says {asked}."
    if mixer.limits_steps(config.fields):
        yield f"it limits no steps, and {mixer.step_limit} in config.json is {config.fields[mixer.step_limit]}."
