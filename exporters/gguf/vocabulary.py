"""The vocabulary of a tokenizer.json in the form of a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amp_export.checkpoints.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.gguf.pretokenizers import WITHOUT_TOKENIZER, find_pre_tokenizer, list_parts
from amp_export.exporters.gguf.sentencepiece import find_prefix, score_tokens


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and how texts are split into them.

    Attributes:
        model: `tokenizer.ggml.model`: `gpt2` for byte-level BPE, `llama` for BPE of characters with bytes.
        pre: `tokenizer.ggml.pre`, or None if the model needs none.
        tokens: The text of each token.
        types: The type of each.
        scores: Scores by which characters are merged; empty for byte-level BPE.
        merges: Pairs of tokens in order of preference; empty for BPE of characters.
        adds_prefix: Whether a space precedes a text; None if that is not for a key to say.
        notes: What llama.cpp does otherwise in texts that are out of the ordinary.
    """

    model: str
    pre: str | None
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    adds_prefix: bool | None = None
    notes: tuple[str, ...] = field(default=())


def read_vocabulary(content: Mapping[str, Any], size: int, source: str) -> Vocabulary:
    """Return the vocabulary of a tokenizer.

    Args:
        content: Content of its tokenizer.json.
        size: Number of tokens that the model embeds; what the tokenizer lacks is filled up with unused ones.
        source: Name of the file, for messages.

    Raises:
        UnsupportedModelError: It is of a kind that llama.cpp is not known to have.
    """
    model = content.get("model") or {}
    if model.get("type") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        raise UnsupportedModelError(
            f"{source} is a tokenizer of the type {model.get('type')}, and only BPE is written to GGUF files.\n"
            f"{WITHOUT_TOKENIZER}"
        )
    added: Mapping[int, Mapping[str, Any]] = {each["id"]: each for each in content.get("added_tokens") or []}
    tokens = _list_tokens(model["vocab"], added, size, source)
    types = _list_types(tokens, model, added)
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    notes = tuple(_notes(content, added))
    if model.get("byte_fallback"):
        prefix = find_prefix(content, source)
        scores = score_tokens(tokens, types, merges, source)
        return Vocabulary(
            "llama", "default", tokens, types, scores=scores, adds_prefix=prefix.is_added, notes=(*notes, *prefix.notes)
        )
    pre = find_pre_tokenizer(content, source)
    return Vocabulary("gpt2", pre, tokens, types, merges=tuple(" ".join(merge) for merge in merges), notes=notes)


def _list_tokens(
    vocabulary: Mapping[str, int], added: Mapping[int, Mapping[str, Any]], size: int, source: str
) -> tuple[str, ...]:
    named = {number: token for token, number in vocabulary.items()}
    named |= {number: each["content"] for number, each in added.items()}
    if (last := max(named)) >= size:
        raise UnsupportedModelError(
            f"{source} has a token of the id {last}, {named[last]!r}, and the model embeds {size} tokens.\nSave the "
            "tokenizer that belongs to these weights, or resize the embedding."
        )
    return tuple(named.get(number, f"[PAD{number}]") for number in range(size))


def _list_types(
    tokens: Sequence[str], model: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]]
) -> tuple[int, ...]:
    named = set(model["vocab"].values())
    types = []
    for number, token in enumerate(tokens):
        if number in added:
            kind = CONTROL if added[number].get("special") else USER_DEFINED
        elif number not in named:
            kind = UNUSED
        elif model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kind = BYTE
        else:
            kind = NORMAL
        if model.get("byte_fallback") and token == model.get("unk_token"):
            kind = UNKNOWN
        types.append(kind)
    return tuple(types)


def _notes(content: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what llama.cpp does otherwise in some texts."""
    kinds = {str(part.get("type")) for part in list_parts(content, "normalizer")}
    if kinds & {"NFC", "NFKC", "NFD", "NFKD"}:
        yield "llama.cpp does not normalize Unicode as this tokenizer does: give it texts in the form NFC."
    stripping = [each["content"] for each in added.values() if each.get("lstrip") or each.get("rstrip")]
    if stripping:
        yield (
            f"This tokenizer drops spaces beside {', '.join(sorted(stripping)[:3])}, and llama.cpp keeps them: put "
            "none there."
        )
