"""What a tiny model does when it runs: the order of its layers, and what it does with padding."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amp_export.discovery.tiny import Tiny

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def follow_one_another(model: PreTrainedModel, stack: str, inputs: Mapping[str, torch.Tensor]) -> bool:
    """Return whether each layer runs once, on the output of the one before.

    Args:
        model: A tiny model.
        stack: Path of the layers.
        inputs: One sample.
    """
    import torch

    layers = list(model.get_submodule(stack).children())
    seen: list[tuple[int, Any, Any]] = []

    def hook(module: Any, given: tuple[Any, ...], output: Any) -> None:
        made = output[0] if isinstance(output, tuple) else output
        seen.append((layers.index(module), given[0].clone() if given else None, made.clone()))

    handles = [layer.register_forward_hook(hook) for layer in layers]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    in_order = [number for number, *_ in seen] == list(range(len(layers)))
    pairs = itertools.pairwise(seen)
    return in_order and all(
        given is not None and given.shape == made.shape and torch.equal(given, made)
        for (_, _, made), (_, given, _) in pairs
    )


def embeds_padding(tiny: Tiny, main_input: str) -> bool:
    """Return whether the embedding of tokens is built with the padding token's id."""
    if main_input != "input_ids":
        return False
    padded = tiny.but(pad_token_id=3).build()
    return getattr(padded.get_input_embeddings(), "padding_idx", None) == 3
