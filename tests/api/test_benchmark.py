from __future__ import annotations

from pathlib import Path

import pytest

from amp_export import ExportOptions, benchmark, export
from amp_export.api import benchmark as module
from amp_export.errors import RequestError
from amp_export.options import BenchmarkDevice
from amp_export.verb_options import BenchmarkOptions
from tests.support.tiny_models import save_tiny_model


def test_an_export_that_cannot_be_captured_is_refused_before_the_dense_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(str(save_tiny_model(tmp_path / "checkpoint", "llama")), tmp_path / "out", ExportOptions())
    asked = BenchmarkOptions(device=BenchmarkDevice.CUDA, cuda_graph=True)
    with pytest.raises(RequestError, match="The installed onnxruntime has no CUDAExecutionProvider"):
        benchmark(tmp_path / "out", asked)
    # as if there were a GPU
    monkeypatch.setattr(module, "require", lambda setup: None)
    with pytest.raises(RequestError, match=r"grows with each token.\nExport it again with --operators onnxruntime"):
        benchmark(tmp_path / "out", asked)
