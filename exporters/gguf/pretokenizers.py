"""Finds llama.cpp's name for how a tokenizer.json splits texts, by its structure and not by the model it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from amp_export.checkpoints.pretokenizers import DIGITS, GPT2, NAMES, Steps
from amp_export.errors import UnsupportedModelError

WITHOUT_TOKENIZER = (
    "To write weights alone, which then take token ids, export a copy of the checkpoint without its tokenizer files."
)
"""What can be done where a tokenizer cannot be written."""


_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
"""The stages of a tokenizer.json, and the field of a stage that has the parts of a sequence."""


def list_parts(
    content: Mapping[str, Any], stage: Literal["normalizer", "pre_tokenizer", "post_processor"]
) -> Sequence[Mapping[str, Any]]:
    """Return the parts of a stage of a tokenizer.json: those of a sequence, a single one, or none."""
    given = content.get(stage)
    return given.get(_SEQUENCES[stage], [given]) if isinstance(given, Mapping) else []


def find_pre_tokenizer(content: Mapping[str, Any], source: str) -> str:
    """Return llama.cpp's name for the pre-tokenizer of a byte-level BPE.

    Args:
        content: Content of a tokenizer.json.
        source: Name of the file, for messages.

    Raises:
        UnsupportedModelError: llama.cpp has none that is known to split texts in this way.
    """
    steps = read_steps(content)
    ignores = bool(content["model"].get("ignore_merges"))
    if steps is not None and (name := NAMES.get((steps, ignores))) is not None:
        return name
    raise UnsupportedModelError(
        f"{source} splits texts in a way that llama.cpp is not known to have: {_describe(content)}.\nIts token ids "
        f"would differ. Known: {', '.join(NAMES.values())}. {WITHOUT_TOKENIZER}"
    )


def read_steps(content: Mapping[str, Any]) -> Steps | None:
    """Return the steps of a pre-tokenizer, of which the last also maps bytes; None if one is of another kind."""
    parts = list_parts(content, "pre_tokenizer")
    if not isinstance(parts, list) or not parts or parts[-1].get("type") != "ByteLevel":
        return None
    *first, last = parts
    steps = [_read_step(part) for part in first]
    if last.get("add_prefix_space") or None in steps:
        return None
    if last.get("use_regex", True):
        steps.append(GPT2)
    return tuple(step for step in steps if step is not None)


def _read_step(part: Mapping[str, Any]) -> str | None:
    """Return a regular expression or `DIGITS`; None if it is neither."""
    if part.get("type") == "Digits" and part.get("individual_digits"):
        return DIGITS
    if part.get("type") == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        pattern = part.get("pattern")
        return pattern.get("Regex") if isinstance(pattern, Mapping) else None
    return None


def _describe(content: Mapping[str, Any]) -> str:
    names = [
        f"{part.get('type')} {part['pattern']}" if "pattern" in part else str(part.get("type"))
        for part in list_parts(content, "pre_tokenizer")
    ]
    ignores = ", ignore_merges" if content["model"].get("ignore_merges") else ""
    return f"{' then '.join(names) or 'no pre-tokenizer'}{ignores}"
