"""Tokenizers of SentencePiece's kind: BPE of characters, with bytes for those that it lacks.

llama.cpp merges the neighbours whose result has the highest score, and transformers the pair that comes first in a
list. Both are the same where the pairs of each token are listed together, with none left out; scores are then ranks.
Runs of spaces are the exception: they share one score in the models that were converted, so that their pairs are listed
by length.

Source: `llm_tokenizer_spm_session` in src/llama-vocab.cpp, llama.cpp in xllamacpp 2026.10.11549.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amp_export.checkpoints.gguf_tokenizer import NORMAL
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.gguf.pretokenizers import WITHOUT_TOKENIZER, list_parts

SPACE = "\u2581"
"""What stands for a space."""


@dataclass(frozen=True)
class Prefix:
    """Whether a space precedes a text.

    Attributes:
        is_added: Whether it does.
        notes: Where llama.cpp and the tokenizer differ.
    """

    is_added: bool
    notes: tuple[str, ...] = ()


def find_prefix(content: Mapping[str, Any], source: str) -> Prefix:
    """Return whether a tokenizer puts a space before a text, from its normalizer and pre-tokenizer.

    Raises:
        UnsupportedModelError: It changes or splits texts in another way.
    """
    steps = tuple(
        _read_step(step) for step in (*list_parts(content, "normalizer"), *list_parts(content, "pre_tokenizer"))
    )
    if found := _KNOWN.get(steps):
        return found
    raise UnsupportedModelError(
        f"{source} prepares texts in a way that llama.cpp is not known to have: "
        f"{', '.join(map(str, steps)) or 'nothing'}.\nIts token ids would differ. {WITHOUT_TOKENIZER}"
    )


# llama.cpp would also put one after each special token, as in every turn of a chat
_FIRST = Prefix(
    is_added=False,
    notes=(
        "This tokenizer puts a space before a text unless it begins with a space or a special token; llama.cpp does "
        "not, so put it there.",
    ),
)
_ALWAYS = Prefix(
    is_added=True,
    notes=("llama.cpp puts a space before a text also where it begins with one, which this tokenizer does not.",),
)

_REPLACE, _SPLIT = f"replace ' ' by {SPACE}", "split after spaces"
_KNOWN: Mapping[tuple[str | None, ...], Prefix] = {
    ("prepend", _REPLACE): Prefix(is_added=True),
    ("space always",): _ALWAYS,
    ("space first",): _FIRST,
    ("space never",): Prefix(is_added=False),
    (_REPLACE,): Prefix(is_added=False),
    # no space is left to split after
    (_REPLACE, _SPLIT): Prefix(is_added=False),
}


def _read_step(step: Mapping[str, Any]) -> str:
    kind, pattern = step.get("type"), step.get("pattern")
    if kind == "Prepend" and step.get("prepend") == SPACE:
        return "prepend"
    if kind == "Replace" and pattern == {"String": " "} and step.get("content") == SPACE:
        return _REPLACE
    if kind == "Split" and pattern == {"String": " "} and step.get("behavior") == "MergedWithPrevious":
        return _SPLIT
    if kind == "Metaspace" and step.get("replacement") == SPACE and not step.get("split", True):
        return f"space {step.get('prepend_scheme', 'always')}"
    return str(kind)


def score_tokens(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, ...]], source: str
) -> tuple[float, ...]:
    """Return scores with which llama.cpp merges as the list of pairs says.

    Raises:
        UnsupportedModelError: No scores do: pairs of one token are not together, or one is missing.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        token = "".join(pair)
        first.setdefault(token, rank)
        last[token] = rank
    listed = set(merges)
    known = {token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    scores: dict[str, int] = {}
    start, end, before = 0, -1, ""
    for token, rank in sorted(first.items(), key=lambda entry: entry[1]):
        if rank > end:
            start = rank
        elif not (set(token) == set(before) == {SPACE}):
            raise UnsupportedModelError(_refusal(source, f"the pairs of {before!r} and {token!r} are mixed"))
        scores[token] = start
        end, before = max(end, last[token]), token
    for token in known:
        for place in range(1, len(token)):
            pair = (token[:place], token[place:])
            if pair[0] in known and pair[1] in known and pair not in listed:
                raise UnsupportedModelError(_refusal(source, f"{pair[0]!r} and {pair[1]!r} are not merged"))
    unmerged = float(len(merges))
    return tuple(-float(scores.get(token, unmerged)) for token in tokens)


def _refusal(source: str, why: str) -> str:
    return (
        f"{source} merges tokens in an order that llama.cpp's scores cannot express: {why}.\nIts token ids would "
        f"differ. {WITHOUT_TOKENIZER}"
    )
