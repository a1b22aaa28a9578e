"""Tensors of a decoder's cache by their names in graphs.

Keys and values have the names of Optimum, `past_key_values.N.key|value` and `present.N.key|value`; states those of
transformers.js, `past_conv.N` and `present_conv.N`: `getCacheNames`, src/configs.js of 4.3.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from amp_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    from amp_export.architectures import CacheTensor
    from amp_export.exporters.models.session import Port

WRITE_INDICES = "write_indices"
"""Where in a cache of fixed length the new tokens of each text are written, named as in TensorScatter."""

_GROWING_PAST, _GROWING_PRESENT = "past_key_values.", "present."
_PAST, _PRESENT = "past", "present"
_PAST_NAME, _PRESENT_NAME = re.compile(r"past_[a-z_]+\.\d+\b.*"), re.compile(r"present(_[a-z_]+)?\.\d+\b.*")


def past_name(tensor: CacheTensor) -> str:
    """Return the name of the input for what the cache holds before a call."""
    return f"past_{tensor.part}.{tensor.layer}" if tensor.is_state else f"{_GROWING_PAST}{tensor.layer}.{tensor.part}"


def is_past(name: str) -> bool:
    """Return whether an input is one of the cache."""
    return _PAST_NAME.fullmatch(name) is not None


def is_present(name: str) -> bool:
    """Return whether an output is one of the cache."""
    return _PRESENT_NAME.fullmatch(name) is not None


def is_state(past: str) -> bool:
    """Return whether an input of the cache is a state, which does not keep values of each token."""
    return not past.startswith(_GROWING_PAST)


def past_of(present: str) -> str:
    """Return the input that takes what an output returns."""
    if present.startswith(_GROWING_PRESENT):
        return _GROWING_PAST + present.removeprefix(_GROWING_PRESENT)
    return _PAST + present.removeprefix(_PRESENT)


def present_of(past: str) -> str:
    """Return the output that returns what an input takes."""
    if past.startswith(_GROWING_PAST):
        return _GROWING_PRESENT + past.removeprefix(_GROWING_PAST)
    return _PRESENT + past.removeprefix(_PAST)


def count_layers(inputs: Mapping[str, Port]) -> int:
    """Return the number of layers that have tensors in the cache, by the names of a graph's inputs."""
    return len({name.split(".")[1] for name in inputs if is_past(name)})


def fixed_length(inputs: Mapping[str, Port]) -> int | None:
    """Return the number of tokens that a cache of fixed length has room for, by a graph's inputs; None if it grows."""
    if WRITE_INDICES not in inputs:
        return None
    _, length = inputs["attention_mask"].axes
    assert isinstance(length, int), "a mask is as long as the cache"
    return length


def grows(port: Port) -> bool:
    """Return whether a tensor of the cache grows with the text; if not, it is a state."""
    return any(isinstance(axis, str) for axis in port.axes[1:])


def cache_shape(name: str, port: Port, batch_size: int, tokens: int) -> tuple[int, ...]:
    """Return the shape of a tensor of the cache.

    Args:
        name: Name of the graph's input.
        port: Its axes: the first is the batch, and at most one other has no fixed size, which is the length.
        batch_size: Number of texts.
        tokens: Number of tokens of a text.

    Raises:
        UnsupportedModelError: More than its length is not fixed.
    """
    sizes = port.axes[1:]
    if sum(isinstance(axis, str) for axis in sizes) > 1:
        raise UnsupportedModelError(f"The graph's {name} has no fixed number and width of heads: {port.axes}.")
    return (batch_size, *(axis if isinstance(axis, int) else tokens for axis in sizes))
