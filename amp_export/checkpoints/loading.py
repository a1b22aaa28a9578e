"""Load models and tokenizers through transformers, without its log messages and progress bars."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amp_export.architectures import find_architecture
from amp_export.checkpoints.building import (
    OFFLINE,
    LoadingReport,
    build_checkpoint,
    build_from_config,
    check_loading,
    class_name,
    find_model_class,
    read_model_config,
    rehearse_loading,
    transformers_errors,
)
from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.checkpoints.source_files import reading
from amp_export.checkpoints.tying import count_untied
from amp_export.checkpoints.weight_files import weight_files
from amp_export.errors import ModelError, first_line

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
"""Files that can hold a tokenizer's vocabulary."""


def count_parameters(raw_config: Mapping[str, Any], path: Path) -> int:
    """Return the number of parameters of a model; tied ones are counted once.

    Args:
        raw_config: Content of its config.json.
        path: Its directory, whose files decide which weights are tied.

    Raises:
        ModelError: transformers cannot build a model from this config.
    """
    model = build_from_config(raw_config, path)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    distinct: int = sum(parameter.numel() for parameter in model.parameters())
    return distinct + count_untied(path, model.all_tied_weights_keys, shapes)


def load_model(path: Path, *, dtype: torch.dtype | None = None, rehearsed: bool = False) -> PreTrainedModel:
    """Load a model for inference, in the class that its config names; code in the checkpoint is never run.

    Args:
        path: A checkpoint directory.
        dtype: The dtype to load it in; by default, the checkpoint's.
        rehearsed: Whether `rehearse_loading` was called before, and the files have not changed since.

    Raises:
        ModelError: Weights are missing, or transformers does not have the class.
    """
    import torch

    for file in weight_files(path):
        with reading(file):
            pass  # only to open it: transformers would raise an error of the system, as if the output were meant
    if not rehearsed:
        rehearse_loading(path)
    with quiet_transformers(), transformers_errors(path):
        config = read_model_config(path)
        name = class_name(config)
        model, found = find_model_class(path, config, name).from_pretrained(
            path,
            dtype=dtype if dtype is not None else "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused in words of this package
            **OFFLINE,
        )
        if dtype is torch.float64:
            model.set_experts_implementation("eager")  # the fast one does not support float64
    report = LoadingReport.of(model, found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"])
    check_loading(path, type(model).__name__, report, find_architecture(model.config.model_type))
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_whole(path: Path, *, dtype: torch.dtype | None = None, layers: bool = True) -> PreTrainedModel:
    """Load a vision-language model for inference; code in the checkpoint is never run.

    Args:
        path: Its directory.
        dtype: The dtype to load it in; by default, the checkpoint's.
        layers: Whether the layers of its language model are wanted; without them, it takes less memory.

    Raises:
        ModelError: Weights are missing or have other shapes, or transformers cannot load it.
    """
    import transformers

    with quiet_transformers(), transformers_errors(path):
        untyped: Any = transformers.AutoModelForImageTextToText
        config = read_model_config(path)
        if not layers:
            _leave_out_layers(config)
        model, found = untyped.from_pretrained(
            path,
            config=config,
            dtype=dtype if dtype is not None else "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused in words of this package
            **OFFLINE,
        )
    report = LoadingReport.of(model, found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"])
    if wrong := sorted({*report.missing, *report.mismatched}):
        raise ModelError(
            f"{path}: {len(wrong)} tensors of its {type(model).__name__} are missing or have other shapes, {wrong[0]} "
            "first.\nSave it again with transformers' save_pretrained()."
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def build_whole(path: Path) -> PreTrainedModel:
    """Return a vision-language model on the meta device, without weights and without the layers of its language model.

    Args:
        path: Its directory.

    Raises:
        ModelError: transformers refuses the config.
    """
    import torch
    import transformers

    with quiet_transformers(), transformers_errors(path):
        config = read_model_config(path)
        _leave_out_layers(config)
        with torch.device("meta"):
            model: PreTrainedModel = transformers.AutoModelForImageTextToText.from_config(config)
    return model


def _leave_out_layers(config: Any) -> None:
    config.text_config.num_hidden_layers = 0
    if getattr(config.text_config, "layer_types", None) is not None:
        config.text_config.layer_types = []


def module_names(path: Path) -> list[str]:
    """Return the names of all modules of a checkpoint's model, as in `named_modules`; no weights are read.

    Args:
        path: A checkpoint directory.
    """
    return [name for name, _ in build_checkpoint(path).named_modules() if name]


def has_tokenizer(path: Path) -> bool:
    """Return whether a checkpoint has one of the files that hold a tokenizer's vocabulary."""
    return any((path / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        ModelError: The checkpoint has no tokenizer, or transformers cannot load it.
    """
    from transformers import AutoTokenizer

    # without any of the files, transformers creates an empty tokenizer for some families
    if not has_tokenizer(path):
        raise ModelError(
            f"{path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}.\n"
            "Scoring on text needs one: save it next to the weights with tokenizer.save_pretrained(), or give --plan "
            "or --scores."
        )
    with quiet_transformers():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **OFFLINE)
        except Exception as error:  # tokenizers raises plain exceptions, and a damaged file leads to any other
            raise ModelError(
                f"{path} holds a tokenizer that transformers cannot load: {first_line(error)}\n"
                "Save it again next to the weights with tokenizer.save_pretrained()."
            ) from error
    return tokenizer


def takes(model: PreTrainedModel, name: str) -> bool:
    """Return whether a model's forward has a parameter of this name."""
    return name in inspect.signature(model.forward).parameters


def cache_argument(model: PreTrainedModel) -> str | None:
    """Return the name of forward's KV cache argument: transformers 5.24 renamed it and warns about the old name."""
    return next((name for name in ("cache", "past_key_values") if takes(model, name)), None)
