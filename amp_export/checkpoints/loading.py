"""Load models and tokenizers through transformers, without its log messages and progress bars."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.quiet import import_quietly, quiet_transformers
from amp_export.checkpoints.source_files import reading
from amp_export.checkpoints.tying import count_untied
from amp_export.checkpoints.weight_files import weight_files
from amp_export.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
"""Files that can hold a tokenizer's vocabulary."""


_OPTIONS: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Set explicitly: otherwise, transformers may ask on the terminal whether to run a checkpoint's code."""


def register_resized() -> None:
    """Register the classes of resized checkpoints with transformers, so that it loads them without remote code."""
    import_quietly()
    import transformers

    from amp_export.checkpoints import modeling_amp

    transformers.AutoConfig.register(modeling_amp.MODEL_TYPE, modeling_amp.AmpResizedConfig, exist_ok=True)
    for name, loader in vars(modeling_amp).items():
        auto_class = getattr(transformers, name.replace("AmpResized", "AutoModel"), None)
        if name.startswith("AmpResized") and auto_class is not None:
            auto_class.register(modeling_amp.AmpResizedConfig, loader, exist_ok=True)


def count_parameters(config: ModelConfig, raw_config: Mapping[str, Any], path: Path) -> int:
    """Return the number of parameters of a model; tied ones are counted once.

    Args:
        config: Its config.
        raw_config: Content of its config.json.
        path: Its directory, whose files decide which weights are tied.

    Raises:
        ModelError: transformers cannot build a model from this config.
    """
    import torch
    import transformers

    from amp_export.checkpoints import modeling_amp

    fields = {name: value for name, value in raw_config.items() if name != "model_type"}
    with quiet_transformers(), torch.device("meta"):
        try:
            full = transformers.AutoConfig.for_model(config.architecture.model_type, **fields)
            model = modeling_amp.model_class(config.class_name, full)(full)
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"transformers cannot build a {config.class_name} from this config: {error}") from error
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    distinct: int = sum(parameter.numel() for parameter in model.parameters())
    return distinct + count_untied(path, model.all_tied_weights_keys, shapes)


def load_model(path: Path, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a model for inference, in the class that its config names; code in the checkpoint is never run.

    Args:
        path: A checkpoint directory.
        dtype: The dtype to load it in; by default, the checkpoint's.

    Raises:
        ModelError: Weights are missing, or transformers does not have the class.
    """
    import torch
    import transformers

    register_resized()
    for file in weight_files(path):
        with reading(file):
            pass  # only to open it: transformers would raise an error of the system, as if the output were meant
    with quiet_transformers(), _damage_named(path):
        config = transformers.AutoConfig.from_pretrained(path, **_OPTIONS)
        name = _class_name(config)
        model, found = _model_class(path, config, name).from_pretrained(
            path, dtype=dtype if dtype is not None else "auto", output_loading_info=True, **_OPTIONS
        )
        if dtype is torch.float64:
            model.set_experts_implementation("eager")  # the fast one does not support float64
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{path}: {len(missing)} tensors that a {name} needs are missing, {missing[0]} first.\n"
            "transformers would initialize them randomly; use a complete checkpoint."
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def module_names(path: Path) -> list[str]:
    """Return the names of all modules of a checkpoint's model, as in `named_modules`; no weights are read.

    Args:
        path: A checkpoint directory.
    """
    import torch
    import transformers

    from amp_export.checkpoints.modeling_amp import AmpResizedConfig, dense_config, model_class

    register_resized()
    with quiet_transformers(), torch.device("meta"), _damage_named(path):
        config = transformers.AutoConfig.from_pretrained(path, **_OPTIONS)
        if isinstance(config, AmpResizedConfig):
            # resizing changes the modules' shapes, not their names
            dense = dense_config(config)
            model = model_class(config.dense_class, dense)(dense)
        else:
            model = _model_class(path, config, _class_name(config))(config)
    return [name for name, _ in model.named_modules() if name]


def _class_name(config: Any) -> str:
    """Return the first class that a config names, or the architecture's default."""
    from amp_export.architectures import RESIZED_MODEL_TYPE, find_architecture, first_class

    model_type = config.model_type if config.model_type != RESIZED_MODEL_TYPE else (config.dense or {})["model_type"]
    return first_class(config.architectures, find_architecture(model_type))


def _model_class(path: Path, config: Any, name: str) -> Any:
    """Return a model class of transformers; the Auto class of the loader for a resized checkpoint."""
    import transformers

    from amp_export.architectures import find_architecture
    from amp_export.checkpoints import modeling_amp

    if isinstance(config, modeling_amp.AmpResizedConfig):
        if not name.startswith("AmpResized") or not hasattr(modeling_amp, name):
            raise ModelError(f"{path}: config.json names the class {name}, which cannot load resized layers.")
        return getattr(transformers, name.replace("AmpResized", "AutoModel"))
    model_class = getattr(transformers, name, None)
    if not isinstance(model_class, type) or not issubclass(model_class, transformers.PreTrainedModel):
        own = find_architecture(config.model_type).class_name
        raise ModelError(
            f"{path}: config.json names the class {name}, which transformers {transformers.__version__} does not "
            f"have as a model; code in checkpoints is never run.\nIf it computes the same as {own}, set "
            "`architectures` to that."
        )
    return model_class


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn the error of a resized checkpoint's config into one that names the checkpoint."""
    from amp_export.checkpoints.modeling_amp import ConfigError

    try:
        yield
    except ConfigError as error:
        raise ModelError(f"{path}: {error}\nUse the checkpoint as it was written.") from error


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        ModelError: The checkpoint has no tokenizer, or transformers cannot load it.
    """
    from transformers import AutoTokenizer

    # without any of the files, transformers creates an empty tokenizer for some families
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}.\n"
            "Calibration needs one; save it next to the weights with tokenizer.save_pretrained()."
        )
    with quiet_transformers():
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path} holds a tokenizer that transformers cannot load: {error}\n"
                "Save it again next to the weights with tokenizer.save_pretrained()."
            ) from error
    return tokenizer


def takes(model: PreTrainedModel, name: str) -> bool:
    """Return whether a model's forward has a parameter of this name."""
    return name in inspect.signature(model.forward).parameters


def cache_argument(model: PreTrainedModel) -> str | None:
    """Return the name of forward's KV cache argument: transformers 5.24 renamed it and warns about the old name."""
    return next((name for name in ("cache", "past_key_values") if takes(model, name)), None)
