"""Build models through transformers' own classes without weights, and hold a checkpoint's files against them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import RESIZED_MODEL_TYPE, Architecture, find_architecture, first_class
from amp_export.checkpoints.quiet import import_quietly, quiet_transformers
from amp_export.checkpoints.weight_files import NEVER_READ, has_safetensors, read_headers
from amp_export.errors import AmpExportError, ModelError, is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OFFLINE: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Set explicitly: otherwise, transformers may ask on the terminal whether to run a checkpoint's code."""

_SHOWN = 3
"""Tensors that a message names."""


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


@contextlib.contextmanager
def transformers_errors(what: str | Path) -> Iterator[None]:
    """Turn any error of transformers while it builds or loads a model into one that names the model.

    Args:
        what: The checkpoint, or a description of the model.

    Raises:
        ModelError: transformers refuses the model.
        AmpExportError: An error of this package passes unchanged.
        MemoryError: A lack of memory passes unchanged, of whatever class it is.
    """
    from amp_export.checkpoints.modeling_amp import ConfigError

    try:
        yield
    except AmpExportError:
        raise
    except ConfigError as error:
        raise ModelError(f"{what}: {error}\nUse the checkpoint as it was written.") from error
    except Exception as error:  # its configs and models raise exceptions of any class
        if is_out_of_memory(error):
            raise
        import transformers

        said = " ".join(str(error).split())
        raise ModelError(
            f"{what}: transformers {transformers.__version__} cannot load it: {type(error).__name__}: {said}\n"
            "Correct config.json, or use a checkpoint that this version of transformers loads."
        ) from error


def read_model_config(path: Path) -> Any:
    """Return transformers' config of a checkpoint; call it within `transformers_errors`."""
    import transformers

    register_resized()
    return transformers.AutoConfig.from_pretrained(path, **OFFLINE)


def read_dense_config(path: Path) -> Any:
    """Return transformers' config of a checkpoint, and the dense model's of a resized one, as `read_model_config`."""
    from amp_export.checkpoints.modeling_amp import AmpResizedConfig, dense_config

    config = read_model_config(path)
    return dense_config(config) if isinstance(config, AmpResizedConfig) else config


def build_checkpoint(path: Path) -> PreTrainedModel:
    """Return the model of a checkpoint on the meta device, in the class that its config names; no weights are read.

    Raises:
        ModelError: transformers does not have the class, or refuses the config.
    """
    with quiet_transformers(), transformers_errors(path):
        model: PreTrainedModel = _build(path, read_model_config(path))
    return model


def check_config(raw_config: Mapping[str, Any], what: str | Path) -> None:
    """Check that transformers takes the content of a config.json; no model is built.

    Raises:
        ModelError: It refuses the config.
    """
    with quiet_transformers(), transformers_errors(what):
        _config_of(raw_config)


def _config_of(raw_config: Mapping[str, Any]) -> Any:
    import transformers

    register_resized()
    fields = {
        name: decode_floats(value) for name, value in raw_config.items() if name not in ("model_type", "auto_map")
    }
    return transformers.AutoConfig.for_model(raw_config["model_type"], **fields)


def decode_floats(value: Any) -> Any:
    """Return a value of config.json with the floats that JSON lacks, which transformers writes as tables.

    Source: `_encode_special_floats`, configuration_utils.py, transformers 5.24.
    """
    if isinstance(value, Mapping):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {name: decode_floats(each) for name, each in value.items()}
    return [decode_floats(each) for each in value] if isinstance(value, list) else value


def build_from_config(raw_config: Mapping[str, Any], what: str | Path) -> PreTrainedModel:
    """Return the model of a config.json's content on the meta device.

    Args:
        raw_config: The content.
        what: The checkpoint, or a description of the model.

    Raises:
        ModelError: transformers does not have the class, or refuses the config.
    """
    with quiet_transformers(), transformers_errors(what):
        model: PreTrainedModel = _build(what, _config_of(raw_config))
    return model


def _build(what: str | Path, config: Any) -> Any:
    import torch

    from amp_export.checkpoints.modeling_amp import AmpResizedConfig, dense_config, resized_class

    model_class = find_model_class(what, config, class_name(config))
    with torch.device("meta"):
        if isinstance(config, AmpResizedConfig):
            dense = dense_config(config)
            return resized_class(config, dense)(dense)
        return model_class(config)


def class_name(config: Any) -> str:
    """Return the first class that a config of transformers names, or the architecture's default."""
    model_type = config.model_type if config.model_type != RESIZED_MODEL_TYPE else (config.dense or {})["model_type"]
    return first_class(config.architectures, find_architecture(model_type))


def find_model_class(what: str | Path, config: Any, name: str) -> Any:
    """Return a model class of transformers; the Auto class of the loader for a resized checkpoint.

    Raises:
        ModelError: transformers has no such model class.
    """
    import transformers

    from amp_export.checkpoints import modeling_amp

    if isinstance(config, modeling_amp.AmpResizedConfig):
        if not name.startswith("AmpResized") or not hasattr(modeling_amp, name):
            raise ModelError(f"{what}: config.json names the class {name}, which cannot load resized layers.")
        return getattr(transformers, name.replace("AmpResized", "AutoModel"))
    model_class = getattr(transformers, name, None)
    if not isinstance(model_class, type) or not issubclass(model_class, transformers.PreTrainedModel):
        own = find_architecture(config.model_type).class_name
        raise ModelError(
            f"{what}: config.json names the class {name}, which transformers {transformers.__version__} does not "
            f"have as a model; code in checkpoints is never run.\nIf it computes the same as {own}, set "
            "`architectures` to that."
        )
    return model_class


@dataclass(frozen=True)
class LoadingReport:
    """What transformers reports when it loads weights into a model.

    Attributes:
        missing: Tensors of the model that the files do not hold, tied ones left out.
        unexpected: Tensors in the files that the model does not have.
        mismatched: Shapes in the files and of the model, by tensor.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def of(cls, model: Any, missing: Collection[str], unexpected: Collection[str], mismatched: Any) -> LoadingReport:
        """Return what is left after tied weights that are found under their other name, and what is never read."""
        tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
        # whichever of several tied weights the files hold, transformers ties the others to it
        found = {tied.get(name, name) for name in (*tied, *tied.values()) if name not in missing}
        return cls(
            missing=frozenset(name for name in missing if tied.get(name, name) not in found),
            unexpected=frozenset(name for name in unexpected if not name.endswith(NEVER_READ)),
            mismatched={name: (tuple(found), tuple(needed)) for name, found, needed in mismatched},
        )


def check_headers(path: Path, model: PreTrainedModel, architecture: Architecture) -> None:
    """Check the headers of a checkpoint's weight files against its model on the meta device.

    transformers itself loads tensors without data, so that its renamings, conversions and exceptions apply.

    Args:
        path: The checkpoint directory.
        model: The model: see `build_checkpoint`. Its parameters are replaced by those of the files.
        architecture: The facts about its family.

    Raises:
        ModelError: Weights are missing or unknown, or have other shapes.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    held = {
        # weights of other dtypes are refused when a checkpoint is opened: the rest are masks that old versions stored
        name: torch.empty(info.shape, dtype=getattr(torch, info.dtype, torch.uint8), device="meta")
        for name, info in read_headers(path).items()
    }
    with quiet_transformers(), transformers_errors(path):
        mapping: list[Any] = get_model_conversion_mapping(model, None, None)
        options = LoadStateDictConfig(device_map={"": "meta"}, weight_mapping=mapping)
        info, _ = convert_and_load_state_dict_in_model(model, held, options, None)
        model._adjust_missing_and_unexpected_keys(info)
    report = LoadingReport.of(model, info.missing_keys, info.unexpected_keys, info.mismatched_keys)
    check_loading(path, type(model).__name__, report, architecture)


def check_loading(path: Path, name: str, report: LoadingReport, architecture: Architecture) -> None:
    """Raise an error for what transformers reports about the weights, unless it is known to be harmless.

    Args:
        path: The checkpoint directory.
        name: The class of the model.
        report: What transformers reports.
        architecture: The facts about its family.

    Raises:
        ModelError: Weights are missing or unknown, or have other shapes.
    """
    if report.missing:
        raise ModelError(
            f"{path}: {_count(report.missing)} that a {name} needs are missing: {_first(report.missing)}.\n"
            "transformers would initialize them randomly; use a complete checkpoint, or name the class in "
            "`architectures` that the weights are of."
        )
    if report.mismatched:
        tensor, (found, needed) = min(report.mismatched.items())
        raise ModelError(
            f"{path}: {_count(report.mismatched)} have other shapes than a {name} with this config, {tensor} first: "
            f"{list(found)}, but {list(needed)} is required.\nThe config and the weights are of different models."
        )
    if unknown := [each for each in report.unexpected if not is_harmless(each, architecture)]:
        raise ModelError(
            f"{path}: {_count(unknown)} do not belong to a {name} with this config: {_first(unknown)}.\n"
            "Without them, it computes something else than what was trained: name the class that has them in "
            "`architectures`; if it is an adapter, merge it first."
        )


def is_harmless(name: str, architecture: Architecture) -> bool:
    """Return whether a model of the family computes the same without a tensor; whole parts of the name decide."""
    parts = f".{name}."
    obsolete = any(parts.endswith(f".{suffix.strip('.')}.") for suffix in (*architecture.obsolete, *NEVER_READ))
    return obsolete or any(f".{part}." in parts for part in architecture.harmless)


def _count(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _first(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ..."


def rehearse_loading(path: Path) -> None:
    """Build a checkpoint's model without weights, and hold the headers of its files against it, if it has any.

    Raises:
        ModelError: transformers refuses the config, or the weights are not those of the model.
    """
    model = build_checkpoint(path)
    if has_safetensors(path):
        check_headers(path, model, find_architecture(model.config.model_type))
