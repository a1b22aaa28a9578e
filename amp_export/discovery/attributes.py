"""Counts that modules store as attributes: they are compared between models with different counts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from amp_export.architectures._blocks import Count
from amp_export.discovery.layouts import Heads

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def find_attributes(
    module: torch.nn.Module, other: torch.nn.Module, counts: Mapping[Count, int], others: Mapping[Count, int]
) -> dict[str, Count]:
    """Return the attributes of a module that hold a count.

    Args:
        module: The module.
        other: The same module of a model with other counts.
        counts: Counts of the first model.
        others: Counts of the second.
    """
    found = {}
    for name, value in vars(module).items():
        if type(value) is not int or type(vars(other).get(name)) is not int:
            continue
        pair = value, vars(other)[name]
        if (count := next((each for each in counts if (counts[each], others[each]) == pair), None)) is not None:
            found[name] = count
    return found


def count_all(heads: Heads | None, neurons: int) -> dict[Count, int]:
    """Return the counts of a layer that attributes may hold."""
    if heads is None:
        return {Count.NEURONS: neurons}
    return {
        Count.QUERY_HEADS: heads.query_heads,
        Count.KEY_VALUE_HEADS: heads.key_value_heads,
        Count.QUERY_GROUP: heads.query_group,
        Count.QUERY_FEATURES: heads.query_heads * heads.head_dim,
    }


def count_given(model: torch.nn.Module, inputs: Mapping[str, Any], path: str) -> int:
    """Return how many positional arguments a module of a model is given."""
    import torch

    given: list[int] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, arguments: given.append(len(arguments)))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return given[0]


@contextmanager
def recording_reads(module: torch.nn.Module) -> Iterator[set[str]]:
    """Record which attributes of a module, and which fields of its config as `config.NAME`, are read while it runs."""
    seen: set[str] = set()
    own, config = type(module), getattr(module, "config", None)

    class Fields:
        def __getattr__(self, name: str) -> Any:
            seen.add(f"config.{name}")
            return getattr(config, name)

    class Reading(own):  # type: ignore[valid-type, misc]
        def __getattribute__(self, name: str) -> Any:
            seen.add(name)
            return super().__getattribute__(name)

    try:
        if config is not None:
            module.config = Fields()  # type: ignore[assignment]
        module.__class__ = Reading
        yield seen
    finally:
        module.__class__ = own
        if config is not None:
            module.config = config
