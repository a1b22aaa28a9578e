"""Engines for GPUs that are not here, built for real by TensorRT-RTX, which needs none."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import MissingExtraError, ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.dispatch import exported_logits
from amp_export.exporters.onnx import export as export_onnx
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.exporters.tensorrt import (
    EngineFacts,
    EngineSettings,
    Limits,
    building,
    decoder_profiles,
    export,
    load_flavor,
)
from amp_export.exporters.tensorrt.building import BuildSettings, build_engine, create_config
from amp_export.exporters.tensorrt.engines import ENGINE, FACTS
from amp_export.exporters.tensorrt.flavors import TensorRtFlavor, builds_with_new_operators
from amp_export.exporters.tensorrt.problems import explain_build
from amp_export.exporters.tensorrt.profiles import Profile
from amp_export.exporters.tensorrt.progress import PARTS, BuildProgress
from amp_export.options import Dtype, EngineRuntime, Logits, Opset, Phase, WeightFormat
from tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

AXES = {
    "input_ids": ("batch_size", "sequence_length"),
    "attention_mask": ("batch_size", "total_sequence_length"),
    "position_ids": ("batch_size", "sequence_length"),
    "past_key_values.0.key": ("batch_size", 2, "past_sequence_length", 8),
}


@pytest.fixture(scope="module")
def runtime() -> TensorRtFlavor:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed", exc_type=ImportError)
    return load_flavor(EngineRuntime.TENSORRT_RTX)


@pytest.fixture(scope="module")
def graph(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph") / "onnx"
    export_onnx(open_checkpoint(tiny_llama), folder, dtype=Dtype.FLOAT16)
    return folder


def settings(capability: str | None = "8.9") -> EngineSettings:
    return EngineSettings(Limits(max_batch=2, max_context=64), capability)


def test_float32_is_not_rounded_to_tf32(runtime: TensorRtFlavor) -> None:
    trt = runtime.module
    builder = trt.Builder(trt.Logger())
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32), "it is on by default"
    config = create_config(builder, runtime, BuildSettings((), compute_capability="8.9"))
    assert not config.get_flag(trt.BuilderFlag.TF32)


@given(st.integers(1, 64), st.integers(2, 10_000))
def test_profiles_take_every_length_of_prefill_and_decode(batch: int, context: int) -> None:
    prefill, decode = decoder_profiles(AXES, Limits(batch, context))
    for profile in (prefill, decode):
        assert set(profile.ranges) == set(AXES)
        for shapes in profile.ranges.values():
            bounds = zip(shapes.minimum, shapes.optimum, shapes.maximum, strict=True)
            assert all(low <= best <= high for low, best, high in bounds)
    assert prefill.ranges["input_ids"].maximum == (batch, context)
    assert prefill.ranges["past_key_values.0.key"].maximum == (batch, 2, 0, 8)
    assert decode.ranges["input_ids"].minimum == (1, 1)
    assert decode.ranges["input_ids"].maximum == (batch, 1)
    # the last token that can be decoded has the context's last place
    assert decode.ranges["attention_mask"].maximum == (batch, context)
    assert decode.ranges["past_key_values.0.key"].minimum == (1, 2, 1, 8)
    assert decode.ranges["past_key_values.0.key"].maximum == (batch, 2, context - 1, 8)


@pytest.mark.parametrize(
    ("limits", "said"), [(Limits(0, 64), "leave no room for any input"), (Limits(1, 65), "is 64 tokens long")]
)
def test_limits_that_make_no_sense_are_refused(limits: Limits, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        limits.check(64)


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0"])
def test_engines_are_built_for_gpus_that_are_not_here(
    graph: Path, tmp_path: Path, runtime: TensorRtFlavor, capability: str
) -> None:
    told: list[tuple[int, int]] = []
    made = export(graph, tmp_path / "engine", runtime, settings(capability), on_progress=lambda *now: told.append(now))
    assert told[-1] == (PARTS, PARTS)
    assert told == sorted(told)
    assert (tmp_path / "engine" / ENGINE).stat().st_size == made.engine_bytes > 10_000
    assert made.compute_capability == capability
    assert EngineFacts.load(tmp_path / "engine") == made
    described = onnx.load(graph / "model.onnx", load_external_data=False).graph
    # an input with a default is a constant of the engine
    assert list(made.inputs) == [value.name for value in described.input if value.name != "num_logits_to_keep"]
    assert list(made.outputs) == [value.name for value in described.output]
    assert {binding.dtype for name, binding in made.inputs.items() if "past" in name} == {"float16"}
    assert made.inputs["input_ids"].axes == ("batch_size", "sequence_length")
    assert [profile.name for profile in made.profiles] == ["prefill", "decode"]
    assert (tmp_path / "engine" / "config.json").is_file()


def test_another_gpu_gets_another_engine(graph: Path, tmp_path: Path, runtime: TensorRtFlavor) -> None:
    engines = []
    for capability in ("8.0", "12.0"):
        export(graph, tmp_path / capability, runtime, settings(capability))
        engines.append((tmp_path / capability / ENGINE).read_bytes())
    assert engines[0] != engines[1]


@pytest.mark.parametrize("opset", Opset)
@pytest.mark.parametrize("dtype", Dtype)
def test_every_precision_is_built_of_old_and_new_operators(
    tiny_llama: Path, tmp_path: Path, runtime: TensorRtFlavor, dtype: Dtype, opset: Opset
) -> None:
    export_onnx(open_checkpoint(tiny_llama), tmp_path / "onnx", dtype=dtype, opset=opset)
    made = export(tmp_path / "onnx", tmp_path / "engine", runtime, settings())
    assert made.dtype is dtype
    assert made.opset == opset.version
    # what is spelled out has no such operator
    assert bool(made.attentions) is (opset is not Opset.OPSET_20)


def test_pairs_of_neighbours_take_old_operators(tmp_path: Path, runtime: TensorRtFlavor) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "cohere", "cohere"))
    assert not builds_with_new_operators(checkpoint.config)
    export_onnx(checkpoint, tmp_path / "new", dtype=Dtype.FLOAT16)
    with pytest.raises(RequestError, match="--opset 20"):
        export(tmp_path / "new", tmp_path / "engine", runtime, settings())
    export_onnx(checkpoint, tmp_path / "old", dtype=Dtype.FLOAT16, opset=Opset.OPSET_20)
    assert export(tmp_path / "old", tmp_path / "engine", runtime, settings()).engine_bytes


@pytest.mark.parametrize(
    ("weights", "capability"),
    [(WeightFormat.INT4, "8.6"), (WeightFormat.INT4, "12.0"), (WeightFormat.FP8, "8.9"), (WeightFormat.FP8, "12.0")],
)
def test_weights_of_fewer_bits_stay_so_in_engines(
    tmp_path: Path, runtime: TensorRtFlavor, weights: WeightFormat, capability: str
) -> None:
    wide = {"head_dim": 64, "hidden_size": 256, "intermediate_size": 1024}
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama", **wide))
    sizes = {}
    for form in (None, weights):
        quantization = Quantization(form, None if form is WeightFormat.FP8 else 128) if form is not None else None
        export_onnx(checkpoint, tmp_path / f"{form}", dtype=Dtype.FLOAT16, quantization=quantization)
        made = export(tmp_path / f"{form}", tmp_path / f"engine-{form}", runtime, settings(capability))
        sizes[form] = made.engine_bytes
    # of weights as small as these, the builder also keeps copies in float16
    assert sizes[weights] < 0.9 * sizes[None]


def test_a_gpu_without_units_for_floats_of_8_bits_is_named(tmp_path: Path, runtime: TensorRtFlavor) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama"))
    quantization = Quantization(WeightFormat.FP8, None)
    export_onnx(checkpoint, tmp_path / "onnx", dtype=Dtype.FLOAT16, quantization=quantization)
    with pytest.raises(RequestError, match=r"fp8_e4m3(.|\n)*It has no units for fp8\. Export with --weights int4"):
        export(tmp_path / "onnx", tmp_path / "engine", runtime, settings("8.6"))


@pytest.mark.parametrize("opset", Opset)
def test_an_engine_may_compute_the_last_logits(tmp_path: Path, runtime: TensorRtFlavor, opset: Opset) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "llama"))
    export_onnx(checkpoint, tmp_path / "onnx", dtype=Dtype.FLOAT16, opset=opset, logits=Logits.LAST)
    made = export(tmp_path / "onnx", tmp_path / "engine", runtime, settings())
    assert made.outputs["logits"].axes == ("batch_size", 1, 101)
    assert exported_logits(tmp_path / "engine") is Logits.LAST


def test_gpus_that_a_runtime_does_not_know_are_refused(graph: Path, tmp_path: Path, runtime: TensorRtFlavor) -> None:
    with pytest.raises(RequestError, match=r"compute capability 8\.7, only for .*8\.9.*\n.*bundle"):
        export(graph, tmp_path / "engine", runtime, settings("8.7"))
    with pytest.raises(RequestError, match=r"no GPU in this machine.*\n.*--target"):
        export(graph, tmp_path / "engine", runtime, settings(None))
    assert not (tmp_path / "engine").exists()


def test_the_runtime_of_the_gpu_in_the_machine_builds_for_no_other() -> None:
    class Module:
        __version__ = "10.3.0"

    other = TensorRtFlavor(EngineRuntime.TENSORRT, Module)
    other.check_compute_capability(None, present="8.7")
    other.check_compute_capability("8.7", present="8.7")
    with pytest.raises(RequestError, match=r"8\.9 was requested, but the GPU here has 8\.7"):
        other.check_compute_capability("8.9", present="8.7")
    assert other.newest_opset == 20
    assert other.label == "TensorRT 10.3.0"


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=r"amp-export\[tensorrt-rtx\]"):
        load_flavor()
    with pytest.raises(MissingExtraError, match=r"amp-export\[tensorrt\]"):
        load_flavor(EngineRuntime.TENSORRT)


def save_graph(folder: Path, node: Any) -> Path:
    half = onnx.TensorProto.FLOAT16
    past = onnx.helper.make_tensor_value_info("past_key_values.0.key", half, ["batch_size", 4, 4])
    output = onnx.helper.make_tensor_value_info("y", half, ["batch_size"])
    opsets = [onnx.helper.make_opsetid("", 22), onnx.helper.make_opsetid("com.microsoft", 1)]
    made = onnx.helper.make_graph([node], "graph", [past], [output])
    folder.mkdir()
    onnx.save(onnx.helper.make_model(made, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    return folder


@pytest.mark.parametrize(("operator", "domain"), [("Det", ""), ("GroupQueryAttention", "com.microsoft")])
def test_an_operator_that_cannot_be_taken_is_named_with_its_layer(
    tmp_path: Path, runtime: TensorRtFlavor, operator: str, domain: str
) -> None:
    node = onnx.helper.make_node(
        operator, ["past_key_values.0.key"], ["y"], name="model.layers.3.self_attn", domain=domain
    )
    folder = save_graph(tmp_path / "graph", node)
    with pytest.raises(UnsupportedModelError, match=rf"{operator} at model\.layers\.3\.self_attn"):
        build_engine(folder / "model.onnx", runtime, BuildSettings(profiles=(), compute_capability="8.9"))


@pytest.mark.parametrize(("content", "said"), [(b"no graph", "damaged"), (None, "holds no model.onnx")])
def test_no_graph_and_a_damaged_one_are_told(
    tmp_path: Path, runtime: TensorRtFlavor, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        export(tmp_path, tmp_path / "engine", runtime, settings())


def test_what_is_parsed_into_nothing_is_no_graph(tmp_path: Path, runtime: TensorRtFlavor) -> None:
    (tmp_path / "model.onnx").write_bytes(b"hello")
    with pytest.raises(ModelError, match="is not a graph"):
        build_engine(tmp_path / "model.onnx", runtime, BuildSettings(profiles=(), compute_capability="8.9"))


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("Attention operation was not supported by a dedicated kernel.", "--opset 20"),
        ("[defaultAllocator.cpp] Error Code 2: OutOfMemory (Requested size was 9 bytes.)", "smaller --max-batch"),
        ("Error Code 1: Cuda Runtime (no CUDA-capable device is detected)", "nvidia-smi"),
    ],
)
def test_what_a_builder_complains_of_is_turned_into_advice(
    tmp_path: Path, runtime: TensorRtFlavor, message: str, advice: str
) -> None:
    error = explain_build(tmp_path / "model.onnx", runtime, [message])
    assert message[:30] in str(error)
    assert advice in str(error)


def test_progress_of_phases_within_phases_only_grows() -> None:
    told: list[int] = []
    progress = BuildProgress(lambda done, _: told.append(done))
    progress.start("all", None, 2)
    progress.start("first", "all", 4)
    for step in range(4):
        progress.complete_step("first", step)
    progress.finish("first")
    progress.complete_step("all", 0)
    progress.start("second", "all", 2)
    progress.complete_step("second", 0)
    progress.finish("second")
    progress.finish("all")
    assert told == [125, 250, 375, 500, 750, 1000]


def test_a_build_that_is_interrupted_stops(graph: Path, tmp_path: Path, runtime: TensorRtFlavor) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(graph, tmp_path / "engine", runtime, settings(), on_progress=interrupt)
    assert not (tmp_path / "engine").exists()


@pytest.fixture
def facts(graph: Path, tmp_path: Path, runtime: TensorRtFlavor) -> EngineFacts:
    return export(graph, tmp_path / "engine", runtime, settings())


def test_an_engine_is_refused_where_it_cannot_run(facts: EngineFacts, tmp_path: Path, runtime: TensorRtFlavor) -> None:
    facts.check_runs_on(runtime, present="8.9")
    with pytest.raises(RequestError, match="this machine has none"):
        facts.check_runs_on(runtime, present=None)
    with pytest.raises(RequestError, match=r"for compute capability 8\.9, but the GPU here has 12\.0"):
        facts.check_runs_on(runtime, present="12.0")

    class Other:
        __version__ = "10.16.1"

    with pytest.raises(RequestError, match=r"built with tensorrt-rtx .*, but tensorrt 10\.16\.1 is installed"):
        facts.check_runs_on(TensorRtFlavor(EngineRuntime.TENSORRT, Other), present="8.9")
    for content, said in (("{", r"is not valid JSON: .*\nExport it again"), ('{"schema": 2}', "schema 2")):
        (tmp_path / "engine" / FACTS).write_text(content)
        with pytest.raises(ModelError, match=said):
            EngineFacts.load(tmp_path / "engine")


def test_limits_that_tensorrt_refuses_are_an_error() -> None:
    builder, config = mock.Mock(), mock.Mock()
    config.add_optimization_profile.return_value = -1
    with pytest.raises(RequestError, match="TensorRT refuses the limits of the profile prefill"):
        building._add_profile(builder, config, Profile(Phase.PREFILL, {}))


def test_a_gpu_that_tensorrt_refuses_is_an_error() -> None:
    flavor = TensorRtFlavor(EngineRuntime.TENSORRT_RTX, mock.Mock(__version__="1.1.0"))
    config = mock.Mock()
    config.set_compute_capability.return_value = False
    with pytest.raises(RequestError, match=r"TensorRT-RTX 1\.1\.0 refuses compute capability 8\.9"):
        flavor.set_compute_capability(config, "8.9")
