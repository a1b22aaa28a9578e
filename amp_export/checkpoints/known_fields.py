"""Config fields that this version does not know: what they change would be lost, and nobody would see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from amp_export.architectures import RESIZED_MODEL_TYPE, Architecture
from amp_export.architectures._facts import MAY_BE_IGNORED
from amp_export.errors import UnsupportedModelError


def check_known_fields(raw_config: Mapping[str, Any], architecture: Architecture) -> None:
    """Refuses a config that sets a field which transformers obeys and the facts of the family do not name.

    Fields that transformers' config class does not declare are harmless, and files are full of them. So are fields that
    say what the class assumes anyway.

    Args:
        raw_config: The content of config.json.
        architecture: The facts of its family.

    Raises:
        UnsupportedModelError: It names the fields and their values.
    """
    from transformers import CONFIG_MAPPING, __version__

    from amp_export.checkpoints.loading import quiet_transformers

    described = raw_config["dense"] if raw_config.get("model_type") == RESIZED_MODEL_TYPE else raw_config
    known = {*architecture.defaults, *architecture.ignored, *MAY_BE_IGNORED, *architecture.names.values()}
    config_class = CONFIG_MAPPING[architecture.model_type]
    with quiet_transformers():  # the defaults of some families make it warn
        default = config_class()
    declared = {field.name for field in dataclasses.fields(config_class)} | default.to_dict().keys()
    unknown = {
        name: value
        for name, value in described.items()
        if name in declared - known and not _same(value, getattr(default, name, None))
    }
    if unknown:
        fields = ", ".join(f"{name} = {value!r}" for name, value in sorted(unknown.items()))
        raise UnsupportedModelError(
            f"config.json sets fields of {config_class.__name__} (transformers {__version__}) of which this version of "
            f"amp-export does not know what they change: {fields}.\n"
            "Update amp-export; or remove the fields from a copy of the checkpoint, if the model is the same without."
        )


def _same(value: Any, default: Any) -> bool:
    """Whether two values say the same; JSON has lists where Python may have tuples."""
    if isinstance(value, list) and isinstance(default, tuple):
        return value == list(default)
    return bool(value == default)
