"""Models converted for OpenVINO compute what their graphs and their checkpoints compute."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import MissingExtraError, ModelError, RequestError
from amp_export.exporters import onnx
from amp_export.exporters.dispatch import exported_bytes, exported_opset, run
from amp_export.exporters.models.decoder import Decoder
from amp_export.exporters.models.session import Port
from amp_export.options import Dtype, Opset, Provider
from amp_export.outputs.names import PRUNED
from amp_export.parity.comparison import compare
from amp_export.progress import Silent
from tests.support.forms import one_of_each_form
from tests.support.shared import Converted
from tests.support.tiny_models import BUILDABLE, save_tiny_model, save_tiny_output

pytest.importorskip("openvino", reason="openvino is not installed")

from amp_export.exporters import openvino
from amp_export.exporters.openvino.models import read_description
from amp_export.exporters.openvino.running import OpenvinoSession

pytestmark = pytest.mark.slow

MODEL = "openvino_model.xml"

TOKENS = np.array([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
PLACES = np.array([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])


def convert(checkpoint: Path, folder: Path, **settings: Dtype | Opset) -> Path:
    onnx.export(open_checkpoint(checkpoint), folder / "onnx", **settings)
    return openvino.export(folder / "onnx", folder / "openvino").folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing may change it."""
    folder = tmp_path_factory.mktemp("llama")
    return convert(save_tiny_model(folder / "checkpoint", "llama"), folder)


def load(folder: Path) -> Decoder:
    model = run(folder, threads=1)
    assert isinstance(model, Decoder)
    return model


def two_calls(decoder: Decoder) -> np.ndarray:
    """A left-padded batch in two pieces, the logits of its real tokens."""
    first, past = decoder.forward(TOKENS[:, :3], MASK[:, :3], PLACES[:, :3])
    second, _ = decoder.forward(TOKENS[:, 3:], MASK, PLACES[:, 3:], past)
    return np.concatenate([first, second], axis=1)[MASK == 1]


@pytest.mark.parametrize(
    ("model_type", "opset"),
    [
        *((each, Opset.OPSET_23) for each in BUILDABLE),
        *itertools.product(one_of_each_form(BUILDABLE), sorted({*Opset} - {Opset.OPSET_23})),
    ],
)
def test_every_decoder_computes_what_its_graph_does(model_type: str, opset: Opset, tmp_path: Path) -> None:
    """Every family in the operators that are the default, and one of each form in all others."""
    folder = convert(save_tiny_model(tmp_path / "checkpoint", model_type, num_hidden_layers=2), tmp_path, opset=opset)
    expected = two_calls(load(tmp_path / "onnx"))
    np.testing.assert_allclose(two_calls(load(folder)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", Dtype)
def test_parity_holds_in_every_precision(dtype: Dtype, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama")
    folder = convert(checkpoint, tmp_path, dtype=dtype)
    report = compare(checkpoint, folder, threads=1, progress=Silent())
    assert report.holds
    assert report.dtype == dtype
    assert report.runtime.startswith("OpenVINO 20")
    assert len(report.cases) == 7


@pytest.mark.parametrize("model_type", ["bert", "vit", "t5", "whisper"])
def test_traced_graphs_keep_parity(model_type: str, converted: Callable[[str], Converted], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    made = converted(model_type)
    folder = openvino.export(made.output / "onnx", tmp_path / "openvino").folder
    report = compare(made.output / PRUNED, folder, threads=1, progress=Silent())
    assert report.holds
    expected = {(case["name"], case["output"]) for case in made.report["parity"]["cases"]}
    assert {(case.name, case.output) for case in report.cases} == expected


def test_a_fault_in_a_weight_is_found(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "openvino"))
    weights = folder / "openvino_model.bin"
    content = np.frombuffer(weights.read_bytes(), np.float32).copy()
    content[len(content) // 2] += 10
    weights.write_bytes(content.tobytes())
    assert not compare(llama.parent / "checkpoint", folder, threads=1, progress=Silent()).holds


def test_the_past_of_a_call_is_not_changed_by_later_ones(llama: Path) -> None:
    decoder = load(llama)
    _, past = decoder.forward(TOKENS[:, :3], MASK[:, :3], PLACES[:, :3])
    before = {name: value.data.copy() for name, value in past.values.items()}
    one, _ = decoder.forward(TOKENS[:, 3:], MASK, PLACES[:, 3:], past)
    kept = one.copy()
    decoder.forward(TOKENS[::-1, 3:], MASK, PLACES[:, 3:], past)
    for name, value in past.values.items():
        np.testing.assert_array_equal(value.data, before[name])
    np.testing.assert_array_equal(one, kept)


@pytest.mark.parametrize("dtype", Dtype)
def test_numbers_come_back_as_they_went_in(dtype: Dtype, llama: Path) -> None:
    session = OpenvinoSession(llama / MODEL, threads=1)
    numbers = np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)
    rounded = {
        Dtype.FLOAT32: numbers,
        Dtype.FLOAT16: numbers.astype(np.float16),
        Dtype.BFLOAT16: numbers.astype(ml_dtypes.bfloat16),
    }
    found = session.to_float32(session.to_value(numbers, dtype))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rounded[dtype].astype(np.float32))
    assert session.to_value(np.empty((2, 3, 0, 4), np.float32), dtype).shape == [2, 3, 0, 4]


def test_a_folder_tells_what_it_holds(llama: Path) -> None:
    decoder = load(llama)
    assert (decoder.num_layers, decoder.dtype, decoder.threads) == (3, Dtype.FLOAT32, 1)
    assert decoder.description.startswith("OpenVINO 20")
    assert exported_opset(llama) is Opset.OPSET_23
    facts = read_description(llama)
    assert facts.inputs["past_key_values.2.key"] == Port("float32", ("batch_size", 2, "past_sequence_length", 8))
    assert exported_bytes(llama) == sum(file.stat().st_size for file in llama.glob("openvino_model.*"))
    assert {file.name for file in llama.iterdir()} >= {"config.json", "openvino_model.bin", "openvino_model.xml"}
    assert not [*llama.glob("*.onnx*"), *llama.glob("genai_config.json")]


def test_a_damaged_model_says_so(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "openvino"))
    model = folder / MODEL
    model.write_text(model.read_text()[:2000])
    with pytest.raises(ModelError, match=r"cannot read .*model\.xml: .*\nExport it again"):
        run(folder)
    model.unlink()
    (folder / "openvino_other.xml").touch()
    with pytest.raises(ModelError, match=r"holds no openvino_model\.xml"):
        run(folder)


def test_a_model_of_another_tool_is_refused(llama: Path, tmp_path: Path) -> None:
    import openvino as library

    model = library.Core().read_model(llama.parent / "onnx/model.onnx")
    library.save_model(model, tmp_path / MODEL)
    with pytest.raises(ModelError, match="is not a model that amp-export wrote"):
        run(tmp_path)


def test_a_provider_is_refused(llama: Path) -> None:
    with pytest.raises(RequestError, match="--provider applies to ONNX Runtime only"):
        run(llama, provider=Provider.CUDA)


def test_its_absence_names_the_extra(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[openvino\]"'):
        run(llama)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_steps_go_through_the_command_line(tmp_path: Path) -> None:
    output = save_tiny_output(tmp_path)
    graph = (output / "onnx/model.onnx").read_bytes()
    missing = call("validate", output, "--to", "openvino")
    assert missing.exit_code == 2
    assert "has no openvino export. Its exports: onnx.\nExport it: amp-export export --to openvino" in missing.stderr

    exported = call("export", "--to", "openvino", "--model", output / "pruned", "--output", output)
    assert exported.exit_code == 0, exported.stderr
    assert (output / "onnx/model.onnx").read_bytes() == graph, "another export stays as it is"
    assert not [*output.glob(".*")], "the graph on the way is gone"

    validated = call("validate", output, "--to", "openvino", "--threads", "1", "--json")
    assert validated.exit_code == 0, validated.stderr
    refused = call("validate", output, "--to", "openvino", "--provider", "cuda")
    assert refused.exit_code == 2
    assert "--provider applies to ONNX Runtime only" in refused.stderr

    measured = call("benchmark", output, "--runtime", "openvino", "--rounds", "4", "--threads", "1", "--json")
    assert measured.exit_code == 0, measured.stderr
    [benchmark] = json.loads(measured.stdout)["benchmarks"].values()
    assert benchmark["name"] == "openvino"
    assert benchmark["runtime"].startswith("OpenVINO")
    assert benchmark["roofline"]["allowed_gain"] > 1
    assert benchmark["dense"]["bytes_on_disk"] > benchmark["pruned"]["bytes_on_disk"]
