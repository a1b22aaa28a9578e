"""Every criterion against its definition, on layers of one's own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import ModelError, PlanError
from amp_export.inputs.batches import text_batches
from amp_export.options import CriterionName
from amp_export.pruning import criteria, gradients, scoring
from amp_export.pruning.criteria import check_criterion, obs
from amp_export.pruning.criteria._criterion import Evidence
from amp_export.pruning.scores import Scores
from amp_export.pruning.scoring import score_tokens
from tests.support.tiny_models import save_tiny_model

PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 7], [1] * 23, [8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("criteria") / "llama", "llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return load_model(folder)


def config_of(model: PreTrainedModel) -> ModelConfig:
    return ModelConfig.read(find_architecture(model.config.model_type), model.config.to_dict())


def inputs_of_prompts(model: PreTrainedModel, module: torch.nn.Module) -> list[torch.Tensor]:
    """A projection's inputs for each prompt, [tokens, inputs]."""
    inputs: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    with torch.no_grad():
        for prompt in PROMPTS:
            model(torch.tensor([prompt]))
    handle.remove()
    return inputs


def mean_over_prompts(
    model: PreTrainedModel, module: torch.nn.Module, measure: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """What is measured of a projection's inputs: the mean over the tokens of a prompt, then over prompts."""
    means = [measure(hidden_ti.double()).mean(dim=0) for hidden_ti in inputs_of_prompts(model, module)]
    return torch.stack(means).mean(dim=0)


def wanda(model: PreTrainedModel, module: torch.nn.Module) -> torch.Tensor:
    squares_i = mean_over_prompts(model, module, lambda hidden_ti: hidden_ti**2)
    return squares_i * module.weight.detach().double().norm(dim=0) ** 2


def flap(model: PreTrainedModel, module: torch.nn.Module) -> torch.Tensor:
    means_i, squares_i = (mean_over_prompts(model, module, lambda hidden_ti, n=n: hidden_ti**n) for n in (1, 2))
    return (squares_i - means_i**2) * module.weight.detach().double().norm(dim=0) ** 2


def magnitude(_: PreTrainedModel, module: torch.nn.Module) -> torch.Tensor:
    return module.weight.detach().double().norm(dim=0) ** 2


@pytest.mark.parametrize(
    ("name", "channels", "root"),
    [(CriterionName.WANDA, wanda, True), (CriterionName.FLAP, flap, False), (CriterionName.MAGNITUDE, magnitude, True)],
)
def test_it_is_what_it_is_defined_as(
    name: CriterionName,
    channels: Callable[[PreTrainedModel, torch.nn.Module], torch.Tensor],
    root: bool,
    model: PreTrainedModel,
) -> None:
    scores = score_tokens(model, PROMPTS, config_of(model), criterion=name)
    for layer, heads, neurons in zip(model.model.layers, scores.heads, scores.neurons, strict=True):
        expected_h = channels(model, layer.self_attn.o_proj).reshape(len(heads), -1).sum(dim=1)
        expected_n = channels(model, layer.mlp.down_proj)
        for found, expected in ((heads, expected_h), (neurons, expected_n)):
            np.testing.assert_allclose(found, expected.sqrt() if root else expected, rtol=1e-4, atol=1e-6)
    assert scores.criterion is name


def test_reversed_is_amp_upside_down(model: PreTrainedModel) -> None:
    amp, turned = (
        score_tokens(model, PROMPTS, config_of(model), criterion=name)
        for name in (CriterionName.AMP, CriterionName.REVERSED)
    )
    for ours, other in zip((*amp.heads, *amp.neurons), (*turned.heads, *turned.neurons), strict=True):
        np.testing.assert_array_equal(ours.argsort(kind="stable"), (-other).argsort(kind="stable"))


def test_random_is_the_same_each_time_and_differs_between_layers(model: PreTrainedModel) -> None:
    one, other = (score_tokens(model, PROMPTS, config_of(model), criterion=CriterionName.RANDOM) for _ in range(2))
    for ours, again in zip(one.neurons, other.neurons, strict=True):
        np.testing.assert_array_equal(ours, again)
    assert len({neurons.tobytes() for neurons in one.neurons}) == len(one.neurons)


REFUSED = {
    ("mixtral", CriterionName.OBS): "--criterion obs cannot judge experts",
    ("mixtral", CriterionName.TAYLOR): "--criterion taylor cannot judge experts",
    ("bert", CriterionName.TAYLOR): "--criterion taylor needs the gradient",
}


@pytest.mark.parametrize("name", CriterionName)
@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "falcon", "mixtral", "bert", "t5"])
def test_every_family_has_it_or_says_which_it_has(name: CriterionName, model_type: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / model_type, model_type))
    config = open_checkpoint(tmp_path / model_type).config
    if (reason := REFUSED.get((model_type, name))) or (model_type, name) == ("t5", CriterionName.TAYLOR):
        with pytest.raises(PlanError, match=reason) as refused:
            check_criterion(config, name)
        assert "wanda" in str(refused.value)
        assert name.value not in str(refused.value).splitlines()[1]
        return
    check_criterion(config, name)
    scores = score_tokens(model, PROMPTS, config, criterion=name)
    scores.save(tmp_path / "scores.safetensors")
    again = Scores.load(tmp_path / "scores.safetensors", config)
    assert again.criterion is name
    for ours, other in zip((*scores.heads, *scores.neurons), (*again.heads, *again.neurons), strict=True):
        np.testing.assert_array_equal(ours, other)
        assert (ours >= 0).all()


def inputs_and_gradients(
    model: PreTrainedModel, module: torch.nn.Module, row: torch.Tensor, sampled_t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of a projection and the gradients of the loss by its outputs, by way of an output that is added."""
    seen: list[torch.Tensor] = []
    offset: list[torch.Tensor] = []

    def hook(_: object, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        seen.append(given[0].detach()[0])
        offset.append(torch.zeros_like(output, requires_grad=True))
        return output + offset[0]

    handle = module.register_forward_hook(hook)
    loss = torch.nn.functional.cross_entropy(model(row).logits[0], sampled_t, reduction="sum")
    handle.remove()
    return seen[0], torch.autograd.grad(loss, offset[0])[0][0]


def test_gradients_are_those_of_tokens_that_the_model_would_write(model: PreTrainedModel) -> None:
    config, prompt = config_of(model), PROMPTS[2]
    wanted = [weight.requires_grad for weight in model.parameters()]
    scores = score_tokens(model, [prompt], config, criterion=CriterionName.TAYLOR)
    assert [weight.requires_grad for weight in model.parameters()] == wanted
    assert all(weight.grad is None for weight in model.parameters())
    row = torch.tensor([prompt])
    with torch.no_grad():
        logits_tv = model(row).logits[0]
    generator = torch.Generator().manual_seed(0)
    sampled_t = torch.multinomial(logits_tv.softmax(dim=1), 1, generator=generator).squeeze(1)
    for layer, heads, neurons in zip(model.model.layers, scores.heads, scores.neurons, strict=True):
        for module, found in ((layer.self_attn.o_proj, heads), (layer.mlp.down_proj, neurons)):
            inputs_ti, gradients_to = inputs_and_gradients(model, module, row, sampled_t)
            changes_tui = (inputs_ti * (gradients_to @ module.weight)).unflatten(1, (len(found), -1))
            expected_u = changes_tui.sum(dim=2).square().sum(dim=0).sqrt()
            np.testing.assert_allclose(found, expected_u.detach(), rtol=1e-3, atol=1e-6)


def least_squares_loss(inputs_ti: torch.Tensor, weight_oi: torch.Tensor, kept: list[int], damping: float) -> float:
    """What the output loses if only some inputs are kept and their columns are fitted anew, with the same damping."""
    damped = torch.cat((inputs_ti, damping**0.5 * torch.eye(inputs_ti.shape[1], dtype=torch.float64)))
    fitted = torch.linalg.lstsq(damped[:, kept], damped @ weight_oi.T).solution
    return float((damped[:, kept] @ fitted - damped @ weight_oi.T).square().sum())


@pytest.mark.parametrize("traced", [False, True])
def test_optimal_surgery_costs_what_least_squares_leaves(traced: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    inputs_ti = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    inputs_ti = inputs_ti @ torch.randn(12, 12, generator=generator, dtype=torch.float64)
    weight_oi = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    gradients_to = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    metric_oo = gradients_to.T @ gradients_to if traced else None
    evidence = Evidence((inputs_ti.T @ inputs_ti).float(), weight_oi.float(), 12, metric_oo)
    damping = obs.DAMPING * float(evidence.measured.diagonal().mean())
    # distances in the gradients' metric are those of outputs that are multiplied by its root
    seen_oi = gradients_to @ weight_oi if traced else weight_oi
    loss = functools.partial(least_squares_loss, inputs_ti, seen_oi, damping=damping)

    kept, costs = list(range(12)), np.zeros(12)
    while len(kept) > 1:
        before = loss(kept)
        increases = {unit: loss([each for each in kept if each != unit]) - before for unit in kept}
        cheapest = min(increases, key=increases.__getitem__)
        costs[cheapest] = max(increases[cheapest], costs.max())
        kept.remove(cheapest)
    found = obs.cost_in_turn(evidence).double().square().numpy()
    np.testing.assert_allclose(np.delete(found, kept), np.delete(costs, kept), rtol=1e-3)
    assert found.argmax() == kept[0]

    by_head = obs.cost_alone(dataclasses.replace(evidence, units=4)).double().square().numpy()
    expected = [loss([each for each in range(12) if each // 3 != head]) for head in range(4)]
    np.testing.assert_allclose(by_head, expected, rtol=1e-3)


def test_when_matrices_are_made_smaller_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs_ti = torch.randn(400, 200, generator=generator) @ torch.randn(200, 200, generator=generator)
    evidence = Evidence(inputs_ti.T @ inputs_ti, torch.randn(7, 200, generator=generator), 200)
    found = []
    for every in (1, 8, 1000):
        monkeypatch.setattr(obs, "COMPACT_EVERY", every)
        found.append(obs.cost_in_turn(evidence))
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-5, atol=0)


def test_one_layer_at_a_time_measures_what_whole_batches_do(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rule = config_of(model), criteria.find_criterion(CriterionName.OBS)
    by_layer = score_tokens(model, PROMPTS, config, criterion=CriterionName.OBS)
    monkeypatch.setattr(scoring, "find_criterion", lambda _: dataclasses.replace(rule, by_layer=False))
    by_batch = score_tokens(model, PROMPTS, config, criterion=CriterionName.OBS)
    for ours, other in zip((*by_layer.heads, *by_layer.neurons), (*by_batch.heads, *by_batch.neurons), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-4)


class Saved:
    """A tensor that a backward pass will read; the class counts the numbers that are held."""

    live, peak = 0, 0

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        Saved.live += value.numel()
        Saved.peak = max(Saved.peak, Saved.live)

    def __del__(self) -> None:
        Saved.live -= self.value.numel()


@pytest.mark.parametrize("model_type", ["llama", "falcon", "gpt2", "gemma3_text"])
def test_layers_that_run_again_have_the_same_gradients(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type, num_hidden_layers=6))
    model, rule = load_model(checkpoint.path), criteria.find_criterion(CriterionName.OBS)
    batches = text_batches(model, checkpoint.config, [list(range(4, 68))] * 4)
    found, peaks = [], []
    for least in (1 << 40, 0):
        monkeypatch.setattr(gradients, "RERUN_BYTES", least)
        Saved.live = Saved.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.value):
            found.append(gradients.trace_gradients(model, checkpoint.config, rule, batches))
        peaks.append(Saved.peak)
    assert peaks[1] < 0.5 * peaks[0]
    for whole, again in zip(found[0].heads.values(), found[1].heads.values(), strict=True):
        torch.testing.assert_close(whole, again, rtol=1e-6, atol=0)
    for whole, again in zip(found[0].neurons.values(), found[1].neurons.values(), strict=True):
        torch.testing.assert_close(whole, again, rtol=1e-6, atol=0)
    assert not any("forward" in vars(model.get_submodule(site.path)) for site in checkpoint.config.sites)


def test_tokens_of_surgery_weigh_by_the_stream_after_the_layer(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, seen = criteria.find_criterion(CriterionName.OBS), []

    def judge(evidence: Evidence) -> torch.Tensor:
        seen.append(evidence.measured)
        return torch.ones(evidence.units)

    heads, neurons = (dataclasses.replace(unit, judge=judge) for unit in (rule.heads, rule.neurons))
    spied = dataclasses.replace(rule, heads=heads, neurons=neurons)
    monkeypatch.setattr(scoring, "find_criterion", lambda _: spied)
    score_tokens(model, PROMPTS, config_of(model), criterion=CriterionName.OBS)
    for layer, *found in zip(model.model.layers, seen[::2], seen[1::2], strict=True):
        streams: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda _, __, output, streams=streams: streams.append(output[0]))
        for module, moments_ii in zip((layer.self_attn.o_proj, layer.mlp.down_proj), found, strict=True):
            streams.clear()
            weighted = [
                (1 / stream_th.double().square().mean(dim=1), hidden_ti.double())
                for hidden_ti, stream_th in zip(inputs_of_prompts(model, module), streams, strict=True)
            ]
            expected_ii = sum(
                (hidden_ti.T * weights_t) @ hidden_ti / len(weights_t) for weights_t, hidden_ti in weighted
            )
            expected_ii /= sum(weights_t.mean() for weights_t, _ in weighted)
            torch.testing.assert_close(moments_ii.double(), expected_ii, rtol=1e-4, atol=1e-6)
        handle.remove()


def test_the_folder_is_the_registry() -> None:
    files = {file.stem for file in Path(criteria.__file__).parent.glob("[a-z]*.py")}
    assert files == {name.value for name in CriterionName}
    for name in CriterionName:
        assert criteria.find_criterion(name).heads.judge is not None


def test_scores_by_another_criterion_are_refused(model: PreTrainedModel) -> None:
    scores = score_tokens(model, PROMPTS, config_of(model), criterion=CriterionName.WANDA)
    scores.check_criterion(CriterionName.WANDA)
    scores.check_criterion(None)
    with pytest.raises(ModelError, match="--criterion flap is asked for, but the scores are by the criterion wanda"):
        scores.check_criterion(CriterionName.FLAP)


def test_scores_by_an_unknown_criterion_are_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    config, file = config_of(model), tmp_path / "scores.safetensors"
    score_tokens(model, PROMPTS, config).save(file)
    save_file(load_file(file), file, metadata={"criterion": "tarot"})
    with pytest.raises(ModelError, match="by the criterion 'tarot'"):
        Scores.load(file, config)
