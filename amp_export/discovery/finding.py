"""Find the facts of a model type, and prove them; what is in doubt is left out of what may be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from amp_export.architectures import Architecture, Block, Layout, Projection, first_class
from amp_export.architectures._blocks import Count
from amp_export.discovery.assembling import Finder
from amp_export.discovery.proving import Case, Proof
from amp_export.discovery.tiny import SIZES, Tiny, shrink
from amp_export.errors import UnsupportedModelError, first_line


@dataclass(frozen=True)
class Discovery:
    """The facts of a model type, as far as they were found and proved.

    Attributes:
        architecture: The facts.
        cases: The proof; all of them hold. What could not be proved stays as it is: see `Architecture.heads_stay`.
    """

    architecture: Architecture
    cases: tuple[Case, ...]


def discover(model_type: str, class_name: str, raw_config: Mapping[str, Any]) -> Discovery:
    """Find out the facts of a model type on tiny random copies, and prove them.

    Args:
        model_type: The `model_type`.
        class_name: transformers' class.
        raw_config: The content of a config.json, whose switches are kept.

    Raises:
        UnsupportedModelError: The model does not attend, attends in a way that is not understood, or nothing is proved.
    """
    _refuse_parts(class_name, raw_config)
    tiny = smallest(shrink(model_type, class_name, raw_config))
    try:
        found = Finder(tiny).architecture()
    except UnsupportedModelError:
        raise
    except Exception as error:  # a model of an unknown kind may fail anywhere
        raise UnsupportedModelError(
            f"The facts of {class_name} could not be found out: {type(error).__name__}: {first_line(error)}\n"
            "It may attend in a way that is not understood. Describe it by hand: docs/adding-an-architecture.md."
        ) from error
    refuted: list[Case] = []
    for candidate in _variants(found):
        proof = Proof(tiny, candidate)
        wrong = [case for case in proof.compared if not case.holds]
        if not wrong:
            return _settle(proof)
        refuted = refuted or wrong
    raise UnsupportedModelError(_refutation(tiny, refuted[0]))


def check_facts(architecture: Architecture, raw_config: Mapping[str, Any]) -> tuple[Case, ...]:
    """Prove facts that are given.

    Args:
        architecture: The facts.
        raw_config: The content of a config.json of their type.

    Returns:
        The cases of the proof, of which some may not hold.

    Raises:
        UnsupportedModelError: No tiny model can be made.
    """
    class_name = first_class(raw_config.get("architectures"), architecture)
    tiny = smallest(shrink(architecture.model_type, class_name, raw_config))
    return Proof(tiny, architecture).cases


def _settle(proof: Proof) -> Discovery:
    """Return the facts with the whole proof, without heads if only these are refuted."""
    candidate = proof.architecture
    if wrong := [case for case in proof.cases if not case.holds]:
        if candidate.heads_stay is None and all(case.prunes_heads for case in wrong):
            without_heads = replace(candidate, heads_stay=f"on a tiny model, {_say(wrong[0])}")
            return _settle(replace(proof, architecture=without_heads))
        raise UnsupportedModelError(_refutation(proof.tiny, wrong[0]))
    return Discovery(candidate, proof.cases)


def _refutation(tiny: Tiny, case: Case) -> str:
    return (
        f"What was found of {tiny.class_name} is refuted: {_say(case)}.\n"
        "Describe it by hand: docs/adding-an-architecture.md."
    )


def _say(case: Case) -> str:
    return f"{case.name}: {(case.problem or '').rstrip('.')}"


def _refuse_parts(class_name: str, raw_config: Mapping[str, Any]) -> None:
    """Refuse models of several parts with configs of their own.

    Raises:
        UnsupportedModelError: It is one.
    """
    parts = [name for name, value in raw_config.items() if name.endswith("_config") and isinstance(value, Mapping)]
    if parts := [name for name in parts if "model_type" in raw_config[name] or "num_hidden_layers" in raw_config[name]]:
        raise UnsupportedModelError(
            f"{class_name} consists of several models ({', '.join(parts)}), whose parts are not told apart.\n"
            "Save its language model, or its image encoder, as a checkpoint of its own, and prune that."
        )


def smallest(tiny: Tiny) -> Tiny:
    """Return a tiny model that runs: with the usual sizes, or with those that follow from others left out."""
    plain = SIZES["hidden_size"] // SIZES["num_attention_heads"]
    problem = None
    for changes in ({}, {"head_dim": plain}, {"head_dim": plain, "num_key_value_heads": SIZES["num_attention_heads"]}):
        candidate = tiny.but(**{name: size for name, size in changes.items() if name in tiny.fields})
        if (failure := candidate.why_not()) is None:
            return candidate
        problem = problem or failure
    raise UnsupportedModelError(
        f"A {tiny.class_name} of a small size does not run: {problem}\nIts facts cannot be found out."
    )


def _variants(found: Architecture) -> Iterator[Architecture]:
    """Yield what was found, and what else it may be, the most likely first."""
    yield found
    # an attribute may hold the hidden size, which is as long as all heads
    yield _with_attentions(found, _without_features)
    if found.mlp.has_experts:
        yield replace(found, mlp=_interleaved(found.mlp))
    # the layers of a decoder may share what the first makes for its heads
    tied = replace(found, more_stacks=tuple(replace(stack, heads_tied=True) for stack in found.more_stacks))
    if found.more_stacks:
        yield tied
        yield replace(tied, heads_tied=True)
    if found.heads_stay is None:
        yield replace(found, heads_stay="pruning them was refuted on a tiny model")


def _with_attentions(found: Architecture, change: Callable[[Block], Block]) -> Architecture:
    stacks = tuple(
        replace(stack, attention=None if stack.attention is None else change(stack.attention))
        for stack in found.more_stacks
    )
    return replace(found, attention=change(found.attention), more_stacks=stacks)


def _without_features(block: Block) -> Block:
    kept = {name: each for name, each in block.attributes.items() if each is not Count.QUERY_FEATURES}
    return replace(block, attributes=kept)


def _interleaved(mlp: Block) -> Block:
    def change(projection: Projection) -> Projection:
        return replace(projection, layout=Layout.INTERLEAVED)

    return replace(mlp, inputs=tuple(map(change, mlp.inputs)))
