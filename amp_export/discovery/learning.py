"""Find out the facts of a checkpoint's type where they are not known, and keep them in the user's cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import RESIZED_MODEL_TYPE, Architecture, describes, find_architecture
from amp_export.architectures._external import cached_facts
from amp_export.checkpoints.reading import code_beside, read_raw_config
from amp_export.checkpoints.unsupported import refuse_adapter
from amp_export.errors import UnsupportedModelError
from amp_export.outputs.names import FACTS

if TYPE_CHECKING:
    from amp_export.discovery.finding import Discovery
    from amp_export.progress import Progress


def learn(path: Path, progress: Progress) -> None:
    """Find out the facts of a checkpoint's type if nothing describes it, and say so.

    Args:
        path: A checkpoint directory; if it has no config.json, nothing is done.
        progress: Where to show progress.

    Raises:
        ModelError: config.json is damaged.
        UnsupportedModelError: The facts could not be found out, or it is an adapter.
    """
    if not (path / "config.json").is_file():
        return
    refuse_adapter(path)
    raw_config = read_raw_config(path / "config.json")
    model_type = raw_config["model_type"]
    if model_type == RESIZED_MODEL_TYPE or is_known(model_type) or not transformers_has(model_type):
        return
    found = find_out(raw_config, progress)
    file = keep(found.architecture)
    stay = f"; its heads stay: {found.architecture.heads_stay}" if found.architecture.heads_stay is not None else ""
    progress.note(
        f"No facts describe models of type {model_type}: they were found out on tiny random copies, and proved "
        f"({len(found.cases)} cases){stay}. They are kept in {file}."
    )


def is_known(model_type: str) -> bool:
    """Return whether facts describe a type."""
    try:
        find_architecture(model_type)
    except UnsupportedModelError:
        return False
    return True


def transformers_has(model_type: str) -> bool:
    """Return whether transformers has a class for a type; code in checkpoints is never run."""
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def find_out(raw_config: Mapping[str, Any], progress: Progress) -> Discovery:
    """Find out the facts of a type.

    Args:
        raw_config: The content of a config.json of that type.
        progress: Where to show progress.

    Raises:
        UnsupportedModelError: transformers does not have the type, or its facts could not be found out.
    """
    from amp_export.discovery.finding import discover

    model_type = raw_config["model_type"]
    if not transformers_has(model_type):
        code = f" ({', '.join(code_beside(raw_config))}: auto_map in config.json)" if code_beside(raw_config) else ""
        raise UnsupportedModelError(
            f"transformers has no models of type {model_type!r}, and code in checkpoints{code} is never run.\n"
            "Use a checkpoint of a model class in transformers."
        )
    with progress.step(f"Finding out the facts of {model_type}"):
        return discover(model_type, _class_name(raw_config), raw_config)


def record(architecture: Architecture, folder: Path) -> None:
    """Write facts that are not this package's own into an output directory, for other machines."""
    if not describes(architecture.model_type):
        keep(architecture, folder / FACTS)


def keep(architecture: Architecture, file: Path | None = None) -> Path:
    """Write facts to a file, by default in the user's cache, and return it."""
    from amp_export.discovery.writing import to_source

    file = file or cached_facts(architecture.model_type)
    file.parent.mkdir(parents=True, exist_ok=True)
    about = f"Facts about {architecture.model_type}, found out on tiny random copies of {architecture.class_name}."
    partial = file.with_suffix(".partial")
    partial.write_text(to_source(architecture, about=about), encoding="utf-8")
    partial.replace(file)
    return file


def _class_name(raw_config: Mapping[str, Any]) -> str:
    """Return the class that a config names, or transformers' for language models of its type, or without a head."""
    from transformers.models.auto import modeling_auto

    if names := raw_config.get("architectures"):
        return str(names[0])
    mappings = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_MAPPING_NAMES,
    )
    model_type = raw_config["model_type"]
    found = next((mapping[model_type] for mapping in mappings if model_type in mapping), None)
    if found is None:
        raise UnsupportedModelError(f"transformers has no model class for type {model_type!r}.")
    return found if isinstance(found, str) else found[0]
