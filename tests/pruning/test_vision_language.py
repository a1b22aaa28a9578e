"""The language model within a vision-language model is pruned; the whole loads, and computes the same on images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from amp_export import DoctorOptions, HeadPolicy, PlanChoices, PruneOptions, RecoverOptions, diagnose, prune, recover
from amp_export.checkpoints.sources import resolve_model
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.errors import AmpExportError, PlanError, RequestError, UnsupportedModelError
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import PRUNED, WHOLE
from amp_export.progress import Silent
from amp_export.pruning.plan import LayerPlan, Plan
from tests.support.bad_checkpoints import set_fields
from tests.support.tiny_models import save_tiny_tokenizer
from tests.support.vision_language_models import FIELDS, TEXT, image_inputs, save_tiny_whole

NEURONS = tuple(range(0, TEXT["intermediate_size"], 2))
QUERY_HEADS, GROUPS = (0, 1, 4, 5), (0, 2)

WITHOUT_HEADS = ("gemma4", "qwen2_5_vl", "qwen2_vl")
"""Types whose heads all stay."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_EXPORT_CACHE", str(tmp_path / "cache"))


def plan_for(file: Path, model_type: str) -> Path:
    kept = (tuple(range(6)), tuple(range(3))) if model_type in WITHOUT_HEADS else (QUERY_HEADS, GROUPS)
    kinds = FIELDS[model_type]["text_config"].get("layer_types", ["full_attention"] * TEXT["num_hidden_layers"])
    layers = tuple(LayerPlan(*(kept if "linear" not in kind else ((), ())), NEURONS) for kind in kinds)
    Plan(layers=layers, asked=None, achieved=0.0).save(file)
    return file


def load_whole(path: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float64).eval()


def silence_removed(model: Any, *, heads: bool) -> None:
    """Set the inputs of the output projections to zero that belong to removed heads and neurons."""
    text = TEXT
    gone = [head for head in range(text["num_attention_heads"]) if head not in QUERY_HEADS]
    with torch.no_grad():
        for name, module in model.named_modules():
            if heads and name.endswith("self_attn.o_proj"):
                module.weight.view(text["hidden_size"], -1, text["head_dim"])[:, gone] = 0
            elif name.endswith("mlp.down_proj") and getattr(module, "in_features", 0) == text["intermediate_size"]:
                silent = sorted(set(range(text["intermediate_size"])) - set(NEURONS))
                module.weight[:, silent] = 0


@pytest.mark.parametrize("model_type", FIELDS)
def test_the_whole_with_a_pruned_language_model_equals_the_masked_one_on_images(
    model_type: str, tmp_path: Path
) -> None:
    dense, output = save_tiny_whole(tmp_path / "dense", model_type), tmp_path / "out"
    heads = model_type not in WITHOUT_HEADS
    plan = plan_for(tmp_path / "plan.json", model_type)
    result = prune(dense, output, PruneOptions(plan=plan, compensate=False))
    assert result.rewrite.is_stock
    Manifest.load(output).verify(output)

    masked, pruned = load_whole(dense), load_whole(output / WHOLE)
    assert type(masked) is type(pruned)
    silence_removed(masked, heads=heads)
    inputs = image_inputs(masked)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.inference_mode():
        expected_bsv, found_bsv = masked(**inputs).logits, pruned(**inputs).logits
        other_bsv = pruned(**{**inputs, "pixel_values": 2 * inputs["pixel_values"]}).logits
    torch.testing.assert_close(found_bsv, expected_bsv, atol=1e-5, rtol=0)
    assert not torch.equal(found_bsv, other_bsv)

    before, after = (load_file(path / SINGLE) for path in (dense, output / WHOLE))
    others = ("audio", "vision", "visual")
    layers = {name for name in before if ".layers." in f".{name}" and not any(each in name for each in others)}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - layers)


def test_scores_and_defaults_prune_a_language_model_and_recovery_replaces_it(tmp_path: Path) -> None:
    dense, output = save_tiny_whole(tmp_path / "dense", "smolvlm"), tmp_path / "out"
    save_tiny_tokenizer(dense)
    calibration = tmp_path / "texts.txt"
    calibration.write_text("\n".join(f"the {each} of it is {each}" for each in range(20)), encoding="utf-8")
    prune(dense, output, PruneOptions(ratio=0.2, calibration=calibration, fitting_tokens=512))
    assert len(json.loads((output / WHOLE / "config.json").read_text())["text_config"]) > 10
    before = load_file(output / WHOLE / SINGLE)
    recover(output, RecoverOptions(text=calibration, steps=2))
    Manifest.load(output).verify(output)
    after, language = load_file(output / WHOLE / SINGLE), load_file(output / PRUNED / SINGLE)
    name = "layers.0.mlp.down_proj.weight"
    assert not torch.equal(before[f"model.text_model.{name}"], after[f"model.text_model.{name}"])
    assert torch.equal(after[f"model.text_model.{name}"], language[f"model.{name}"])


def test_a_llama_with_heads_that_its_class_refuses_becomes_a_mistral_in_the_whole(tmp_path: Path) -> None:
    text = {**TEXT, "model_type": "llama", "num_key_value_heads": TEXT["num_attention_heads"]}
    dense = save_tiny_whole(tmp_path / "dense", "smolvlm", text_config=text)
    # as in LLaVA 1.5: transformers takes it from the number of heads
    raw = json.loads((dense / "config.json").read_text())
    del raw["text_config"]["head_dim"]
    (dense / "config.json").write_text(json.dumps(raw))
    heads = (0, 1, 2, 4, 5)
    plan = tmp_path / "plan.json"
    layers = (LayerPlan(heads, heads, NEURONS),) * TEXT["num_hidden_layers"]
    Plan(layers=layers, asked=None, achieved=0.0).save(plan)
    prune(dense, tmp_path / "out", PruneOptions(plan=plan, compensate=False))
    after = json.loads((tmp_path / "out" / WHOLE / "config.json").read_text())["text_config"]
    assert (after["model_type"], after["num_attention_heads"], after["head_dim"]) == ("mistral", 5, TEXT["head_dim"])
    assert after["sliding_window"] is None


def test_a_config_without_text_config_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    dense = save_tiny_whole(tmp_path / "dense", "qwen2_vl")
    file = dense / "config.json"
    raw = json.loads(file.read_text())
    text = raw.pop("text_config")
    text.pop("model_type")
    file.write_text(json.dumps({**text, **raw}))
    plan = plan_for(tmp_path / "plan.json", "qwen2_vl")
    prune(dense, tmp_path / "out", PruneOptions(plan=plan, compensate=False))
    after = json.loads((tmp_path / "out" / WHOLE / "config.json").read_text())
    assert after["intermediate_size"] == len(NEURONS)
    assert "text_config" not in after


def test_layers_that_draft_tokens_are_left_out_of_the_pruned_whole(tmp_path: Path) -> None:
    dense = save_tiny_whole(tmp_path / "dense", "qwen3_5")
    drafting = {"mtp.layers.0.mlp.down_proj.weight", "mtp.embed_tokens.weight"}
    for name in drafting:
        add(name, "model.language_model.layers.1.mlp.down_proj.weight")(dense)
    set_fields(
        text_config={**json.loads((dense / "config.json").read_text())["text_config"], "mtp_num_hidden_layers": 1}
    )(dense)
    notes: list[str] = []
    progress = Silent()
    progress.note = notes.append
    plan = plan_for(tmp_path / "plan.json", "qwen3_5")
    prune(dense, tmp_path / "out", PruneOptions(plan=plan, compensate=False), progress=progress)
    whole = tmp_path / "out" / WHOLE
    assert json.loads((whole / "config.json").read_text())["text_config"]["mtp_num_hidden_layers"] == 0
    before, after = load_file(dense / SINGLE).keys(), load_file(whole / SINGLE).keys()
    assert before - after == drafting
    assert any("2 tensors (mtp)" in note and "left out" in note for note in notes)


NOT_PRUNED = {
    "paligemma": "reads image and prompt in both directions",
    "gemma3n": "where few neurons are active, all of them stay",
}


@pytest.mark.parametrize("model_type", NOT_PRUNED)
def test_types_that_cannot_be_pruned_are_refused_before_any_work(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "config.json").write_text(json.dumps({"model_type": model_type}))
    for refuses in (
        lambda: prune(tmp_path / "dense", tmp_path / "out", PruneOptions(ratio=0.1)),
        lambda: diagnose(tmp_path / "dense", 0.1),
    ):
        with pytest.raises(
            UnsupportedModelError, match=f"within a {model_type} cannot be pruned: .*{NOT_PRUNED[model_type]}"
        ):
            refuses()


def test_doctor_diagnoses_the_language_model_and_says_so(tmp_path: Path) -> None:
    dense = save_tiny_whole(tmp_path / "dense", "gemma3")
    (dense / SINGLE).unlink()
    diagnosis = diagnose(dense, 0.2, PlanChoices(snap=1), DoctorOptions())
    assert diagnosis.class_name == "Gemma3ForCausalLM"
    assert any("language model of a vision-language model" in note for note in diagnosis.notes)
    assert all(not option.shared_out for option in diagnosis.options)


@pytest.mark.parametrize(("model_type", "is_alone"), [("gemma4", True), ("qwen3_5", True)])
def test_doctor_says_what_of_a_whole_is_exported(model_type: str, is_alone: bool, tmp_path: Path) -> None:
    notes = diagnose(save_tiny_whole(tmp_path / "dense", model_type), 0.1, PlanChoices(snap=1)).notes
    assert any(f"refused for the whole, not for OUT/{PRUNED}" in note for note in notes) is is_alone


def test_heads_that_must_stay_stay(tmp_path: Path) -> None:
    dense = save_tiny_whole(tmp_path / "dense", "qwen2_vl")
    options = diagnose(dense, 0.1, PlanChoices(snap=1)).options
    assert {option.candidate.widths.query_heads for option in options} == {TEXT["num_attention_heads"]}
    with pytest.raises(RequestError, match=r"--heads groups removes heads, but all heads of .* stay"):
        diagnose(dense, 0.1, PlanChoices(heads=HeadPolicy.GROUPS))


def test_widths_that_only_a_resized_class_has_are_refused_before_any_work(tmp_path: Path) -> None:
    dense = save_tiny_whole(tmp_path / "dense", "smolvlm")
    layers = tuple(LayerPlan(tuple(range(6)), (0, 1, 2), tuple(range(count))) for count in (32, 48))
    plan = tmp_path / "plan.json"
    Plan(layers=layers, asked=None, achieved=0.0).save(plan)
    with pytest.raises(PlanError, match="cannot contain"):
        prune(dense, tmp_path / "out", PruneOptions(plan=plan))
    assert not (tmp_path / "out").exists()


def rename(old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tensors = {name.replace(old, new): tensor for name, tensor in load_file(folder / SINGLE).items()}
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})

    return change


def add(name: str, like: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / SINGLE)
        save_file({**tensors, name: tensors[like].clone()}, folder / SINGLE, metadata={"format": "pt"})

    return change


UNTOLD: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unsupported type": (
        set_fields(text_config={**TEXT, "model_type": "mamba", "head_dim": 8}),
        "is of type 'mamba', which is not supported",
    ),
    "a family without known tensors": (
        set_fields(text_config={**TEXT, "model_type": "mixtral"}),
        "tensors of a MixtralForCausalLM are not known by name",
    ),
    "no embedding": (rename("embed_tokens", "tokens"), "0 of its tensors end in embed_tokens.weight"),
    "two embeddings": (
        add("model.other.embed_tokens.weight", "model.text_model.embed_tokens.weight"),
        "2 of its tensors end in embed_tokens.weight",
    ),
    "a missing tensor": (rename("layers.1.mlp.up_proj", "layers.1.mlp.other"), "1 tensors of its LlamaForCausalLM"),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_a_language_model_that_cannot_be_told_is_refused(case: str, tmp_path: Path) -> None:
    change, message = UNTOLD[case]
    dense = save_tiny_whole(tmp_path / "dense", "smolvlm")
    change(dense)
    with pytest.raises(UnsupportedModelError, match=message) as refused:
        diagnose(dense, 0.1)
    assert "cannot be told from the rest" in str(refused.value)
    with pytest.raises(AmpExportError) as also:
        prune(dense, tmp_path / "out", PruneOptions(ratio=0.1))
    assert str(also.value) == str(refused.value)


def test_the_language_model_is_taken_out_once_for_the_same_files(tmp_path: Path) -> None:
    dense = save_tiny_whole(tmp_path / "dense", "smolvlm")
    said: list[str] = []
    first, second = (resolve_model(dense, on_status=said.append) for _ in range(2))
    assert first.whole == second.whole == dense
    assert first.path == second.path != dense
    assert sum("Taking the language model out" in line for line in said) == 1
    other = Path(shutil.copytree(dense, tmp_path / "other"))
    add("model.vision_model.extra", "model.text_model.norm.weight")(other)
    assert resolve_model(other).path != first.path
