"""A dense decoder and its pruned one in one folder: target and draft of speculative decoding."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind
from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.loading import load_tokenizer
from amp_export.checkpoints.older_versions import name_tokenizer_class
from amp_export.checkpoints.source_files import copy_files
from amp_export.documents import read_object
from amp_export.errors import ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.files import GRAPH, file_name
from amp_export.exporters.onnx.genai import GENAI_CONFIG
from amp_export.exporters.support import refuse_states
from amp_export.exporting.run import export_as
from amp_export.exporting.settings import ExportSettings, choose_settings
from amp_export.inputs.batches import encode
from amp_export.inputs.texts import shipped_texts
from amp_export.options import Format, Operators
from amp_export.progress import Progress
from amp_export.verb_options import DraftOptions, ExportOptions

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint

DENSE, PRUNED = "dense", "pruned"
"""Folders of the two models, and names of their GGUF files."""

CHECKED_TEXTS = 20
"""Texts that both tokenizers have to split alike."""

MOST_DRAFT_TOKENS = 16
"""Source: `Speculative_Element`, src/config.cpp of onnxruntime-genai 0.16."""

QUIET_THREADS = {"session.intra_op.allow_spinning": "0"}
"""Threads of a model that spin while they wait keep the other model's from their cores. Source:
onnxruntime_session_options_config_keys.h."""


@dataclass(frozen=True)
class Pair:
    """Settings of both models, checked before anything is written.

    Attributes:
        dense: The dense checkpoint.
        pruned: The pruned checkpoint.
        dense_settings: Settings of the dense model's export.
        pruned_settings: Settings of the pruned model's export.
    """

    dense: Checkpoint
    pruned: Checkpoint
    dense_settings: ExportSettings
    pruned_settings: ExportSettings


def prepare_pair(dense: Checkpoint, pruned: Checkpoint, options: DraftOptions) -> Pair:
    """Check that a pruned model can draft for its dense one, and resolve the settings of both.

    Raises:
        UnsupportedModelError: They are no decoders, their caches hold states, or the runtime has no class for them.
        ModelError: Their tokenizers or vocabularies differ.
        RequestError: An option is out of range, or for another format.
    """
    if dense.config.architecture.kind is not Kind.DECODER:
        raise UnsupportedModelError(
            f"{dense.path} is a {dense.config.class_name}, and only a decoder can draft for another.\nExport the "
            "pruned model by itself: amp-export export."
        )
    if (reason := refuse_states(dense.config, what="a runtime that drops drafted tokens")) is not None:
        raise UnsupportedModelError(
            f"{reason}\nStates cannot be taken back to the last token that was accepted. Export the pruned model by "
            "itself: amp-export export."
        )
    if options.to not in (Format.ONNX, Format.GGUF):
        raise RequestError(
            f"No runtime of --to {options.to} decodes with a draft.\nGive --to onnx for onnxruntime-genai, or --to "
            "gguf for llama.cpp."
        )
    if not 1 <= options.draft_tokens <= MOST_DRAFT_TOKENS:
        raise RequestError(
            f"--draft-tokens {options.draft_tokens} is out of range.\nGive 1 to {MOST_DRAFT_TOKENS}: so many tokens "
            "onnxruntime-genai drafts at most."
        )
    if min(options.texts, options.new_tokens) < 1:
        raise RequestError("--texts and --new-tokens are numbers of texts and of tokens.\nGive at least 1 of each.")
    check_tokenizers(dense, pruned)
    operators = Operators.ONNXRUNTIME if options.to is Format.ONNX else Operators.STANDARD
    shared = ExportOptions(to=options.to, dtype=options.dtype, operators=operators)
    drafting = ExportOptions(
        to=options.to,
        dtype=options.dtype if options.to is Format.ONNX or options.weights is None else None,
        operators=operators,
        weights=options.weights,
        block_size=options.block_size,
    )
    return Pair(dense, pruned, choose_settings(dense, shared), choose_settings(pruned, drafting))


def check_tokenizers(dense: Checkpoint, pruned: Checkpoint) -> None:
    """Check that two models read the same tokens, without which a draft proposes other texts.

    Raises:
        ModelError: Their vocabularies, special tokens or token ids differ.
    """
    differences = []
    if dense.config.vocab_size != pruned.config.vocab_size:
        differences.append(f"logits of {dense.config.vocab_size:,} and of {pruned.config.vocab_size:,} tokens")
    target, draft = load_tokenizer(dense.path), load_tokenizer(pruned.path)
    if target.get_vocab() != draft.get_vocab():
        differences.append("other tokens")
    if target.all_special_ids != draft.all_special_ids:
        differences.append("other special tokens")
    if any(encode(target, text) != encode(draft, text) for text in shipped_texts()[:CHECKED_TEXTS]):
        differences.append("other ids for the same text")
    if differences:
        raise ModelError(
            f"{pruned.path} cannot draft for {dense.path}: they have {', '.join(differences)}.\nPut the tokenizer of "
            "the dense model beside the pruned weights, or prune again."
        )


def write_pair(folder: Path, pair: Pair, options: DraftOptions, *, progress: Progress) -> int:
    """Write both models and what opens them together into a folder.

    Args:
        folder: Folder to create.
        pair: The models, from `prepare_pair`.
        options: The options.
        progress: Shows progress.

    Returns:
        Size of all files.

    Raises:
        UnsupportedModelError: onnxruntime-genai cannot open the models.
    """
    folder.mkdir(parents=True)
    for name, checkpoint, settings in (
        (DENSE, pair.dense, pair.dense_settings),
        (PRUNED, pair.pruned, pair.pruned_settings),
    ):
        scratch = folder / f"{name}.new"
        made = export_as(scratch, checkpoint, settings, progress=progress, name=f"the {name} model").folder
        if options.to is Format.GGUF:
            (made / file_name("model", Format.GGUF)).rename(folder / f"{name}.gguf")
        else:
            made.rename(folder / name)
        shutil.rmtree(scratch)
    if options.to is Format.ONNX:
        _join(folder, pair.dense, options)
    return directory_size(folder)


def _join(folder: Path, dense: Checkpoint, options: DraftOptions) -> None:
    """Write the genai_config.json of both, with the tokenizer beside it.

    Source: docs/speculative_decoding.md of onnxruntime-genai 0.16: `model.draft` is a decoder like `model.decoder`,
    whose files are below the config.

    Raises:
        UnsupportedModelError: A model has no genai_config.json.
    """
    configs: dict[str, dict[str, Any]] = {}
    for name in (DENSE, PRUNED):
        if not (folder / name / GENAI_CONFIG).is_file():
            raise UnsupportedModelError(
                f"onnxruntime-genai cannot open {dense.path}: it names no token that ends a text.\nSet eos_token_id in "
                "config.json, or give --to gguf."
            )
        configs[name] = read_object(folder / name / GENAI_CONFIG)
        decoder = configs[name]["model"]["decoder"]
        decoder["filename"] = f"{name}/{GRAPH}"
        decoder["session_options"] |= QUIET_THREADS
    content = configs[DENSE]
    content["model"]["draft"] = configs[PRUNED]["model"]["decoder"]
    content["speculative"] = {"max_draft_tokens": options.draft_tokens}
    (folder / GENAI_CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    copy_files(dense.companions(), folder, base=dense.path)
    name_tokenizer_class(folder)
