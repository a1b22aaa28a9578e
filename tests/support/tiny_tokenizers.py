"""Tiny tokenizers of the structures that real ones have, and random strings that tell them apart."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amp_export.checkpoints.pretokenizers import ONE_DIGIT, THREE_DIGITS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CORPUS = (
    "The capital of France is Paris, isn't it? It's 1234567 people; they'll say I'd be wrong, and WE'RE not.",
    "def f(x):\n    return x ** 2  # squares\n\n\tprint('hello   world')\r\n",
    "Ünïcödé façade naïve ÉCOLE Straße; русский текст, ελληνικά, العربية ١٢٣, 漢字とかな, हिन्दी, 😀😀 ² ½ ①",
    "<html>&amp;</html> https://example.org/a_b-c?d=e&f=g -- ... !!! ??? $100.00 50% a/b\\c {x: [1, 2]}",
)

ALPHABET = (
    *(map(chr, range(32, 127))),
    *("\n", "\t", "\r", "  ", "   ", "\n\n", "\u00a0", "\u2003", "\u3000"),
    *("é", "É", "ü", "ß", "ñ", "И", "и", "λ", "漢", "字", "か", "ع", "١", "²", "½", "①", "😀", "’", "—", "\u200d"),  # noqa: RUF001
    *("the", " of", "'s", "'ll", "'S", "'LL", "123", " 4567", "Paris", "ÉCOLE", *SPECIAL),
)


def random_strings(count: int, seed: int = 0) -> Iterator[str]:
    """Yield strings of letters, digits, spaces, marks and special tokens, which are in the form NFC."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        yield "".join(generator.choice(ALPHABET) for _ in range(generator.randint(0, 24)))


def byte_level(pattern: str | None = None, *, digits: bool = False, ignores: bool = False, nfc: bool = False) -> Any:
    """Return a byte-level BPE as in GPT-2 and its followers.

    Args:
        pattern: Regular expression that texts are split by; by default GPT-2's, which is built in.
        digits: Whether digits are split off first, as in SmolLM.
        ignores: Whether a word that is a token is not merged.
        nfc: Whether texts are normalized, as in Qwen2.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignores))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


BYTE_LEVEL = {
    "gpt-2": byte_level,
    "smollm": lambda: byte_level(digits=True),
    "llama-bpe": lambda: byte_level(THREE_DIGITS, ignores=True),
    "smaug-bpe": lambda: byte_level(THREE_DIGITS),
    "qwen2": lambda: byte_level(ONE_DIGIT, nfc=True),
}
"""Makers of tokenizers, by llama.cpp's name of what splits their texts."""


def character_level(prefix: str) -> Any:
    """Return a BPE of characters with bytes, as SentencePiece's are converted.

    Args:
        prefix: How a space comes before a text: `prepend` as in Llama 2, `first` as in later conversions, or `none` as
            in Gemma.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = _pieces()
    vocabulary = {token: number for number, token in enumerate(pieces)}
    scores = {token: -number for number, token in enumerate(pieces)}
    merges = [
        (token[:place], token[place:])
        for token in sorted((each for each in pieces if _merges(each)), key=lambda each: -scores[each])
        for place in range(1, len(token))
        if _merges(token, token[:place], token[place:], vocabulary=vocabulary)
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "\u2581")
    if prefix == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace])
    elif prefix == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", *SPECIAL)])
    return tokenizer


def _pieces() -> list[str]:
    """Return special tokens, bytes, merged pieces and characters, in SentencePiece's order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learner.train_from_iterator(
        [text.replace("\n", " ") for text in CORPUS], trainers.BpeTrainer(vocab_size=260, show_progress=False)
    )
    learned = sorted(learner.get_vocab().items(), key=lambda entry: entry[1])
    characters = [token for token, _ in learned if len(token) == 1]
    merged = [token for token, _ in learned if len(token) > 1]
    return ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *characters]


def _merges(*parts: str, vocabulary: dict[str, int] | None = None) -> bool:
    """Return whether pieces take part in merges: bytes and special tokens do not."""
    named = all(not (part.startswith("<0x") or part in ("<unk>", *SPECIAL)) for part in parts)
    return named and (vocabulary is None or all(part in vocabulary for part in parts))


def save_tokenizer(tokenizer: Any, folder: Path, **special: str) -> None:
    """Write a tokenizer next to a checkpoint, in the form in which transformers loads it as it is."""
    from transformers import PreTrainedTokenizerFast

    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **special}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
