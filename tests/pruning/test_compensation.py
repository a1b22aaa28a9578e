"""Pruned layers that are fitted to the dense model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amp_export.architectures import Kind, Modality, ModelConfig, find_architecture, supported_model_types
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.inputs.batches import Batch, batches, text_batch
from amp_export.inputs.random import random_inputs
from amp_export.pruning.compensation import updating
from amp_export.pruning.compensation.chains import chains_of, encoder_states, record_chains
from amp_export.pruning.compensation.shortcuts import Shortcut, find_shortcut
from amp_export.pruning.compensation.streams import StreamBatch, record_calls, run_layer
from amp_export.pruning.compensation.updating import prune_and_compensate
from amp_export.pruning.plan import LayerPlan, Plan
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.slicing import prune_module
from tests.support.family_runner import measured_scores
from tests.support.forms import one_of_each_form
from tests.support.plans import make_plan
from tests.support.tiny_models import save_tiny_model

FAMILIES = [
    name
    for name in supported_model_types()
    if find_architecture(name).kind is not Kind.ENCODER_DECODER
    and find_architecture(name).layers_follow_when is not None
    and find_architecture(name).modality is Modality.TEXT
]
ENCODER_DECODERS = [
    name
    for name in supported_model_types()
    if find_architecture(name).kind is Kind.ENCODER_DECODER
    and not any(stack.heads_tied for stack in find_architecture(name).stacks)
]
OF_TEXT = [name for name in ENCODER_DECODERS if find_architecture(name).modality is Modality.TEXT]
OF_EACH_FORM = one_of_each_form([*FAMILIES, *OF_TEXT])
"""For what depends on how layers are run and updated: that a family's layers can be run alone is tried of all."""

SHORTENED = frozenset({"llama", "qwen3", "falcon", "gpt2", "gpt_neox"})
"""Families of which some parts need not run again."""

WITHOUT_EXPERTS = [name for name in (*FAMILIES, *OF_TEXT) if not find_architecture(name).mlp.has_experts]


def draw_batches(model: torch.nn.Module, config: ModelConfig, *, rows: int, seed: int = 0) -> list[Batch]:
    """Texts of several lengths, so that some tokens are padding."""
    drawn = np.random.default_rng(seed)
    token_ids = [drawn.integers(4, 101, size=drawn.integers(30, 41)).tolist() for _ in range(rows)]
    return [text_batch(model, config, *padded) for padded in batches(token_ids, 400)]


def keep_everything(config: ModelConfig) -> Plan:
    widths = config.widths
    mlp = config.architecture.mlp
    neurons = tuple(range(widths.neurons))
    experts = (neurons,) * config.experts(mlp)
    layer = LayerPlan(
        tuple(range(widths.query_heads)), tuple(range(widths.key_value_heads)), () if experts else neurons, experts
    )
    # what attends to an encoder has no MLP of its own
    layers = tuple(layer if site.stack.mlp is not None else replace(layer, neurons=()) for site in config.sites)
    return Plan(layers, asked=None, achieved=0.0)


def final_states(model: torch.nn.Module, config: ModelConfig, prepared: list[Batch]) -> torch.Tensor:
    """The hidden states of real tokens, [tokens, hidden]."""
    base_model = model.get_submodule(config.base_model)
    with torch.inference_mode():
        outputs = [(base_model(**batch.inputs), batch.read_mask.bool()) for batch in prepared]
    # the base of some encoder-decoders has an LM head
    return torch.cat([output.get("last_hidden_state", output.get("logits"))[mask] for output, mask in outputs])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_layer_at_a_time_computes_what_the_model_computes(model_type: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", model_type))
    config = open_checkpoint(tmp_path / "dense").config
    (batch,) = draw_batches(model, config, rows=4)
    seen: list[torch.Tensor] = []

    def keep(_: object, __: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    layers = [model.get_submodule(site.path) for site in config.sites]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    final_states(model, config, [batch])
    for handle in handles:
        handle.remove()
    (recorded,) = record_calls(model, config, [batch])
    hidden_bsh = recorded.hidden_bsh
    for layer, call, expected_bsh in zip(layers, recorded.calls, seen, strict=True):
        hidden_bsh = run_layer(layer, hidden_bsh, call)
        assert torch.equal(hidden_bsh, expected_bsh)
    # the model is as it was
    again = final_states(model, config, [batch])
    assert torch.equal(again, final_states(load_model(tmp_path / "dense"), config, [batch]))


@pytest.mark.parametrize("model_type", OF_EACH_FORM)
def test_nothing_is_updated_where_nothing_is_removed(model_type: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / "dense", model_type))
    config = open_checkpoint(tmp_path / "dense").config
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune_and_compensate(model, config, keep_everything(config), draw_batches(model, config, rows=20))
    for name, tensor in model.state_dict().items():
        # in float32 a fit reproduces the weight but for rounding
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model_type", ENCODER_DECODERS)
def test_a_decoder_reads_the_states_of_the_pruned_encoder(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    checkpoint, model = open_checkpoint(folder), load_model(folder)
    config = checkpoint.config
    inputs = random_inputs(config, samples=3, length=9)
    batch = Batch(inputs, 3)
    chains = chains_of(config)
    assert [chain.is_decoder for chain in chains] == [False, True]
    (recorded,) = record_chains(model, config, chains, [batch])
    with torch.inference_mode():
        expected = model(**inputs, use_cache=False, output_hidden_states=True)
    hidden_bsh = recorded.streams[0].hidden_bsh
    for layer, call in zip(chains[0].layers, recorded.streams[0].calls, strict=True):
        hidden_bsh = run_layer(model.get_submodule(layer.path), hidden_bsh, call)
    states_bsh = encoder_states(model, chains[0], recorded, hidden_bsh)
    assert torch.equal(states_bsh, expected.encoder_last_hidden_state)
    stream = recorded.with_states(recorded.streams[1], states_bsh)
    hidden_bsh = stream.hidden_bsh
    for layer, call in zip(chains[1].layers, stream.calls, strict=True):
        assert torch.equal(hidden_bsh, expected.decoder_hidden_states[chains[1].layers.index(layer)])
        hidden_bsh = run_layer(model.get_submodule(layer.path), hidden_bsh, call)


@pytest.mark.parametrize("model_type", ["moonshine", "whisper"])
def test_models_of_audio_come_nearer_too(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    checkpoint, dense = open_checkpoint(folder), load_model(folder)
    config = checkpoint.config
    plan = make_plan(checkpoint.raw_config, config, measured_scores(dense, config), PlanSettings(0.15, snap=1))
    seen, other = (random_inputs(config, samples=24, length=12, seed=seed) for seed in (0, 1))

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return model(**other).logits

    pruned, compensated = prune_module(copy.deepcopy(dense), config, plan), copy.deepcopy(dense)
    found = prune_and_compensate(compensated, config, plan, [Batch(seen, 24)])
    assert any(update.ridge is not None for update in found.updates)
    expected = logits(dense)
    near, far = ((logits(model) - expected).square().mean() for model in (compensated, pruned))
    assert near < 0.95 * far


@pytest.mark.parametrize("model_type", ["llama", "granite", "gpt_neox", "lfm2", "falcon_h1"])
def test_what_a_projection_gives_is_added_to_the_stream_times_its_factor(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    config, model = open_checkpoint(folder).config, load_model(folder)
    factors = updating._stream_factors(config)
    assert factors is not None
    (stream,) = record_calls(model, config, draw_batches(model, config, rows=2))
    for number, site in enumerate(config.sites):
        layer, stack = model.get_submodule(site.path), site.stack
        assert stack.mlp is not None
        outputs = [block.output.name for block in (*stack.mixing, stack.mlp)]
        for name in outputs:
            change = shifted(layer, stream, number, outputs, name, by=1.0) - shifted(layer, stream, number, outputs)
            torch.testing.assert_close(change, torch.full_like(change, factors[name]), rtol=0, atol=1e-5)


def shifted(
    layer: torch.nn.Module,
    stream: StreamBatch,
    number: int,
    outputs: Sequence[str],
    name: str | None = None,
    *,
    by: float = 0.0,
) -> torch.Tensor:
    """What a layer gives if its projections give nothing, but one of them a constant."""
    handles = []
    for output in outputs:
        constant = by if output == name else 0.0
        hook = functools.partial(lambda _, __, given, value: torch.full_like(given, value), value=constant)
        handles.append(layer.get_submodule(output).register_forward_hook(hook))
    found = run_layer(layer, stream.hidden_bsh, stream.calls[number])
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("model_type", WITHOUT_EXPERTS)
def test_it_comes_nearer_to_the_dense_model_on_other_text(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    checkpoint, dense = open_checkpoint(folder), load_model(folder)
    config = checkpoint.config
    plan = make_plan(checkpoint.raw_config, config, measured_scores(dense, config), PlanSettings(0.15, snap=1))
    other = draw_batches(dense, config, rows=10, seed=1)
    expected_th = final_states(dense, config, other)

    def distance(model: torch.nn.Module) -> float:
        return float((final_states(model, config, other) - expected_th).square().mean())

    pruned = prune_module(copy.deepcopy(dense), config, plan)
    compensated = copy.deepcopy(dense)
    found = prune_and_compensate(compensated, config, plan, draw_batches(dense, config, rows=40))
    assert distance(compensated) < 0.95 * distance(pruned)
    assert [tuple(each.shape) for each in compensated.parameters()] == [
        tuple(each.shape) for each in pruned.parameters()
    ]
    assert any(update.ridge is not None for update in found.updates)


@pytest.mark.parametrize("model_type", sorted(SHORTENED.union(OF_EACH_FORM)))
def test_running_only_what_has_changed_gives_the_same_bit_for_bit(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    checkpoint, dense = open_checkpoint(folder), load_model(folder)
    config = checkpoint.config
    plan = make_plan(checkpoint.raw_config, config, measured_scores(dense, config), PlanSettings(0.15, snap=8))
    found: list[Shortcut | None] = []

    def find(*given: object) -> Shortcut | None:
        found.append(find_shortcut(*given))
        return found[-1]

    compensated = []
    for look in (find, lambda *_: None):
        monkeypatch.setattr(updating, "find_shortcut", look)
        compensated.append(copy.deepcopy(dense))
        prune_and_compensate(compensated[-1], config, plan, draw_batches(dense, config, rows=12))
    one, other = (model.state_dict() for model in compensated)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    if model_type in SHORTENED:
        assert len([each for each in found if each is not None]) == 2


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "phi3", "bert"])
def test_what_another_neuron_says_too_is_not_lost(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "dense", model_type)
    config, model = open_checkpoint(folder).config, load_model(folder)
    kept = tuple(range(0, 48, 2))
    for site in config.sites:
        layer = model.get_submodule(site.path)
        assert site.stack.mlp is not None
        for projection in site.stack.mlp.inputs:
            for name in ("weight", "bias"):
                parameter = getattr(layer.get_submodule(projection.name), name, None)
                if parameter is not None:
                    rows = parameter.data.T if projection.transposed and name == "weight" else parameter.data
                    rows[1::2] = rows[::2]
    everything = keep_everything(config)
    plan = replace(everything, layers=tuple(replace(layer, neurons=kept) for layer in everything.layers))
    other = draw_batches(model, config, rows=10, seed=1)
    expected_th = final_states(model, config, other)
    pruned_th = final_states(prune_module(copy.deepcopy(model), config, plan), config, other)
    prune_and_compensate(model, config, plan, draw_batches(model, config, rows=60))
    found_th = final_states(model, config, other)
    assert (found_th - expected_th).square().mean() < 0.01 * (pruned_th - expected_th).square().mean()
