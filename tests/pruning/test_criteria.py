"""Every criterion against its definition, on layers of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import ModelError
from amp_export.options import CriterionName
from amp_export.pruning import criteria
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


def mean_over_prompts(
    model: PreTrainedModel, module: torch.nn.Module, measure: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """What is measured of a projection's inputs: the mean over the tokens of a prompt, then over prompts."""
    means = []
    handle = module.register_forward_pre_hook(lambda _, given: means.append(measure(given[0][0].double()).mean(dim=0)))
    with torch.no_grad():
        for prompt in PROMPTS:
            model(torch.tensor([prompt]))
    handle.remove()
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


@pytest.mark.parametrize("name", CriterionName)
@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", "bert"])
def test_every_family_can_have_it(name: CriterionName, model_type: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path / model_type, model_type))
    config = open_checkpoint(tmp_path / model_type).config
    scores = score_tokens(model, PROMPTS, config, criterion=name)
    scores.save(tmp_path / "scores.safetensors")
    again = Scores.load(tmp_path / "scores.safetensors", config)
    assert again.criterion is name
    for ours, other in zip((*scores.heads, *scores.neurons), (*again.heads, *again.neurons), strict=True):
        np.testing.assert_array_equal(ours, other)
        assert (ours >= 0).all()


def test_the_folder_is_the_registry() -> None:
    files = {file.stem for file in Path(criteria.__file__).parent.glob("[a-z]*.py")}
    assert files == {name.value for name in CriterionName}
    for name in CriterionName:
        assert criteria.find_criterion(name).heads.judge is not None


def test_scores_by_another_criterion_are_refused(model: PreTrainedModel) -> None:
    scores = score_tokens(model, PROMPTS, config_of(model), criterion=CriterionName.WANDA)
    scores.check_criterion(CriterionName.WANDA)
    scores.check_criterion(CriterionName.AMP)
    with pytest.raises(ModelError, match="--criterion flap is asked for, but the scores are by the criterion wanda"):
        scores.check_criterion(CriterionName.FLAP)


def test_scores_by_an_unknown_criterion_are_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    config, file = config_of(model), tmp_path / "scores.safetensors"
    score_tokens(model, PROMPTS, config).save(file)
    save_file(load_file(file), file, metadata={"criterion": "tarot"})
    with pytest.raises(ModelError, match="by the criterion 'tarot'"):
        Scores.load(file, config)
