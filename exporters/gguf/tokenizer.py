"""Writes a checkpoint's tokenizer into a GGUF file: vocabulary, special tokens and chat template.

Source: keys of `LLM_KV_TOKENIZER_*` in src/llama-arch.cpp, llama.cpp in xllamacpp 2026.10.11549.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.gguf_tokenizer import SPECIAL
from amp_export.checkpoints.loading import has_tokenizer
from amp_export.documents import parse_json, read_text
from amp_export.errors import ModelError, UnsupportedModelError
from amp_export.exporters.gguf.pretokenizers import WITHOUT_TOKENIZER, list_parts
from amp_export.exporters.gguf.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter


def write_tokenizer(writer: GGUFWriter, folder: Path, size: int) -> tuple[str, ...]:
    """Add a checkpoint's tokenizer to a file, or a key that says that it has none.

    Args:
        writer: The file.
        folder: The checkpoint.
        size: Number of tokens that the model embeds.

    Returns:
        Notes on texts that llama.cpp splits otherwise.

    Raises:
        ModelError: The tokenizer is damaged.
        UnsupportedModelError: llama.cpp is not known to have one of this structure.
    """
    if not has_tokenizer(folder):
        writer.add_tokenizer_model("no_vocab")
        return (f"{folder} has no tokenizer, so the file has none either: llama.cpp takes token ids with it, no text.",)
    content, source = read_tokenizer(folder)
    vocabulary = read_vocabulary(content, size, source)
    _write_vocabulary(writer, vocabulary)
    config = _read_config(folder)
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    special = {name: number for name in SPECIAL if (number := ids.get(_text(config.get(name)))) is not None}
    for name, number in special.items():
        writer.add_uint32(f"tokenizer.ggml.{SPECIAL[name]}_token_id", number)
    starts, ends = _read_template(content, special, source)
    # without them, llama.cpp decides by the name of the pre-tokenizer
    writer.add_bool("tokenizer.ggml.add_bos_token", starts)
    writer.add_bool("tokenizer.ggml.add_eos_token", ends)
    _write_chat_templates(writer, folder, config)
    return vocabulary.notes


def read_tokenizer(folder: Path) -> tuple[Mapping[str, Any], str]:
    """Return the content of a checkpoint's tokenizer.json, and its name for messages.

    A tokenizer in another form is converted by transformers.

    Raises:
        ModelError: It cannot be read.
        UnsupportedModelError: It has no form with one file.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        text, source = read_text(file, error=ModelError), str(file)
    else:
        from amp_export.checkpoints.loading import load_tokenizer

        backend = getattr(load_tokenizer(folder), "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedModelError(
                f"{folder} has no tokenizer.json, and transformers makes none of its tokenizer.\nSave it with "
                "tokenizer.save_pretrained() of a fast tokenizer."
            )
        text, source = backend.to_str(), f"{folder}: its tokenizer"
    content = parse_json(text, source=source, error=ModelError)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f"{source} is no tokenizer: it has no model.\nSave it again with tokenizer.save_pretrained().")
    return content, source


def _write_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.adds_prefix is not None:
        writer.add_add_space_prefix(vocabulary.adds_prefix)


def _read_config(folder: Path) -> Mapping[str, Any]:
    """Return the content of tokenizer_config.json with the special tokens of special_tokens_map.json; empty without."""
    content: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (file := folder / name).is_file():
            found = parse_json(read_text(file, error=ModelError), source=str(file), error=ModelError)
            content |= found if isinstance(found, dict) else {}
    return content


def _text(token: Any) -> str:
    """Return the text of a special token, which a config gives as text or with attributes."""
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")


def _read_template(content: Mapping[str, Any], special: Mapping[str, int], source: str) -> tuple[bool, bool]:
    """Return whether a text begins with the first, and ends with the last special token.

    Raises:
        UnsupportedModelError: Other tokens are added.
    """
    starts = ends = False
    for step in list_parts(content, "post_processor"):
        if step.get("type") == "TemplateProcessing":
            before, after = _around(step)
            numbers = {name: tuple(each["ids"]) for name, each in (step.get("special_tokens") or {}).items()}
            starts, ends = bool(before), bool(after)
            allowed = {(), (special.get("bos_token"),)}, {(), (special.get("eos_token"),)}
            found = tuple(sum((numbers.get(name, ()) for name in names), ()) for names in (before, after))
            if any(each not in wanted for each, wanted in zip(found, allowed, strict=True)):
                raise UnsupportedModelError(_refusal(source, f"{' '.join(before)} TEXT {' '.join(after)}"))
        elif step.get("type") != "ByteLevel":
            raise UnsupportedModelError(_refusal(source, str(step.get("type"))))
    return starts, ends


def _around(step: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the special tokens before and after a text."""
    before: list[str] = []
    after: list[str] = []
    names = before
    for part in step.get("single") or []:
        if "Sequence" in part:
            names = after
        else:
            names.append(part["SpecialToken"]["id"])
    return before, after


def _refusal(source: str, what: str) -> str:
    return (
        f"{source} adds special tokens in a way that GGUF files cannot say: {what}. They say whether bos_token "
        f"precedes a text, and eos_token follows it.\n{WITHOUT_TOKENIZER}"
    )


def _write_chat_templates(writer: GGUFWriter, folder: Path, config: Mapping[str, Any]) -> None:
    templates = dict(_chat_templates(folder, config))
    for name, text in templates.items():
        writer.add_string("tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}", text)
    if others := sorted(name for name in templates if name != "default"):
        writer.add_array("tokenizer.chat_templates", others)


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of chat templates; files come last, as they precede the config in transformers 5."""
    given = config.get("chat_template")
    if isinstance(given, str):
        yield "default", given
    elif isinstance(given, list):
        yield from ((str(each["name"]), str(each["template"])) for each in given)
    if (file := folder / "chat_template.jinja").is_file():
        yield "default", read_text(file, error=ModelError)
    for file in sorted(folder.glob("additional_chat_templates/*.jinja")):
        yield file.stem, read_text(file, error=ModelError)
