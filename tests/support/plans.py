"""Plans to prune tiny models by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amp_export.architectures import ModelConfig
from amp_export.pruning.plan import Plan
from amp_export.pruning.planning import list_plans
from amp_export.pruning.scores import Scores
from amp_export.pruning.settings import PlanSettings


def make_plan(raw_config: Mapping[str, Any], config: ModelConfig, scores: Scores, settings: PlanSettings) -> Plan:
    """Return the likeliest plan."""
    return list_plans(raw_config, config, scores, settings)[0]
