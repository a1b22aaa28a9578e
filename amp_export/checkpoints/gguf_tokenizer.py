"""Makes the tokenizer that transformers reads from a GGUF file split texts as the file says.

transformers knows a byte-level tokenizer by the model's architecture, and gives it GPT-2's split, or Llama 3's: the
step that splits digits off in SmolLM's is lost. Source: `GGUF_TO_FAST_CONVERTERS`, `integrations/ggml.py`, transformers
5.24.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.pretokenizers import DIGITS, GPT2, NAMES, STARTS, canonical_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""Names of special tokens in keys of GGUF files, by their names in transformers."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens, of which those of control and the user's are found in a text before it is split: `llama_token_type`,
include/llama.h."""


def restore_structure(tokenizer: PreTrainedTokenizerBase, fields: Mapping[str, Any]) -> str | None:
    """Give a tokenizer the split, the added tokens and the special tokens around a text that a file's keys name.

    Args:
        tokenizer: The tokenizer that transformers read; it is changed.
        fields: Keys of the file that begin with `tokenizer.`.

    Returns:
        A note if the file names a split that is not known here, or None.
    """
    for name, key in SPECIAL.items():
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None and getattr(tokenizer, name) is None:
            setattr(tokenizer, name, fields["tokenizer.ggml.tokens"][number])
    if fields.get("tokenizer.ggml.model") != "gpt2":
        return None
    given = str(fields.get("tokenizer.ggml.pre", "default"))
    if (split := canonical_name(given)) is None:
        return (
            f"The file splits texts by llama.cpp's {given!r}, which is not known here: some token ids may differ from "
            "those of its model."
        )
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 - only fast tokenizers have it
    (steps, ignores), _ = next(entry for entry in NAMES.items() if entry[1] == split)
    backend.pre_tokenizer = _split_by(steps)
    backend.model.ignore_merges = ignores
    _add_tokens(backend, fields["tokenizer.ggml.tokens"], fields.get("tokenizer.ggml.token_type") or ())
    backend.post_processor = _surround(tokenizer, fields, split)
    return None


def _split_by(steps: Sequence[str]) -> Any:
    from tokenizers import Regex, pre_tokenizers

    made: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True)
        if step == DIGITS
        else pre_tokenizers.Split(Regex(step), behavior="isolated")
        for step in steps
        if step != GPT2
    ]
    # GPT-2's is built in
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=steps[-1] == GPT2)
    return pre_tokenizers.Sequence([*made, last]) if made else last


def _add_tokens(backend: Any, tokens: Sequence[str], types: Sequence[int]) -> None:
    from tokenizers import AddedToken

    known = {each.content for each in backend.get_added_tokens_decoder().values()}
    for token, kind in zip(tokens, types, strict=False):
        if kind in (CONTROL, USER_DEFINED) and token not in known:
            added = [AddedToken(token, normalized=False, special=kind == CONTROL)]
            backend.add_special_tokens(added) if kind == CONTROL else backend.add_tokens(added)


def _surround(tokenizer: PreTrainedTokenizerBase, fields: Mapping[str, Any], split: str) -> Any:
    """Return what puts bos_token before a text and eos_token after it, where the file says so."""
    from tokenizers.processors import TemplateProcessing

    starts = fields.get("tokenizer.ggml.add_bos_token", split in STARTS)
    ends = fields.get("tokenizer.ggml.add_eos_token", False)
    numbers = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    texts = {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
    used = [kind for kind, asked in (("bos", starts), ("eos", ends)) if asked and numbers[kind] is not None]
    before, after = (f"{texts[kind]} " if kind in used else "" for kind in ("bos", "eos"))
    single = f"{before}$A {after}".strip()
    return TemplateProcessing(
        single=single,
        pair=f"{single} {before}$B:1 {after}".strip(),
        special_tokens=[(str(texts[kind]), int(numbers[kind])) for kind in used],
    )
