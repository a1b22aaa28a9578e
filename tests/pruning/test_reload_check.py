"""The proof of a reload compares every output of the class that the config names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.errors import VerificationError
from amp_export.pruning.reload_check import expect, prove_reload
from tests.support.tiny_models import save_tiny_model

HEADS = {
    "BertForPreTraining": {
        "prediction_logits": "cls.predictions.transform.dense.weight",
        "seq_relationship_logits": "cls.seq_relationship.weight",
    },
    "BertForNextSentencePrediction": {"logits": "cls.seq_relationship.weight"},
    "BertModel": {"pooler_output": "pooler.dense.weight"},
    "BertForQuestionAnswering": {"start_logits": "qa_outputs.weight", "end_logits": "qa_outputs.weight"},
    "CLIPVisionModelWithProjection": {"image_embeds": "visual_projection.weight"},
}
"""By class the weights that one output alone depends on; of question answering, a row for each."""


@pytest.mark.parametrize(("name", "output"), [(name, output) for name, heads in HEADS.items() for output in heads])
def test_a_change_of_one_output_fails_the_proof(name: str, output: str, tmp_path: Path) -> None:
    model_type = "bert" if name.startswith("Bert") else "clip_vision_model"
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, class_name=name, num_hidden_layers=1)
    expected = expect(load_model(folder), open_checkpoint(folder).config, None)
    proof = prove_reload(folder, expected)
    assert proof.class_name == name
    assert proof.logits_compared == sum(each.numel() for each in expected.outputs.values())
    tensors = load_file(folder / SINGLE)
    with torch.no_grad():
        tensors[HEADS[name][output]][-1 if output == "end_logits" else 0] += 0.5
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(VerificationError, match=rf"reloaded as {name}, .* computes other {output} than in memory"):
        prove_reload(folder, expected)


def test_another_class_fails_the_proof(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "bert", class_name="BertForPreTraining", num_hidden_layers=1)
    expected = expect(load_model(folder), open_checkpoint(folder).config, None)
    other = save_tiny_model(tmp_path / "other", "bert", class_name="BertForMaskedLM", num_hidden_layers=1)
    with pytest.raises(VerificationError, match="returns logits, but in memory prediction_logits, seq_relationship"):
        prove_reload(other, replace(expected, auto_class="AutoModelForMaskedLM"))
