from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.hashing import hash_weights
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import CalibrationError, ModelError
from amp_export.inputs.batches import batches, text_batches
from amp_export.options import CriterionName
from amp_export.progress import Silent
from amp_export.pruning.criteria import find_criterion
from amp_export.pruning.criteria.amp import head_contributions
from amp_export.pruning.recording import Recorder
from amp_export.pruning.request import prepare
from amp_export.pruning.scores import Scores
from amp_export.pruning.scoring import score_tokens
from amp_export.verb_options import PruneOptions
from tests.support.shared import Converted
from tests.support.tiny_models import family_fields, save_tiny_model

PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 7], [1] * 23, [8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0]]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load_model(save_tiny_model(tmp_path_factory.mktemp("score") / request.param, request.param))


def config_of(model: PreTrainedModel) -> ModelConfig:
    return ModelConfig.read(find_architecture(model.config.model_type), model.config.to_dict())


def naive_scores(model: PreTrainedModel, prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The definition, one prompt, token and head at a time, in float64: [layers, heads] and [layers, neurons]."""
    model = model.double()
    inputs: dict[str, torch.Tensor] = {}
    for layer, module in enumerate(model.model.layers):
        for name, linear in (("heads", module.self_attn.o_proj), ("neurons", module.mlp.down_proj)):
            linear.register_forward_hook(
                lambda _m, args, _o, key=f"{layer}.{name}": inputs.__setitem__(key, args[0][0].detach())
            )
    layers, heads = len(model.model.layers), model.config.num_attention_heads
    head_sums = np.zeros((layers, heads))
    neuron_sums = np.zeros((layers, model.config.intermediate_size))
    for prompt in prompts:
        with torch.no_grad():
            model(torch.tensor([prompt]))
        for layer, module in enumerate(model.model.layers):
            weight = module.self_attn.o_proj.weight.detach()
            width = weight.shape[1] // heads
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                norms = [(weight[:, part] @ token[part]).abs().sum().item() for token in inputs[f"{layer}.heads"]]
                head_sums[layer, head] += np.mean(norms)
            neuron_sums[layer] += inputs[f"{layer}.neurons"].abs().mean(0).numpy()
    return head_sums / len(prompts), neuron_sums / len(prompts)


def test_scores_agree_with_the_definition_in_float64(model: PreTrainedModel) -> None:
    import copy

    scores = score_tokens(model, PROMPTS, config_of(model))
    heads, neurons = naive_scores(copy.deepcopy(model), PROMPTS)
    np.testing.assert_allclose(np.stack(scores.heads), heads, rtol=1e-4)
    np.testing.assert_allclose(np.stack(scores.neurons), neurons, rtol=1e-4)


def test_batching_changes_nothing(model: PreTrainedModel) -> None:
    config = config_of(model)
    together = score_tokens(model, PROMPTS, config, batch_tokens=10_000)
    alone = score_tokens(model, PROMPTS, config, batch_tokens=1)
    for one, other in zip(together.heads + together.neurons, alone.heads + alone.neurons, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_half_precision_model_is_scored_in_float32(model: PreTrainedModel) -> None:
    import copy

    config = config_of(model)
    exact = score_tokens(model, PROMPTS, config)
    rounded = score_tokens(copy.deepcopy(model).bfloat16(), PROMPTS, config)
    assert all(array.dtype == np.float32 for array in rounded.heads + rounded.neurons)
    for one, other in zip(exact.heads, rounded.heads, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.1)


def test_scoring_leaves_no_hook_behind(model: PreTrainedModel) -> None:
    score_tokens(model, PROMPTS, config_of(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_head_contributions_never_hold_all_heads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = torch.randn(600, 32), torch.randn(24, 32)
    largest = 0
    plain = torch.mm

    def watched(*args: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, out.numel())
        return plain(*args, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    found = head_contributions(hidden, weight, torch.full((600,), 1 / 600), 4)
    assert 0 < largest <= 512 * 24
    per_head = torch.einsum("thd,ohd->tho", hidden.view(600, 4, 8), weight.view(24, 4, 8))
    torch.testing.assert_close(found, per_head.abs().sum(2).mean(0), rtol=1e-5, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), budget=st.integers(1, 200))
def test_batches_hold_every_prompt_once_within_the_budget(lengths: list[int], budget: int) -> None:
    prompts = [[index + 1] * length for index, length in enumerate(lengths)]
    seen = []
    for input_ids, mask in batches(prompts, budget):
        assert input_ids.shape == mask.shape
        assert input_ids.numel() <= budget or len(input_ids) == 1
        seen += [row[real.bool()].tolist() for row, real in zip(input_ids, mask, strict=True)]
    assert sorted(seen) == sorted(prompts)


def test_scores_survive_a_file(model: PreTrainedModel, tmp_path: Path, tiny_llama: Path) -> None:
    config = open_checkpoint(tiny_llama).config
    model = load_model(tiny_llama)
    scores = score_tokens(model, PROMPTS, config, origin="four prompts")
    scores.save(tmp_path / "scores.safetensors")
    read = Scores.load(tmp_path / "scores.safetensors", config)
    assert read.origin == "four prompts"
    for one, other in zip(scores.heads + scores.neurons, read.heads + read.neurons, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scores_of_another_model_are_refused(tmp_path: Path, tiny_llama: Path) -> None:
    config = open_checkpoint(tiny_llama).config
    layers = config.num_hidden_layers
    other = Scores((np.ones(99, np.float32),) * layers, (np.ones(5, np.float32),) * layers, "x")
    other.save(tmp_path / "scores.safetensors")
    with pytest.raises(ModelError, match=r"layers\.0\.heads is F32 \[99\], where this one needs F32 \[4\]"):
        Scores.load(tmp_path / "scores.safetensors", config)
    with pytest.raises(ModelError, match="does not contain scores for"):
        Scores.load(tmp_path / "absent.safetensors", config)


SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
DAMAGE: dict[str, Callable[[dict[str, np.ndarray], str], object]] = {
    "is missing": lambda arrays, name: arrays.pop(name),
    "where this one needs F32": lambda arrays, name: arrays.update({name: arrays[name][:-1]}),
    "is F64": lambda arrays, name: arrays.update({name: arrays[name].astype(np.float64)}),
    "contains nan": lambda arrays, name: arrays[name].fill(np.nan),
    "contains inf": lambda arrays, name: arrays[name].fill(np.inf),
    "contains -1.0": lambda arrays, name: arrays[name].fill(-1),
    "it contains layers.9.": lambda arrays, name: arrays.update({f"layers.9.{name}": arrays[name]}),
}


@pytest.mark.parametrize("model_type", ["llama", "llama4_text", "mixtral", "t5"])
@given(damage=st.sampled_from(sorted(DAMAGE)), choose=st.randoms())
@settings(max_examples=30)
def test_every_layer_of_a_scores_file_is_checked(model_type: str, damage: str, choose: random.Random) -> None:
    raw = family_fields(model_type, {**SMALL, "num_hidden_layers": 3, "num_local_experts": 2})
    config = ModelConfig.read(find_architecture(model_type), raw)
    experts = [config.experts(site.stack.mlp) for site in config.sites]
    scores = Scores(
        tuple(np.ones(4, np.float32) for _ in config.sites),
        tuple(
            np.ones((*([count] if count else []), site.widths.neurons), np.float32)
            for count, site in zip(experts, config.sites, strict=True)
        ),
        "ones",
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "scores.safetensors"
        scores.save(file)
        assert Scores.load(file, config).origin == "ones"
        arrays = load_file(file)
        DAMAGE[damage](arrays, choose.choice(sorted(name for name, array in arrays.items() if array.size)))
        save_file(arrays, file)
        with pytest.raises(ModelError, match=re.escape(damage)) as refused:
            Scores.load(file, config)
        assert str(file) in str(refused.value)


def test_scores_are_bound_to_their_checkpoint(tiny_llama: Path, tmp_path: Path) -> None:
    config = open_checkpoint(tiny_llama).config
    measured = score_tokens(load_model(tiny_llama), PROMPTS, config)
    old, bound, other = (tmp_path / f"{name}.safetensors" for name in ("old", "bound", "other"))
    measured.save(old)
    replace(measured, checkpoint=hash_weights(open_checkpoint(tiny_llama))).save(bound)
    replace(measured, checkpoint="0" * 64).save(other)
    for file in (old, bound):
        request = prepare(tiny_llama, PruneOptions(ratio=0.2, snap=1, scores=file), progress=Silent())
        assert request.scores is not None
    with pytest.raises(ModelError, match="another checkpoint: of the SHA-256 000000000000, where this one has"):
        prepare(tiny_llama, PruneOptions(ratio=0.2, snap=1, scores=other), progress=Silent())


def test_pruning_writes_scores_that_name_their_checkpoint(converted: Callable[[str], Converted]) -> None:
    result = converted("llama")
    dense = open_checkpoint(result.checkpoint)
    assert Scores.load(result.output / "scores.safetensors", dense.config).checkpoint == hash_weights(dense)


def test_no_prompt_is_an_error(model: PreTrainedModel) -> None:
    with pytest.raises(CalibrationError, match="needs at least one token"):
        score_tokens(model, [], config_of(model))


def test_activations_that_are_not_finite_are_an_error(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(1e38)
    with pytest.raises(ModelError, match="Layer 1"):
        score_tokens(model, PROMPTS, config_of(model))


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_what_is_measured_of_experts_is_what_they_compute(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a token goes to one expert, whose output is then the output for it
    folder = save_tiny_model(tmp_path / "dense", model_type, num_hidden_layers=1, num_experts_per_tok=1)
    config, model = open_checkpoint(folder).config, load_model(folder)
    experts = model.get_submodule("model.layers.0.mlp.experts")
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    experts.register_forward_hook(lambda _, inputs, output: calls.append((inputs[1].reshape(-1), output)))
    measured: dict[int, torch.Tensor] = {}

    def add(_: Recorder, __: int, expert: int, hidden_ti: torch.Tensor, weight_oi: torch.Tensor, ___: object) -> None:
        measured[expert] = hidden_ti @ weight_oi.T

    monkeypatch.setattr(Recorder, "_add_neurons", add)
    (batch,) = text_batches(model, config, [[3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 89, 79]])
    with torch.inference_mode(), Recorder(model, config, find_criterion(CriterionName.AMP)) as recorder:
        recorder.begin_batch(batch)
        model(**batch.inputs)
    ((chosen_t, output_th),) = calls
    assert len(chosen_t.unique()) > 1
    for expert, made_th in measured.items():
        bias_h = experts.down_proj_bias[expert] if model_type == "gpt_oss" else 0.0
        torch.testing.assert_close(made_th + bias_h, output_th[chosen_t == expert], rtol=0, atol=1e-5)


def test_what_is_measured_of_scaled_and_shared_experts_is_what_they_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of two experts a token, and one that all tokens pass, each is measured by itself
    folder = save_tiny_model(tmp_path / "dense", "llama4_text", num_hidden_layers=1)
    config, model = open_checkpoint(folder).config, load_model(folder)
    made: dict[str, torch.Tensor] = {}
    for name in ("experts", "shared_expert"):
        module = model.get_submodule(f"model.layers.0.feed_forward.{name}")
        module.register_forward_hook(lambda _, __, output, name=name: made.update({name: output.clone()}))
    measured: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(
        _: Recorder, __: int, expert: int, hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor
    ) -> None:
        measured[expert] = hidden_ti @ weight_oi.T, weights_t

    monkeypatch.setattr(Recorder, "_add_neurons", add)
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 35, 89]]
    (batch,) = text_batches(model, config, prompts)
    with torch.inference_mode(), Recorder(model, config, find_criterion(CriterionName.AMP)) as recorder:
        recorder.begin_batch(batch)
        model(**batch.inputs)
    *routed, (shared_th, shared_weights_t) = [measured[expert] for expert in range(5)]
    outputs_eth = made["experts"].reshape(4, -1, config.hidden_size)
    for (found_th, _), output_th in zip(routed, outputs_eth, strict=True):
        torch.testing.assert_close(found_th, output_th[output_th.any(dim=-1)], rtol=0, atol=1e-5)
    # padding is routed, too, but weighs nothing
    assert sum(len(found_th) for found_th, _ in routed) == 2 * 2 * 8
    assert sum(float(weights_t.sum()) for _, weights_t in routed) == pytest.approx(2 * len(prompts))
    real = batch.places((2, 8))
    torch.testing.assert_close(shared_th, made["shared_expert"][real], rtol=0, atol=1e-5)
    assert float(shared_weights_t.sum()) == pytest.approx(len(prompts))
