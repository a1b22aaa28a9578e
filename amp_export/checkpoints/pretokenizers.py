"""How texts are split before tokens are merged: structures of tokenizer.json, and their names in llama.cpp.

llama.cpp knows the split by a name alone, `tokenizer.ggml.pre`. Two tokenizers of one family may have different ones.

Source: `llm_tokenizer_bpe` and `llama_vocab::impl::load` in src/llama-vocab.cpp, llama.cpp in xllamacpp
2026.10.11549; each name was tried on random strings (tests/exporters/gguf/test_vocabulary.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
THREE_DIGITS = _CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _TAIL
"""Llama 3's split of a text."""
ONE_DIGIT = _CONTRACTIONS + _WORDS + r"|\p{N}" + _TAIL
"""Qwen 2's."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's, which `ByteLevel` of tokenizers has built in."""

Steps = tuple[str, ...]
"""Regular expressions that texts are split by in turn, or `DIGITS`."""

DIGITS = "digits"
"""Each digit is split off."""

NAMES: Mapping[tuple[Steps, bool], str] = MappingProxyType(
    {
        ((GPT2,), False): "gpt-2",
        ((DIGITS, GPT2), False): "smollm",
        ((THREE_DIGITS,), True): "llama-bpe",
        ((THREE_DIGITS,), False): "smaug-bpe",
        ((ONE_DIGIT,), False): "qwen2",
    }
)
"""By the steps, and whether a word that is a token is not merged from its characters (`ignore_merges`)."""

_ALIASES = {
    "gpt-2": ("phi-2", "mpt", "olmo", "gigachat", "mellum", "a.x-4.0"),
    "smollm": ("starcoder", "refact", "command-r", "codeshell", "exaone"),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "smaug-bpe": ("dbrx",),
    "qwen2": ("deepseek-r1-qwen", "stablelm2"),
}
"""Other names of the same splits."""

STARTS = frozenset({"llama-bpe"})
"""Names with which a text begins with bos_token, if no key says otherwise."""


def canonical_name(name: str) -> str | None:
    """Return the name in `NAMES` of the same split; None if there is none."""
    return next((own for own in NAMES.values() if name == own or name in _ALIASES[own]), None)
