"""Names of the files in an output directory."""

from __future__ import annotations

MANIFEST = "amp_export.json"

PRUNED = "pruned"

WHOLE = "vision_language"
"""The vision-language model with the pruned language model in it."""

NEMOTRON_NAS = "nemotron_nas"
"""The pruned checkpoint in the form that vLLM and TensorRT-LLM load."""

SCORES = "scores.safetensors"

PLAN = "plan.json"

FACTS = "architecture.py"
"""Facts about a type that was found out, or whose file was given."""

DRAFT = "draft"
"""Folder with the dense and the pruned model as target and draft of speculative decoding."""

SOURCE = "source"
"""The dense checkpoint, as the subject of a verdict; it is not a file of the output."""

BUNDLE = "bundle-{target}.tar.gz"
"""Name of the bundle for a target."""

PARTIAL = ".partial-"
"""Part of the names of scratch directories and partial files."""

RESUMABLE = ".resume"
"""End of the names of directories that unfinished runs go on from."""
