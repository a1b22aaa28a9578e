"""Names of the files in an output directory."""

from __future__ import annotations

MANIFEST = "amp_export.json"

PRUNED = "pruned"

SCORES = "scores.safetensors"

PLAN = "plan.json"
