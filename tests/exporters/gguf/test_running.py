"""A GGUF file in llama.cpp: its KV cache, its limits, and what is said of damaged files and of other versions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import MissingExtraError, ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.dispatch import exported_bytes, exported_dtype, run
from amp_export.exporters.gguf import export
from amp_export.exporters.gguf.blocks import F32
from amp_export.options import Dtype, Provider
from tests.support.gguf_models import load, save

pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

from amp_export.exporters.gguf import library
from amp_export.exporters.gguf.files import read_facts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing may change it."""
    folder = tmp_path_factory.mktemp("llama")
    export(open_checkpoint(save(folder, "llama")), folder / "gguf")
    return folder / "gguf"


def test_an_earlier_past_is_computed_again(llama: Path) -> None:
    decoder = load(llama)
    ids = np.arange(5, 25)[None]
    mask, places = np.ones_like(ids), np.arange(20)[None]
    _, past = decoder.forward(ids[:, :12], mask[:, :12], places[:, :12])
    one, _ = decoder.forward(ids[:, 12:], mask, places[:, 12:], past)
    decoder.forward(ids[:, ::-1][:, 12:], mask, places[:, 12:], past)
    again, _ = decoder.forward(ids[:, 12:], mask, places[:, 12:], past)
    np.testing.assert_allclose(again, one, atol=1e-4)
    last, _ = decoder.forward(ids[:, 12:], mask, places[:, 12:], past, logits_to_keep=1)
    np.testing.assert_allclose(last, one[:, -1:], atol=1e-4)


def test_texts_outgrow_a_context_up_to_the_models(llama: Path) -> None:
    decoder = load(llama)
    ids = np.random.default_rng(0).integers(4, 100, (1, 128))
    whole, _ = decoder.forward(ids, np.ones_like(ids), np.arange(128)[None])
    past = decoder.reserve(1, 4)
    for start in range(0, 128, 16):
        part = slice(start, start + 16)
        found, past = decoder.forward(
            ids[:, part], np.ones((1, start + 16), np.int64), np.arange(128)[None, part], past
        )
        np.testing.assert_allclose(found, whole[:, part], atol=1e-4)
    with pytest.raises(RequestError, match="A text of 129 tokens was given, but the GGUF file has a context of 128"):
        decoder.forward(ids[:, :1], np.ones((1, 129), np.int64), np.array([[128]]), past)
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.forward(ids, np.ones_like(ids), np.arange(128)[None])


def test_a_folder_tells_what_it_holds(llama: Path) -> None:
    decoder = load(llama)
    assert (decoder.num_layers, decoder.dtype, decoder.threads) == (3, Dtype.FLOAT32, 1)
    assert exported_dtype(llama) is Dtype.FLOAT32
    assert exported_bytes(llama) == (llama / "model.gguf").stat().st_size
    assert {file.name for file in llama.iterdir()} >= {"config.json", "model.gguf"}
    facts = read_facts(llama / "model.gguf")
    assert (facts.architecture, facts.kind, facts.quantization) == ("llama", F32, None)
    # the embedding beside an LM head is looked up
    assert facts.weight_bytes == pytest.approx(exported_bytes(llama) - 101 * 32 * 4, abs=8192)


def test_a_damaged_file_says_so(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "gguf"))
    file = folder / "model.gguf"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"(?s)(damaged|cannot load).*Export it again"):
        run(folder)
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="is damaged or not a GGUF file"):
        run(folder)
    file.rename(folder / "other.gguf")
    with pytest.raises(ModelError, match=r"holds no model\.gguf"):
        run(folder)


def test_a_provider_is_refused(llama: Path) -> None:
    with pytest.raises(RequestError, match="--provider applies to ONNX Runtime only"):
        run(llama, provider=Provider.CUDA)


def test_absence_names_the_extra(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[llamacpp\]"'):
        run(llama)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[gguf\]"'):
        export(open_checkpoint(llama.parent / "checkpoint"), llama)


def test_a_llama_cpp_that_does_not_fit_is_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_FUNCTIONS", {**library._FUNCTIONS, "llama_of_tomorrow": (None, ())})
    with pytest.raises(UnsupportedModelError, match=r"it has no llama_of_tomorrow.\nInstall the one that was tested"):
        library.LlamaCpp()
    monkeypatch.undo()
    monkeypatch.setattr(library, "_DEFAULTS", {**library._DEFAULTS, "n_batch": 1})
    with pytest.raises(UnsupportedModelError, match="did not take the field n_batch of its parameters"):
        library.LlamaCpp()


def test_a_llama_cpp_without_the_architecture_is_named(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "gguf"))
    file = folder / "model.gguf"
    file.write_bytes(file.read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(UnsupportedModelError, match=r"is too old for .*: it lacks the architecture lhama"):
        run(folder)
