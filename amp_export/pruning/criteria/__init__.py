"""Criteria of importance: one file each, and this folder is their registry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amp_export.options import CriterionName
    from amp_export.pruning.criteria._criterion import Criterion


def find_criterion(name: CriterionName) -> Criterion:
    """Return a criterion by its name."""
    criterion: Criterion = import_module(f"{__name__}.{name.value}").CRITERION
    return criterion
