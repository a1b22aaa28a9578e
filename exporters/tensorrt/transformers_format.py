"""Engines as a backend of `transformers.exporters`, which `ExportedModel.from_pretrained` opens.

`integrations.transformers_backend` registers the backend, because transformers has no entry point to discover it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache
from transformers.exporters.base import EXPORT_MANIFEST_FILE, EXPORT_SCHEMA_VERSION
from transformers.exporters.exporter_dynamo import register_pytree_node
from transformers.exporters.metadata import ExportMetadata, record_output_structure
from transformers.exporters.runners.base import ModelRunner
from transformers.modeling_outputs import CausalLMOutputWithPast

from amp_export.exporters.models.decoder import Past
from amp_export.exporters.tensorrt.engines import ENGINE, EngineFacts
from amp_export.exporters.tensorrt.running import TensorrtDecoder, run

FORMAT = "tensorrt"

CACHE_NAMES = ("cache", "past_key_values")
"""Names of a model's KV cache: transformers 5.24 renamed the second to the first."""


@dataclass(frozen=True)
class EngineProgram:
    """The folder of an engine."""

    folder: Path


class TensorrtRunner(ModelRunner):
    """Runs an engine with the interface of the original model, on tensors that stay on the GPU."""

    def __init__(self, metadata: ExportMetadata, decoder: TensorrtDecoder) -> None:
        super().__init__(metadata)
        self._decoder = decoder

    @property
    def device(self) -> torch.device:
        """Device that the engine runs on."""
        return self._decoder.device

    @classmethod
    def from_program(cls, program: EngineProgram, metadata: ExportMetadata, device: Any = None) -> TensorrtRunner:
        """Load an engine onto the GPU.

        Raises:
            ValueError: The device is not a GPU.
            AmpExportError: See `running.run`.
        """
        if device is not None and torch.device(device).type != "cuda":
            raise ValueError(f"An engine runs on a GPU, not on {device}.")
        return cls(metadata, run(program.folder))

    def __call__(self, share_inputs: bool = True, share_outputs: bool = False, **kwargs: Any) -> CausalLMOutputWithPast:
        """Compute logits, and the KV cache for the next call.

        Args:
            share_inputs: Ignored; the KV cache is read in place.
            share_outputs: Ignored; outputs are allocated for each call.
            **kwargs: `input_ids`, and optionally `attention_mask`, `position_ids` and the KV cache.
        """
        del share_inputs, share_outputs
        cache = next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)
        length = cache.get_seq_length() if cache is not None else 0
        input_ids = kwargs["input_ids"]
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = input_ids.new_ones((input_ids.shape[0], length + input_ids.shape[1]))
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        past = Past(length, _by_name(cache)) if length else None
        logits, present = self._decoder.step(input_ids, mask, positions, past)
        return _output(logits, _as_cache(present, self._decoder.num_layers))


def describe_calls(facts: EngineFacts, class_name: str) -> ExportMetadata:
    """Return the metadata of an exported graph for transformers: its inputs and outputs."""
    layers = sum(name.endswith(".key") for name in facts.inputs)
    dtype = getattr(torch, facts.dtype.value)
    empty = {
        f"past_key_values.{layer}.{part}": torch.zeros(1, 1, 1, 1, dtype=dtype)
        for layer in range(layers)
        for part in ("key", "value")
    }
    register_pytree_node(DynamicCache)
    metadata = ExportMetadata(
        architecture=class_name,
        packages={facts.runtime.value: facts.version},
        export_dtype=facts.dtype.value,
        kwargs={
            **{name: {"dtype": facts.inputs[name].dtype, "rank": 2} for name in facts.inputs if "." not in name},
            **{name: {"container": "DynamicCache"} for name in CACHE_NAMES},
        },
    )
    output = _output(torch.zeros(1, dtype=dtype), _as_cache(Past(1, empty), layers))
    record_output_structure(metadata, output)
    return metadata


def write_manifest(folder: Path, facts: EngineFacts, class_name: str) -> None:
    """Write `export.json`, with which `ExportedModel.from_pretrained` opens an engine's folder."""
    component = {"file": ENGINE, "metadata": asdict(describe_calls(facts, class_name))}
    content = {"schema_version": EXPORT_SCHEMA_VERSION, "export_format": FORMAT, "components": {"model": component}}
    (folder / EXPORT_MANIFEST_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _output(logits: torch.Tensor, cache: DynamicCache) -> CausalLMOutputWithPast:
    fields: Any = CausalLMOutputWithPast.__dataclass_fields__
    named: dict[str, Any] = {next(name for name in CACHE_NAMES if name in fields): cache}
    return CausalLMOutputWithPast(logits=logits, **named)


def _by_name(cache: Any) -> dict[str, torch.Tensor]:
    return {
        f"past_key_values.{number}.{part}": tensor
        for number, layer in enumerate(cache.layers)
        for part, tensor in (("key", layer.keys), ("value", layer.values))
    }


def _as_cache(past: Past, num_layers: int) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(num_layers):
        keys, values = (past.values[f"past_key_values.{layer}.{part}"] for part in ("key", "value"))
        cache.update(keys, values, layer)
    return cache
