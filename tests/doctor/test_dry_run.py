"""What `doctor` accepts, prune, export and validate accept; what one refuses, all refuse with the same words."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from amp_export import ExportOptions, PlanChoices, PruneOptions, diagnose, export, prune, validate
from amp_export.architectures import find_architecture, supported_model_types
from amp_export.architectures._refusals import supported_classes
from amp_export.checkpoints import loading
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.doctor.rules import Status
from amp_export.errors import AmpExportError
from amp_export.options import Allocation, HeadPolicy
from amp_export.pruning import dry_run
from tests.support.bad_checkpoints import set_fields
from tests.support.forms import ALL_FAMILIES
from tests.support.tiny_models import FAMILY_FIELDS, TINY_CONFIG, family_fields, save_tiny_model, save_tiny_samples

RATIO = 0.1


def classes_of(model_type: str) -> list[str]:
    """All model classes that transformers has for a family."""
    module = importlib.import_module(getattr(transformers, find_architecture(model_type).class_name).__module__)
    found = [getattr(module, name) for name in module.__all__]
    return [
        each.__name__
        for each in found
        if isinstance(each, type)
        and issubclass(each, transformers.PreTrainedModel)
        and not each.__name__.endswith("PreTrainedModel")
        and each.config_class.model_type == model_type
    ]


ALL = [(model_type, name) for model_type in supported_model_types() for name in classes_of(model_type)]
ACCEPTED = [(model_type, name) for model_type, name in ALL if name in supported_classes(find_architecture(model_type))]
REFUSED = [pair for pair in ALL if pair not in ACCEPTED]

REPRESENTATIVES = [
    ("bert", "BertForPreTraining"),
    ("bert", "BertForNextSentencePrediction"),
    ("clip_vision_model", "CLIPVisionModelWithProjection"),
    ("distilbert", "DistilBertForQuestionAnswering"),
    ("hubert", "HubertForSequenceClassification"),
    ("llama", "LlamaForCausalLM"),
    ("roberta", "RobertaForSequenceClassification"),
    ("vit", "ViTModel"),
]
"""One family of each kind of class; test_families.py takes every family's default class the whole way."""

TRACED = ("hubert", "HubertForSequenceClassification")
"""The class that is traced for all that are: tracing takes seconds, and what pruning writes has been reloaded."""


def refusal(work: Callable[[], object]) -> str | None:
    """The words in which something is refused, or None."""
    try:
        work()
    except AmpExportError as error:
        return str(error) if error.exit_code == 2 else None
    return None


def snap_of(folder: Path) -> int:
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    return 8 if find_architecture(model_type).mlp.has_experts else 1


def ask_doctor(folder: Path) -> str | None:
    return refusal(lambda: diagnose(folder, RATIO, PlanChoices(snap=snap_of(folder))))


def ask_prune(folder: Path, samples: Path | None = None) -> str | None:
    options = PruneOptions(ratio=RATIO, snap=snap_of(folder), calibration=samples)
    return refusal(lambda: prune(folder, folder.parent / "out", options))


def ask_export(folder: Path) -> str | None:
    """Ask export, and then validate, whose reference is transformers' own model."""

    def work() -> None:
        export(folder, folder.parent / "dense")
        assert validate(folder.parent / "dense").holds

    return refusal(work)


def test_the_families_have_classes_of_both_kinds() -> None:
    accepted = {name for _, name in ACCEPTED}
    assert {"T5EncoderModel", "Qwen3Model", "BertForMultipleChoice", "LlamaForSequenceClassification"}.isdisjoint(
        accepted
    )
    assert {find_architecture(model_type).class_name for model_type in supported_model_types()} <= accepted
    assert set(REPRESENTATIVES) <= set(ACCEPTED)


@pytest.mark.parametrize(("model_type", "name"), REFUSED)
def test_a_class_that_is_not_supported_is_refused_by_its_name(model_type: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    fields = family_fields(model_type, {**TINY_CONFIG, **FAMILY_FIELDS.get(model_type, {})})
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [name], **fields}))
    said = ask_doctor(folder)
    assert said is not None
    assert name in said
    assert said == ask_prune(folder) == ask_export(folder)


@pytest.mark.parametrize(("model_type", "name"), ACCEPTED)
def test_doctor_accepts_each_supported_class(model_type: str, name: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, class_name=name, num_hidden_layers=1)
    save_tiny_samples(folder)
    assert diagnose(folder, RATIO, PlanChoices(snap=snap_of(folder))).notes == ()


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "name"), REPRESENTATIVES)
def test_what_doctor_accepts_goes_the_whole_way(model_type: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, class_name=name, num_hidden_layers=1)
    samples = save_tiny_samples(folder)
    # fewer heads make most encoders a class that resizes its layers
    heads = HeadPolicy.GROUPS
    how: dict[str, Any] = {"snap": 1, "heads": heads, "allocation": Allocation.BALANCED}
    diagnosis = diagnose(folder, RATIO, PlanChoices(**how))
    found = prune(folder, tmp_path / "out", PruneOptions(ratio=RATIO, calibration=samples, **how))
    assert diagnosis.chosen is not None
    assert found.rewrite.kind is diagnosis.chosen.rewrite.kind
    if ALL_FAMILIES or (model_type, name) == TRACED or find_architecture(model_type).computation is not None:
        export(found.folder, tmp_path / "out")
        assert validate(tmp_path / "out").holds


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def work(folder: Path) -> None:
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})

    return work


def rename(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


FIRST = {
    "llama": "model.layers.0.mlp.up_proj.weight",
    "bert": "bert.encoder.layer.0.intermediate.dense.weight",
    "mixtral": "model.layers.0.block_sparse_moe.experts.0.w1.weight",
}

BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "padding beyond the vocabulary": ("llama", set_fields(pad_token_id=101), r"pad_token_id \(101\) is beyond"),
    "heads that do not divide": (
        "llama",
        set_fields(num_attention_heads=3, num_key_value_heads=3),
        "MistralForCausalLM",
    ),
    "heads of an encoder": ("bert", set_fields(num_attention_heads=5), "is not a multiple of num_attention_heads"),
    "relative positions": ("bert", set_fields(position_embedding_type="relative_key"), "position_embedding_type"),
    "another activation": ("bert", set_fields(hidden_act="none of them"), "cannot load it: KeyError"),
    "a field of another type": (
        "bert",
        set_fields(layer_norm_eps="small"),
        "layer_norm_eps is 'small', where a number",
    ),
    "a field of another type that only transformers reads": (
        "bert",
        set_fields(initializer_range="small"),
        "cannot load it: Strict",
    ),
    "a class of another family": ("llama", set_fields(architectures=["MistralForCausalLM"]), "MistralForCausalLM"),
    "fewer layers than the files": ("bert", set_fields(num_hidden_layers=1), "do not belong to a BertForMaskedLM"),
    "more layers than the files": ("bert", set_fields(num_hidden_layers=3), "needs are missing"),
    "other widths": ("bert", set_fields(intermediate_size=40), "have other shapes"),
    "other widths of a decoder": ("llama", set_fields(intermediate_size=40), "has the shape"),
    "other widths of experts": ("mixtral", set_fields(intermediate_size=40), "has the shape"),
    **{
        f"a missing tensor of a {name}": (name, change_tensors(lambda tensors, each=each: tensors.pop(each)), "missing")
        for name, each in FIRST.items()
    },
    **{
        f"an unknown tensor of a {name}": (
            name,
            change_tensors(lambda tensors, each=each: tensors.update({f"{each}_2": torch.ones(2)})),
            "do not belong to a",
        )
        for name, each in FIRST.items()
    },
    # a harmless part is a whole one: "cls" is, and what begins so is not
    "a name that begins like a harmless one": (
        "bert",
        change_tensors(lambda tensors: tensors.update({"clsx.weight": torch.ones(2)})),
        "clsx.weight",
    ),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("sources")

    def source(model_type: str) -> Path:
        if not (folder / model_type).is_dir():
            save_tiny_samples(save_tiny_model(folder / model_type, model_type, num_hidden_layers=2))
        return folder / model_type

    return source


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_refused_by_all_with_the_same_words(
    case: str, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    model_type, change, message = BROKEN[case]
    folder = Path(shutil.copytree(sources(model_type), tmp_path / "checkpoint"))
    change(folder)
    said = ask_doctor(folder)
    assert said is not None
    assert re.search(message, said), said
    assert said == ask_prune(folder) == ask_export(folder)
    assert not (tmp_path / "out").exists()


HARMLESS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "heads of pre-training": (
        "bert",
        change_tensors(
            lambda tensors: tensors.update(
                {
                    "cls.seq_relationship.weight": torch.ones(2, 32),
                    "bert.pooler.dense.weight": torch.ones(32, 32),
                    "bert.embeddings.position_ids": torch.arange(8)[None],
                }
            )
        ),
    ),
    "frequencies of old files": (
        "llama",
        change_tensors(lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})),
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_known_to_be_harmless_is_accepted(case: str, sources: Callable[[str], Path], tmp_path: Path) -> None:
    model_type, change = HARMLESS[case]
    folder = Path(shutil.copytree(sources(model_type), tmp_path / "checkpoint"))
    change(folder)
    assert ask_doctor(folder) is None
    assert ask_prune(folder) is None


def test_the_image_encoder_of_a_whole_clip_is_accepted(tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**vision, "vocab_size": 101, "max_position_embeddings": 16}
    config = transformers.CLIPConfig(vision_config={**vision, "image_size": 12, "patch_size": 4}, text_config=text)
    folder = tmp_path / "checkpoint"
    transformers.CLIPModel(config).save_pretrained(folder)
    config.vision_config.architectures = ["CLIPVisionModel"]
    config.vision_config.save_pretrained(folder)
    assert ask_doctor(folder) is None
    assert ask_prune(folder, save_tiny_samples(folder)) is None


def test_a_model_without_its_head_is_read_from_the_files_of_one_with_it(
    sources: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sources("bert"), tmp_path / "checkpoint"))
    pooler = {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
    change_tensors(lambda tensors: tensors.update(pooler))(folder)
    set_fields(architectures=["BertModel"])(folder)
    assert ask_doctor(folder) is None
    assert ask_prune(folder) is None


def test_dynamic_frequencies_are_refused_before_scoring(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    folder = save_tiny_model(tmp_path / "checkpoint", "llama", num_hidden_layers=1, rope_parameters=rope)
    save_tiny_samples(folder)
    verdicts = {each.runtime: each for each in diagnose(folder, RATIO, PlanChoices(snap=1)).compatibility}
    assert verdicts["ONNX Runtime"].status is Status.CANNOT
    said = refusal(lambda: export(folder, tmp_path / "out", ExportOptions()))
    assert said is not None
    assert (verdicts["ONNX Runtime"].reason or "?") in said
    assert "rope_type 'dynamic'" in said


def fail_at_letters(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    del tokenizer["model"]["vocab"]["e"]
    tokenizer["model"] |= {"unk_token": "lost"}
    file.write_text(json.dumps(tokenizer))


def remove_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def number_tokens_higher(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["e"] = 999
    file.write_text(json.dumps(tokenizer))


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (remove_tokenizer, "holds no tokenizer"),
    "fails": (fail_at_letters, "cannot"),
    "of another model": (number_tokens_higher, "produces token id 999"),
}


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_a_tokenizer_that_cannot_be_used_is_no_reason_not_to_export(
    model_type: str, case: str, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    change, message = UNUSABLE[case]
    folder = Path(shutil.copytree(sources(model_type), tmp_path / "checkpoint"))
    change(folder)
    said = ask_prune(folder)
    assert said is not None
    assert message in said
    assert [said in note for note in diagnose(folder, RATIO, PlanChoices(snap=1)).notes] == [True]
    if model_type == "llama":
        assert ask_export(folder) is None


def test_a_model_without_a_tokenizer_is_pruned_by_a_plan_or_by_scores(
    sources: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sources("llama"), tmp_path / "checkpoint"))
    prune(folder, tmp_path / "first", PruneOptions(ratio=RATIO, snap=1))
    remove_tokenizer(folder)
    plan = PruneOptions(plan=tmp_path / "first/plan.json")
    scores = PruneOptions(ratio=RATIO, snap=1, scores=tmp_path / "first/scores.safetensors")
    for name, options in {"plan": plan, "scores": scores}.items():
        found = prune(folder, tmp_path / name, options)
        assert found.quality is None
        assert any("quality is not measured" in note for note in found.notes)
    texts = tmp_path / "prompts.txt"
    texts.write_text("Say this.\n" * 9)
    said = refusal(lambda: prune(folder, tmp_path / "texts", PruneOptions(plan=plan.plan, calibration=texts)))
    assert said is not None
    assert "holds no tokenizer" in said


def test_prune_rehearses_once(sources: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[Path] = []
    for module in (dry_run, loading):
        monkeypatch.setattr(module, "rehearse_loading", rehearsed.append)
    folder = sources("llama")
    prune(folder, tmp_path / "out", PruneOptions(ratio=RATIO, snap=1))
    assert rehearsed == [folder]
    loading.load_model(folder)
    assert rehearsed == [folder] * 2
