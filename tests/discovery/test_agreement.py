"""What is found out about every described family, without being told, is what its file says."""

from __future__ import annotations

from typing import Any

import pytest

from amp_export.architectures import Architecture, find_architecture, supported_model_types
from amp_export.architectures._layer_rules import LayerRule
from amp_export.discovery.assembling import Finder
from amp_export.discovery.finding import discover, smallest
from amp_export.discovery.tiny import Tiny, shrink
from amp_export.errors import UnsupportedModelError
from tests.support.agreement import consequences
from tests.support.tiny_models import FAMILY_FIELDS, kinds_of_layers

NOT_UNDERSTOOD = {
    "albert": "all layers share one, which is in a list of lists",
    "deepseek_v2": "latent attention: keys and values come from one projection, of another width",
    "deepseek_v3": "the same",
    "mistral4": "the same",
    "gemma4_text": "its per-layer embeddings have a vocabulary of their own",
    "hubert": "it takes raw audio, for which no samples are made up",
    "moonshine": "the same",
    "wav2vec2": "the same",
}

NOT_TRIED = {
    "gemma3n_text": "that its layers are not understood takes a minute to find",
    "internlm3": "transformers has no class of its own for it",
    "t5gemma": "its parts have configs of their own, which are not made small",
}

PROVED_ONLY = {
    "deberta-v2": "that positions have heads, too, is seen by the proof",
    "t5": "that the layers of the decoder share biases of their heads is seen by the proof",
    "mt5": "the same",
    "gpt_oss": "that gate and up take turns in the weights of experts is seen by the proof",
    "bloom": "that positions are told by the number of a head is seen by the proof",
    "mpt": "the same",
    "mpnet": "that biases of positions are shared by all layers is seen by the proof",
}
"""What is found before the proof is not yet right."""

OTHERWISE = {"vit": {"says heads", "fewer heads"}}
"""What differs on purpose: ViT's config takes `head_dim` in transformers 5; the file keeps to what version 4 takes."""


def tiny_of(architecture: Architecture) -> Tiny:
    fields = {
        name: value for name, value in FAMILY_FIELDS.get(architecture.model_type, {}).items() if name != "class_name"
    }
    if (rule := architecture.attention_layers) is not None:
        fields |= {"num_hidden_layers": 4, **kinds_of_layers(architecture.model_type, rule, 4)}
    return smallest(shrink(architecture.model_type, architecture.class_name, fields))


def differences(described: Architecture, found: Architecture, tiny: Tiny) -> dict[str, tuple[Any, Any]]:
    raw_config = {**tiny.config().to_dict(), "architectures": [tiny.class_name]}
    both = consequences(described, raw_config), consequences(found, raw_config)
    return {
        name: (both[0].get(name), both[1].get(name))
        for name in both[0] | both[1]
        if both[0].get(name) != both[1].get(name)
    }


@pytest.mark.parametrize(
    "model_type",
    [each for each in supported_model_types() if each not in {**NOT_UNDERSTOOD, **NOT_TRIED, **PROVED_ONLY}],
)
def test_what_is_found_is_what_is_described(model_type: str) -> None:
    described = find_architecture(model_type)
    tiny = tiny_of(described)
    differing = differences(described, Finder(tiny).architecture(), tiny)
    assert set(differing) <= OTHERWISE.get(model_type, set()), differing


def test_experts_beside_layers_without_them_are_found() -> None:
    described = find_architecture("llama4_text")
    fields = {**FAMILY_FIELDS["llama4_text"], "interleave_moe_layer_step": 2}
    tiny = smallest(shrink("llama4_text", described.class_name, fields))
    found = Finder(tiny).architecture()
    assert tiny.fields["moe_layers"] == [1]
    # the same layers have full attention here, which says nothing of experts
    assert found.mlp_layers == LayerRule(numbers="moe_layers")
    assert not differences(described, found, tiny)


@pytest.mark.parametrize("model_type", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_refused(model_type: str) -> None:
    described = find_architecture(model_type)
    fields = {name: value for name, value in FAMILY_FIELDS.get(model_type, {}).items() if name != "class_name"}
    with pytest.raises(UnsupportedModelError):
        discover(model_type, described.class_name, fields)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["t5", "deberta-v2"])
def test_the_proof_corrects_what_was_found(model_type: str) -> None:
    described = find_architecture(model_type)
    fields = {name: value for name, value in FAMILY_FIELDS.get(model_type, {}).items() if name != "class_name"}
    found = discover(model_type, described.class_name, fields)
    assert all(case.holds for case in found.cases)
    if model_type == "t5":
        assert not differences(described, found.architecture, tiny_of(described))
    else:
        assert "refuted" in str(found.architecture.heads_stay)
