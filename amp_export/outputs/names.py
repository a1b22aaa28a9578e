"""Names of the files in an output directory."""

from __future__ import annotations

MANIFEST = "amp_export.json"

PRUNED = "pruned"

SCORES = "scores.safetensors"

PLAN = "plan.json"

SOURCE = "source"
"""The dense checkpoint, as the subject of a verdict; it is not a file of the output."""

PARTIAL = ".partial-"
"""Part of the names of scratch directories and partial files."""
