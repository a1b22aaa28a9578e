"""Write a pruned checkpoint in the form of Nemotron-NAS, which vLLM and TensorRT-LLM load with layers that differ.

Its config says how many query heads share a key/value head in each layer, and how many neurons a layer has, as a
multiple of the hidden size that is rounded up to whole 256. All layers have the same number of query heads. Weights
have the names that Llama's have. Source: vllm/model_executor/models/nemotron_nas.py, 0.33, and
tensorrt_llm/_torch/models/modeling_nemotron_nas.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from amp_export import checkpoints
from amp_export.architectures import LayerWidths, ModelConfig
from amp_export.checkpoints.older_versions import write_config
from amp_export.documents import read_object
from amp_export.errors import ModelError, PlanError, UnsupportedModelError
from amp_export.options import PerLayer, Uniform
from amp_export.outputs.staging import link_files
from amp_export.pruning.rewriting import MODELING_FILE
from amp_export.verb_options import PlanChoices

AnyChoices = TypeVar("AnyChoices", bound=PlanChoices)

MULTIPLE = 256
"""Neurons of a layer are a multiple of this: `_find_multiple` in both sources."""

REQUIRED: Mapping[str, Mapping[str, Any]] = {
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    "mistral": {"hidden_act": "silu", "sliding_window": None},
}
"""Families that compute what a Nemotron-NAS computes, with the values that their config fields must have."""

_CONFIG_FILE = "configuration_nemotron_nas"

_LEFT_OUT = ("sliding_window", "layer_types", "attention_bias", "mlp_bias", "auto_map")
"""Fields of the dense config that have their only possible value, or name code."""


def fit_choices(choices: AnyChoices, uniform: Uniform) -> AnyChoices:
    """Return choices whose plan can be said: the same heads in all layers, and a multiple of 256 neurons in each.

    Args:
        choices: The choices.
        uniform: How layers of different widths are stored.

    Raises:
        PlanError: The choices contradict that.
    """
    if uniform is not Uniform.NEMOTRON_NAS:
        return choices
    if choices.heads_per_layer is PerLayer.GLOBAL:
        raise PlanError(
            f"--uniform {uniform} has the same number of query heads in all layers, and --heads-per-layer global lets "
            "them differ.\nLeave one of them out."
        )
    if choices.snap is not None and choices.snap % MULTIPLE:
        raise PlanError(
            f"--uniform {uniform} has a multiple of {MULTIPLE} neurons in each layer, and --snap is {choices.snap}.\n"
            f"Leave --snap out, or give a multiple of {MULTIPLE}."
        )
    return replace(choices, heads_per_layer=PerLayer.UNIFORM, snap=choices.snap or MULTIPLE)


def refuse(config: ModelConfig) -> str | None:
    """Return why a model is not written in this form; None if it is."""
    family = config.architecture.model_type
    if (required := REQUIRED.get(family)) is None:
        return f"Nemotron-NAS computes what {' and '.join(REQUIRED)} compute, and not what {family} does"
    for name, value in required.items():
        if (found := config.fields.get(name)) != value:
            return f"Nemotron-NAS has {name} {value!r}, and config.json says {found!r}"
    return None


def check(config: ModelConfig, uniform: Uniform, widths: Sequence[LayerWidths] | None = None) -> None:
    """Refuse a model, or the plan that is given for it, that cannot be written in this form.

    Args:
        config: The dense model's config.
        uniform: How layers of different widths are stored.
        widths: Widths of each layer, if a plan is given.

    Raises:
        PlanError: The plan cannot be said.
        UnsupportedModelError: The model computes something else.
    """
    if uniform is not Uniform.NEMOTRON_NAS:
        return
    if reason := refuse(config):
        raise UnsupportedModelError(f"{reason}.\nLeave --uniform {uniform} out, or prune with --one-width for vLLM.")
    heads = sorted({layer.query_heads for layer in widths or ()})
    if len(heads) > 1:
        raise PlanError(
            f"--uniform {uniform} has the same number of query heads in all layers, and the plan keeps "
            f"{' or '.join(map(str, heads))}.\nLeave it out, or make a plan with --heads-per-layer uniform."
        )
    if odd := [layer.neurons for layer in widths or () if layer.neurons % MULTIPLE]:
        raise PlanError(
            f"--uniform {uniform} has a multiple of {MULTIPLE} neurons in each layer, and the plan keeps {odd[0]}.\n"
            f"Leave it out, or make a plan with --snap {MULTIPLE}."
        )


def write(folder: Path, pruned: Path, raw_config: Mapping[str, Any], widths: Sequence[LayerWidths]) -> None:
    """Write a pruned checkpoint in this form; its weights are the same files, under another name.

    Args:
        folder: The directory to create.
        pruned: The pruned checkpoint, whose config names resized layers or one width.
        raw_config: Content of the dense model's config.json.
        widths: Widths of each layer, which `check` accepts.

    Raises:
        ModelError: The pruned checkpoint is damaged.
    """
    dtype = read_object(pruned / "config.json", error=ModelError).get("dtype")
    _link(folder, pruned)
    write_config(folder, {**_say(raw_config, widths), "dtype": dtype})
    file = Path(checkpoints.__file__).with_name(f"{_CONFIG_FILE}.py")
    shutil.copyfile(file, folder / file.name)


def renew(folder: Path, earlier: Path, pruned: Path) -> None:
    """Write a pruned checkpoint in this form again, with other weights.

    Args:
        folder: The directory to create.
        earlier: The checkpoint in this form with the earlier weights.
        pruned: The pruned checkpoint with the new ones.
    """
    _link(folder, pruned)
    for name in ("config.json", f"{_CONFIG_FILE}.py"):
        shutil.copyfile(earlier / name, folder / name)


def _link(folder: Path, pruned: Path) -> None:
    """Link the files of a pruned checkpoint into a folder, without its config and code."""
    link_files(pruned, folder)
    for name in ("config.json", f"{MODELING_FILE}.py"):
        # it is a link, and must not be written through
        (folder / name).unlink(missing_ok=True)


def _say(raw_config: Mapping[str, Any], widths: Sequence[LayerWidths]) -> dict[str, Any]:
    """Return the content of config.json."""
    first, hidden_size = widths[0], raw_config["hidden_size"]
    head_dim = raw_config.get("head_dim") or hidden_size // raw_config["num_attention_heads"]
    return {
        **{name: value for name, value in raw_config.items() if name not in _LEFT_OUT},
        "model_type": "nemotron-nas",
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": f"{_CONFIG_FILE}.NemotronNasConfig"},
        "num_attention_heads": first.query_heads,
        "head_dim": head_dim,
        # said for each layer
        "num_key_value_heads": None,
        "intermediate_size": None,
        "block_configs": [
            {
                "attention": {"n_heads_in_group": layer.query_group, "no_op": False, "replace_with_linear": False},
                "ffn": {
                    # two thirds of this times the hidden size are rounded up to whole 256
                    "ffn_mult": round(layer.neurons * 3 / (2 * hidden_size), 6),
                    "no_op": False,
                    "replace_with_linear": False,
                },
            }
            for layer in widths
        ],
    }
