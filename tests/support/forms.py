"""Families of one form: what a family costs in every run is spent on one of each where only the form matters."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from amp_export.architectures import find_architecture, supported_model_types

ALL_FAMILIES = "AMP_EXPORT_ALL_WAYS" in os.environ
"""Whether every family takes every way."""


def form_of(model_type: str) -> tuple[Any, ...]:
    """What decides how a family is pruned, names apart: kind, modality, and the projections of attention and MLP."""
    architecture = find_architecture(model_type)
    attention, mlp = architecture.attention, architecture.mlp
    return (
        architecture.kind,
        architecture.modality,
        architecture.heads_stay is None,
        tuple((each.rows, each.layout, each.transposed) for each in (*attention.inputs, attention.output)),
        tuple(tensor.axes for tensor in attention.tensors),
        frozenset(attention.attributes.values()),
        tuple((each.rows, each.layout, each.transposed, each.stacked is None) for each in (*mlp.inputs, mlp.output)),
    )


def one_of_each_form(model_types: Iterable[str] = supported_model_types()) -> list[str]:
    """The first family of each form; all of them with AMP_EXPORT_ALL_WAYS."""
    if ALL_FAMILIES:
        return list(model_types)
    first: dict[tuple[Any, ...], str] = {}
    for each in model_types:
        first.setdefault(form_of(each), each)
    return list(first.values())
