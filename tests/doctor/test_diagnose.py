"""Test `doctor`'s compatibility verdicts against the sources of the rules and against the results of pruning."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

from amp_export import PlanChoices, diagnose
from amp_export.architectures import find_architecture, supported_model_types
from amp_export.checkpoints.reading import read_config
from amp_export.cli import app
from amp_export.doctor.diagnose import Diagnosis
from amp_export.doctor.loaders import EDGE_LLM, LLAMA_CPP, RUNTIMES, VLLM
from amp_export.doctor.rules import Status
from amp_export.doctor.verdicts import Verdict
from amp_export.errors import MissingExtraError, PlanError, RequestError, UnsupportedModelError
from amp_export.exporting.settings import choose_settings
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, Format, HeadPolicy, PerLayer, TargetName, Uniform
from amp_export.outputs.manifest import RewriteKind
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.scores import Scores
from amp_export.pruning.settings import PlanSettings
from amp_export.verb_options import DoctorOptions, ExportOptions
from tests.support import PROJECT
from tests.support.forms import one_of_each_form
from tests.support.plans import make_plan
from tests.support.tiny_models import BUILDABLE, FAMILY_FIELDS, TINY_CONFIG, family_fields

SEVEN_B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "vocab_size": 32000,
    "dtype": "float16",
}


def write_config(folder: Path, model_type: str, **fields: Any) -> Path:
    architecture = find_architecture(model_type)
    named = family_fields(model_type, {**TINY_CONFIG, **fields})
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"model_type": model_type, "architectures": [architecture.class_name], **named}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def diagnose_settled(folder: Path, settings: PlanSettings, options: DoctorOptions | None = None) -> Diagnosis:
    """Diagnose with every choice made, so that nothing depends on defaults."""
    choices = asdict(settings)
    return diagnose(folder, choices.pop("ratio"), PlanChoices(**choices), options)


STORED = (Uniform.RESIZE, Uniform.PAD)
"""Ways that any family may be stored in: that of Nemotron-NAS is one more form of a resized checkpoint."""


def verdicts(folder: Path, settings: PlanSettings, uniform: Uniform = Uniform.RESIZE) -> dict[str, Verdict]:
    found = diagnose_settled(folder, settings, DoctorOptions(uniform=uniform)).compatibility
    return {verdict.runtime: verdict for verdict in found}


def test_every_class_in_the_tables_is_one_of_transformers() -> None:
    for name in {*VLLM, *LLAMA_CPP, *EDGE_LLM}:
        assert hasattr(transformers, name), name


def test_every_rule_says_where_it_is_from() -> None:
    assert len({runtime.name for runtime in RUNTIMES}) == len(RUNTIMES)
    for runtime in RUNTIMES:
        assert runtime.rules
        assert all(rule.source for rule in runtime.rules), runtime.name
        named = [file for rule in runtime.rules for file in re.findall(r"\bexporters/\S+\.py", rule.source)]
        assert all((PROJECT / file).is_file() for file in named), runtime.name


def test_a_llama_with_22_heads(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", **SEVEN_B)
    found = verdicts(folder, PlanSettings(0.3, heads=HeadPolicy.GROUPS))
    assert {name for name, verdict in found.items() if not verdict.loads} == {"TensorRT Edge-LLM"}
    edge = found["TensorRT Edge-LLM"]
    assert "no MistralForCausalLM" in (edge.reason or "")
    assert edge.nearest is not None
    assert verdicts(folder, PlanSettings(edge.nearest, heads=HeadPolicy.GROUPS))["TensorRT Edge-LLM"].loads
    assert found["TensorRT"].status is Status.LOADS
    # where the scores may take every head, the option that leaves no other choice is named
    assert verdicts(folder, PlanSettings(0.3))["TensorRT Edge-LLM"].needs == "--heads none"


@pytest.mark.parametrize(
    ("model_type", "runtime", "status", "needs"),
    [
        ("qwen2", "vLLM", Status.LOADS_WITH, "--model-impl transformers"),
        ("qwen2", "llama.cpp (its own converter)", Status.CANNOT, None),
        ("qwen3", "vLLM", Status.LOADS, None),
        ("qwen3", "llama.cpp (its own converter)", Status.LOADS, None),
        ("granite", "vLLM", Status.LOADS, None),
        ("granite", "llama.cpp (its own converter)", Status.CANNOT, None),
        ("phi3", "llama.cpp (its own converter)", Status.CANNOT, None),
        ("opt", "llama.cpp (its own converter)", Status.CANNOT, None),
        ("qwen2", "llama.cpp, by --to gguf", Status.LOADS, None),
        ("granite", "llama.cpp, by --to gguf", Status.LOADS, None),
        ("opt", "llama.cpp, by --to gguf", Status.CANNOT, None),
        ("opt", "vLLM", Status.LOADS_WITH, "--uniform pad"),
        ("deepseek_v3", "ONNX Runtime", Status.LOADS_WITH, "--via trace"),
        ("deepseek_v3", "onnxruntime-genai", Status.CANNOT, None),
        ("mixtral", "ONNX Runtime", Status.LOADS, None),
        ("mixtral", "onnxruntime-genai", Status.LOADS, None),
        ("mixtral", "TensorRT", Status.CANNOT, None),
        ("cohere", "TensorRT", Status.LOADS_WITH, "--opset 20"),
    ],
)
def test_fewer_heads_in_every_layer(
    model_type: str, runtime: str, status: Status, needs: str | None, tmp_path: Path
) -> None:
    fields = {**SEVEN_B, "num_local_experts": 2} if model_type == "mixtral" else SEVEN_B
    folder = write_config(tmp_path, model_type, **fields)
    verdict = verdicts(folder, PlanSettings(0.3, heads=HeadPolicy.GROUPS))[runtime]
    assert (verdict.status, verdict.needs) == (status, needs), verdict
    assert (verdict.reason is None) == (status is Status.LOADS)


RUN_BY = {"ONNX Runtime": Format.ONNX, "TensorRT": Format.TENSORRT, "OpenVINO": Format.OPENVINO,
          "ExecuTorch": Format.EXECUTORCH, "llama.cpp, by --to gguf": Format.GGUF}  # fmt: skip
ROPES = ({"rope_type": "default", "rope_theta": 1e4}, {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
         {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})  # fmt: skip


def refusal(checkpoint: Any, to: Format) -> str | None:
    """The first line in which `export` refuses a model; a runtime or a GPU that is not here is no matter of it."""
    try:
        choose_settings(checkpoint, ExportOptions(to=to))
    except UnsupportedModelError as error:
        return str(error).splitlines()[0]
    except (MissingExtraError, RequestError):
        return None
    return None


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: rope["rope_type"])
@pytest.mark.parametrize("model_type", ["bert", "cohere", "llama", "mixtral", "t5", "vit"])
def test_what_an_exporter_refuses_before_work_is_refused_with_its_words(
    model_type: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"num_local_experts": 8} if model_type == "mixtral" else {}
    fields |= {"rope_parameters": rope} if model_type in ("cohere", "llama", "mixtral") else {}
    fields |= {"image_size": 12, "patch_size": 4} if model_type == "vit" else {}
    folder = write_config(tmp_path, model_type, num_key_value_heads=4, **fields)
    config = read_config(folder)[1]
    snap = 8 if config.architecture.mlp.has_experts else 1
    found = verdicts(folder, PlanSettings(0.1, heads=HeadPolicy.NONE, snap=snap))
    checkpoint: Any = SimpleNamespace(config=config, widths=tuple(site.widths for site in config.sites))
    for name, to in RUN_BY.items():
        said = refusal(checkpoint, to)
        loads = found[name].status in (Status.LOADS, Status.LOADS_WITH)
        assert (found[name].reason if not loads else None) == said


def test_neurons_that_a_converter_takes_for_granted(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "falcon", **SEVEN_B)
    found = verdicts(folder, PlanSettings(0.3, heads=HeadPolicy.NONE))
    for runtime in ("vLLM", "llama.cpp (its own converter)"):
        assert found[runtime].status is Status.CANNOT
        assert "4 x hidden_size" in (found[runtime].reason or "")
        assert found[runtime].nearest is None


def test_layers_that_differ(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", **SEVEN_B)
    settings = PlanSettings(0.3, heads=HeadPolicy.GROUPS, heads_per_layer=PerLayer.GLOBAL)
    found = verdicts(folder, settings)
    assert found["transformers"].needs == "trust_remote_code=True"
    assert found["ONNX Runtime"].status is Status.LOADS
    assert found["TensorRT"].status is Status.LOADS
    assert found["onnxruntime-genai"].status is Status.LOADS
    for runtime in ("vLLM", "llama.cpp (its own converter)"):
        assert found[runtime].needs == "--one-width", runtime
    # with one width it is a Mistral, whose heads need not divide the hidden size
    assert found["TensorRT Edge-LLM"].needs == "--uniform pad"
    padded = verdicts(folder, settings, Uniform.PAD)
    assert padded["transformers"].status is padded["vLLM"].status is Status.LOADS
    neurons = PlanSettings(0.3, heads=HeadPolicy.GROUPS, neurons_per_layer=PerLayer.GLOBAL)
    assert verdicts(folder, neurons)["onnxruntime-genai"].status is Status.LOADS
    assert diagnose_settled(folder, neurons).chosen is not None
    assert all(option.shared_out for option in diagnose_settled(folder, neurons).options)


def test_what_the_scores_decide_is_not_known(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "qwen2", **SEVEN_B)
    settings = PlanSettings(0.3, heads=HeadPolicy.GROUPS, heads_per_layer=PerLayer.GLOBAL)
    assert verdicts(folder, settings, Uniform.PAD)["llama.cpp (its own converter)"].status is Status.NOT_KNOWN


def test_position_biases_that_all_layers_share_are_refused_before_scoring(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "t5")
    with pytest.raises(PlanError, match="position biases"):
        diagnose_settled(folder, PlanSettings(0.1, snap=1, heads_per_layer=PerLayer.GLOBAL))


def test_a_text_needs_an_end_for_genai(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", **SEVEN_B, eos_token_id=None)
    settings = PlanSettings(0.3, heads=HeadPolicy.GROUPS)
    assert verdicts(folder, settings)["onnxruntime-genai"].status is Status.CANNOT
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    assert verdicts(folder, settings)["onnxruntime-genai"].status is Status.LOADS


@pytest.mark.parametrize(
    ("uniform", "model_type"),
    [
        *((Uniform.RESIZE, each) for each in supported_model_types()),
        *((Uniform.PAD, each) for each in one_of_each_form()),
    ],
)
@pytest.mark.parametrize("per_layer", PerLayer)
def test_transformers_loads_what_pruning_writes(
    model_type: str, per_layer: PerLayer, uniform: Uniform, tmp_path: Path
) -> None:
    """Of every family resized layers are loaded, and of one of each form padded ones."""
    # heads are shared out among the layers that have some
    more = {} if find_architecture(model_type).attention_layers is None else {"num_hidden_layers": 6}
    folder = write_config(tmp_path, model_type, num_key_value_heads=4, **FAMILY_FIELDS.get(model_type, {}), **more)
    raw, config = read_config(folder)
    heads = HeadPolicy.GROUPS if config.num_key_value_heads > 1 else HeadPolicy.WITHIN
    all_stay = bool(config.tied_layers or config.architecture.heads_stay)
    heads = HeadPolicy.NONE if all_stay else heads
    snap = 8 if config.architecture.mlp.has_experts else 1
    # where no head may go, a larger ratio would take the most that may go of every MLP
    ratio = 0.1 if all_stay else 0.2
    settings = PlanSettings(ratio, heads=heads, snap=snap, heads_per_layer=per_layer, neurons_per_layer=per_layer)
    random = np.random.default_rng(0)
    experts = (4,) if config.architecture.mlp.has_experts else ()
    # the more a layer's importance lies in few of its parts, the less of it is kept
    scores = Scores(
        tuple(random.random(config.num_attention_heads, np.float32) ** (3 * n + 1) for n, _ in enumerate(config.sites)),
        tuple(
            random.random((*experts, config.intermediate_size), np.float32) ** (3 * n + 1)
            for n, _ in enumerate(config.sites)
        ),
        "random",
    )
    pad = uniform is Uniform.PAD
    try:
        plan = make_plan(raw, config, scores, settings)
        real = rewrite(raw, config, plan.widths, pad=pad)
    except PlanError:
        pytest.skip("this family cannot be zero-padded")
    if per_layer is PerLayer.GLOBAL:
        assert len(set(plan.widths)) > 1
    verdict = verdicts(folder, settings, uniform)["transformers"]
    resized = real.kind is RewriteKind.RESIZED_CLASS
    assert verdict.needs == ("trust_remote_code=True" if resized else None)


@pytest.mark.parametrize("model_type", BUILDABLE)
def test_every_decoder_gets_a_word_from_every_runtime(model_type: str, tmp_path: Path) -> None:
    folder = write_config(tmp_path, model_type, **FAMILY_FIELDS.get(model_type, {}))
    snap = 8 if find_architecture(model_type).mlp.has_experts else 1
    found = verdicts(folder, PlanSettings(0.2, snap=snap))
    assert found.keys() == {runtime.name for runtime in RUNTIMES}
    for verdict in found.values():
        assert verdict.loads or verdict.reason
        assert (verdict.status is Status.LOADS_WITH) == (verdict.needs is not None)


def test_the_table_fits_and_json_stands_alone(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", **SEVEN_B)
    command = ["doctor", "--model", str(folder), "--ratio", "0.3"]
    shown = CliRunner().invoke(app, command)
    assert (shown.exit_code, shown.stdout) == (0, "")
    table = shown.stderr[
        shown.stderr.index("What loads the result") : shown.stderr.index("According to their source code")
    ]
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "loads with" in table
    result = CliRunner().invoke(app, [*command, "--json"])
    content = json.loads(result.stdout)
    assert [verdict["runtime"] for verdict in content["compatibility"]] == [runtime.name for runtime in RUNTIMES]
    assert content["options"][0]["shared_out"] is True
    assert content["chosen"] is None


@pytest.mark.parametrize("target", [TargetName.ORIN_NANO, TargetName.RTX3090])
@pytest.mark.parametrize("heads", [HeadPolicy.AUTO, HeadPolicy.NONE])
def test_a_device_is_shown_in_tables_that_fit(target: TargetName, heads: HeadPolicy, tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", **SEVEN_B)
    shown = CliRunner().invoke(app, ["doctor", "--model", str(folder), "--target", target, "--heads", heads])
    assert (shown.exit_code, shown.stdout) == (0, "")
    table = shown.stderr[shown.stderr.index("Memory in GB") :]
    assert "Upper bound of tokens per second" in table
    assert "not measured" in table
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "…" not in table
    assert ("host" in table) == (not TARGETS[target].is_unified)
    assert ("The scores decide" in table) == (heads is HeadPolicy.AUTO)


def test_the_pruned_models_of_a_device_are_the_options(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", **SEVEN_B)
    for heads, pruned in ((HeadPolicy.AUTO, 2), (HeadPolicy.GROUPS, 1), (HeadPolicy.NONE, 1)):
        diagnosis = diagnose_settled(
            folder, PlanSettings(0.3, heads=heads, target=TargetName.THOR), DoctorOptions(max_context=100)
        )
        assert diagnosis.memory is not None
        halves = [fit for fit in diagnosis.memory.fits if fit.dtype is Dtype.FLOAT16]
        assert [fit.model for fit in halves] == ["dense", *["pruned"] * pruned]
        for fit in halves[1:]:
            assert fit.option is not None
            option = diagnosis.options[fit.option]
            assert fit.weight_bytes == 2 * round(diagnosis.parameters * (1 - option.candidate.ratio))
            assert fit.cache_bytes == 2 * 2 * option.candidate.widths.key_value_heads * 128 * 8 * 100
            assert diagnosis.chosen in (None, option)
        assert halves[1].cache_bytes >= halves[-1].cache_bytes
    content = json.loads(diagnosis.to_json())
    assert content["target"] == content["memory"]["target"] == "thor"
    assert content["memory"]["fits"][0]["run"]["room"] == "fits"


def test_layers_that_share_counts_out_count_by_their_average_and_padded_ones_by_the_widest(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", **SEVEN_B)
    settings = PlanSettings(
        0.3, heads=HeadPolicy.GROUPS, target=TargetName.THOR, neurons_per_layer=PerLayer.GLOBAL, snap=1
    )
    weights = []
    for uniform in STORED:
        diagnosis = diagnose_settled(folder, settings, DoctorOptions(uniform=uniform))
        assert diagnosis.memory is not None
        weights.append(diagnosis.memory.fits[-1].weight_bytes)
    average, widest = weights
    assert average == pytest.approx(2 * 0.7 * diagnosis.parameters, rel=0.001)
    assert average < widest <= 2 * diagnosis.parameters


def test_where_nothing_can_be_said_of_a_device(tmp_path: Path) -> None:
    llama = write_config(tmp_path / "llama", "llama", **SEVEN_B)
    bert = write_config(tmp_path / "bert", "bert")
    on_cpu = CliRunner().invoke(app, ["doctor", "--model", str(llama)])
    assert "tokens per second" not in on_cpu.stderr
    assert diagnose_settled(llama, PlanSettings(0.3)).memory is None
    command = ["doctor", "--model", str(bert), "--ratio", "0.1", "--snap", "1", "--target", "l4"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.stderr
    assert "No memory estimate for L4 24GB" in shown.stderr
    for model, target, options, words in (
        (llama, "cpu", ["--max-batch", "2", "--max-context", "9"], "--max-batch and --max-context set limits"),
        (bert, "l4", ["--max-context", "9"], "--max-context sets limits"),
        (llama, "l4", ["--max-context", "1"], "leave no room for any input"),
        (llama, "l4", ["--max-context", "9999"], "9999, but the model's context is 128 tokens"),
        (llama, "l4", ["--max-batch", "0"], "--max-batch"),
    ):
        refused = CliRunner().invoke(app, ["doctor", "--model", str(model), "--target", target, *options])
        assert refused.exit_code == 2, refused.stderr
        assert words in refused.stderr
