"""The config of a checkpoint in the form of Nemotron-NAS, for runtimes that load it with `trust_remote_code`.

Every such checkpoint contains a copy of this file, which needs transformers alone. The class says nothing of how the
model computes: vLLM and TensorRT-LLM have a class of their own for it.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class Fields(dict):  # type: ignore[type-arg]
    """Fields that are read as attributes, and written to config.json as they are."""

    def __getattr__(self, name: str) -> Any:
        """Return a field, with the fields below it."""
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(name) from None
        return Fields(value) if isinstance(value, dict) else value


class NemotronNasConfig(PreTrainedConfig):
    """The content of config.json.

    Attributes:
        block_configs: What each layer has: `attention` with the number of query heads for each key/value head, and
            `ffn` with its neurons as a multiple of the hidden size.
    """

    model_type = "nemotron-nas"
    block_configs: list[dict[str, Any]] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; those of layers can be read as attributes."""
        value = [Fields(each) for each in value or ()] if name == "block_configs" else value
        super().__setattr__(name, value)  # type: ignore[no-untyped-call]
