"""Loading models and tokenizers through transformers, without its noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from amp_export.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
"""What a tokenizer's vocabulary is stored in, by transformers and by those it reads."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps warnings and progress bars of transformers off the terminal, and puts its settings back."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def register() -> None:
    """Teaches transformers' Auto classes to load checkpoints of resized modules without `trust_remote_code`."""
    import transformers

    from amp_export import modeling_amp

    transformers.AutoConfig.register(modeling_amp.MODEL_TYPE, modeling_amp.AmpResizedConfig, exist_ok=True)
    for name, loader in vars(modeling_amp).items():
        auto_class = getattr(transformers, name.replace("AmpResized", "AutoModel"), None)
        if name.startswith("AmpResized") and auto_class is not None:
            auto_class.register(modeling_amp.AmpResizedConfig, loader, exist_ok=True)


def load_model(path: Path, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Loads a model for inference, in the class that its config names; no code of the checkpoint's is run.

    Args:
        path: A checkpoint directory.
        dtype: By default the checkpoint's own.
    """
    import transformers

    from amp_export.architectures import find_architecture
    from amp_export.modeling_amp import AmpResizedConfig

    register()
    with quiet_transformers():
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        (name, *_) = config.architectures or [find_architecture(config.model_type).class_name]
        auto_name = name.replace("AmpResized", "AutoModel") if isinstance(config, AmpResizedConfig) else name
        model: PreTrainedModel = getattr(transformers, auto_name).from_pretrained(
            path, dtype=dtype if dtype is not None else "auto", local_files_only=True
        )
    model.eval()
    return model


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer.

    Raises:
        ModelError: The checkpoint has none, or a damaged one.
    """
    from transformers import AutoTokenizer

    # without any file, transformers makes up an empty tokenizer for some families
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}.\n"
            "Calibration needs one; save it beside the weights with tokenizer.save_pretrained()."
        )
    with quiet_transformers():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path} holds a tokenizer that transformers cannot load: {error}\n"
                "Save it anew beside the weights with tokenizer.save_pretrained()."
            ) from error
    return tokenizer
