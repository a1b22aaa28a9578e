"""A checkpoint whose layers have different widths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.outputs.manifest import RewriteKind
from amp_export.pruning.plan import LayerPlan, Plan
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.saving import save_pruned
from amp_export.pruning.slicing import prune_module
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

TOKENS = torch.tensor([[5, 9, 2, 6, 5, 3, 5, 8], [9, 7, 9, 3, 2, 3, 8, 4]])


def save_lopsided(
    folder: Path, model_type: str, *, pad: bool = False, fewest_neurons: int = 8, **fields: Any
) -> PreTrainedModel:
    """Write `folder/dense`, with these fields of the config, and `folder/pruned`; return the pruned model in memory."""
    checkpoint = open_checkpoint(save_tiny_model(folder / "dense", model_type, **fields))
    save_tiny_tokenizer(folder / "dense")
    plan = lopsided_plan(checkpoint.config, fewest_neurons=fewest_neurons)
    rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths, pad=pad)
    assert rewritten.kind is (RewriteKind.PADDED if pad else RewriteKind.RESIZED_CLASS)
    model = prune_module(load_model(folder / "dense"), checkpoint.config, plan, widths=rewritten.widths)
    save_pruned(folder / "pruned", model, rewritten, companions=open_checkpoint(folder / "dense").companions())
    return model


def lopsided_plan(config: ModelConfig, *, fewest_neurons: int = 8) -> Plan:
    """Return a plan for a tiny model whose layers differ: all heads, one group, or one head of each group.

    Where heads must stay, or be the same in all layers, only neurons differ.
    """
    everything, query_group = tuple(range(4)), config.widths.query_group
    groups = tuple(range(4 // query_group))
    heads = ((everything, groups), (everything[-query_group:], groups[-1:]), (everything[::query_group], groups))
    neurons = (tuple(range(fewest_neurons)), tuple(range(48)), tuple(range(0, 48, 3)))
    layers = []
    for number, site in enumerate(config.sites):
        keeps_all = site.stack.heads_tied or config.architecture.heads_stay is not None
        query_heads, key_value_heads = heads[0 if keeps_all else number % 3]
        layers.append(LayerPlan(query_heads, key_value_heads, neurons[number % 3]))
        if site.stack.attention is None:
            layers[-1] = replace(layers[-1], query_heads=(), key_value_heads=())
        if site.stack.mlp is None:
            layers[-1] = replace(layers[-1], neurons=())
        elif site.stack.mlp.has_experts:
            layers[-1] = replace(
                layers[-1], neurons=(), experts=(neurons[number % 3],) * config.experts(site.stack.mlp)
            )
    return Plan(layers=tuple(layers), asked=None, achieved=0.0)
