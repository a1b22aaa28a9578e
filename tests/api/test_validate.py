from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.api.export import export
from amp_export.api.validate import validate
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import OutputError, RequestError
from amp_export.exporters.onnx import export as export_onnx
from amp_export.options import Dtype
from amp_export.outputs.manifest import Manifest
from amp_export.parity.comparison import compare
from amp_export.parity.decoder_cases import Case, cases_within, draw_tokens, replay
from amp_export.parity.reference import NOISE_FACTOR
from amp_export.progress import Silent
from amp_export.reporting.report import Report
from amp_export.verb_options import ValidateOptions
from tests.support.forms import one_of_each_form
from tests.support.tiny_models import BUILDABLE, save_tiny_model, save_tiny_tokenizer

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

CASES = (Case("prefill", (9,)), Case("decode", (3,), decode_steps=3), Case("padded batch", (2, 5), decode_steps=2))


@pytest.mark.parametrize(
    ("model_type", "dtype"),
    [
        *((each, Dtype.FLOAT16) for each in BUILDABLE),
        *((each, Dtype.FLOAT32) for each in one_of_each_form(BUILDABLE)),
    ],
)
def test_parity_holds_for_every_family(model_type: str, dtype: Dtype, tmp_path: Path) -> None:
    """In float32, test_families.py holds every family to parity; here, one of each form."""
    folder = save_tiny_model(tmp_path / "checkpoint", model_type)
    export_onnx(open_checkpoint(folder), tmp_path / "onnx", dtype=dtype)
    report = compare(folder, tmp_path / "onnx", progress=Silent(), cases=CASES)
    assert report.holds, report.cases
    assert report.dtype == dtype.value
    assert report.reference_dtype == ("float64" if dtype is Dtype.FLOAT32 else "float32")
    assert report.tolerance == NOISE_FACTOR * max(case.noise for case in report.cases)
    assert [case.positions for case in report.cases] == [9, 6, 2 + 5 + 2 * 2]


def test_the_tolerance_is_measured_on_the_model(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama")
    tolerances = []
    for dtype in (Dtype.FLOAT32, Dtype.FLOAT16):
        export_onnx(open_checkpoint(folder), tmp_path / dtype, dtype=dtype)
        tolerances.append(compare(folder, tmp_path / dtype, progress=Silent(), cases=CASES).tolerance)
    assert 100 < tolerances[1] / tolerances[0] < 1e6, "half the bits, and so thousands of times the noise"


FAULTS = {
    "epsilon": {"rms_norm_eps": 1e-3},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 9000.0}},
    "activation": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_graph_that_computes_something_else_is_caught(fault: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **FAULTS[fault]}))
    export_onnx(open_checkpoint(other), tmp_path / "onnx")
    report = compare(folder, tmp_path / "onnx", progress=Silent(), cases=CASES)
    assert not report.holds
    assert not report.cases[0].holds
    assert report.cases[0].max_error > 10 * report.noise


def test_weights_that_overflow_to_nan_are_caught(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama")
    exported = export_onnx(open_checkpoint(folder), tmp_path / "onnx")
    weights = np.fromfile(exported.weights, dtype=np.float32)
    weights[-5] = np.nan
    weights.tofile(exported.weights)
    assert not compare(folder, tmp_path / "onnx", progress=Silent(), cases=CASES).holds


def test_validate_writes_its_verdict_into_report_and_manifest(tiny_llama: Path, tmp_path: Path) -> None:
    export(tiny_llama, tmp_path / "out")
    report = validate(tmp_path / "out")
    assert report.holds
    assert Report.load(tmp_path / "out").parity == report
    manifest = Manifest.load(tmp_path / "out")
    assert report.judged == manifest.judged("onnx")
    assert manifest.verdicts["parity"] == {"holds": True, "judged": {"part": "onnx", "sha256": report.judged.sha256}}
    assert {"report.json", "report.md"} <= set(manifest.files)
    assert "| prefill of 17 tokens | 17 |" in (tmp_path / "out" / "report.md").read_text()


def test_a_checkpoint_that_is_gone_is_asked_for(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama")
    save_tiny_tokenizer(folder)
    export(folder, tmp_path / "out")
    folder.rename(tmp_path / "moved")
    with pytest.raises(OutputError, match="--reference"):
        validate(tmp_path / "out")
    assert validate(tmp_path / "out", ValidateOptions(reference=tmp_path / "moved")).holds
    with pytest.raises(OutputError, match=r"no amp_export\.json"):
        validate(tmp_path / "moved")


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    steps=st.integers(0, 5),
    pool=st.integers(1, 40),
)
def test_replay_gives_a_decoder_what_its_past_demands(lengths: list[int], steps: int, pool: int) -> None:
    """A decoder that answers with the ids and places it was given, and counts its past."""
    case = Case("any", tuple(lengths), decode_steps=steps)
    tokens = draw_tokens(case, np.arange(pool))
    seen: list[int] = []

    def forward(input_ids: Any, attention_mask: Any, position_ids: Any, past: Any) -> Any:
        length = (past or 0) + input_ids.shape[1]
        assert attention_mask.shape == (len(lengths), length)
        assert position_ids.shape == input_ids.shape
        seen.append(input_ids.shape[1])
        return np.stack([input_ids, position_ids], axis=2).astype(np.float32), length

    found = replay(case, np.arange(pool), forward)
    assert seen == [max(lengths)] + [1] * steps
    assert len(found) == sum(lengths) + steps * len(lengths)
    expected = sorted(
        (int(tokens[row, max(lengths) - length + place]), place)
        for row, length in enumerate(lengths)
        for place in range(length + steps)
    )
    assert sorted((int(token), int(place)) for token, place in found) == expected


def test_cases_that_exceed_the_context_are_left_out() -> None:
    assert cases_within(CASES, 6) == CASES[1:2]


def test_a_case_of_the_users_own_that_does_not_fit_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    export(tiny_llama, tmp_path / "out")
    cases = [{"name": "short", "prompt_lengths": [5]}, {"name": "endless", "prompt_lengths": [2**40]}]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    with pytest.raises(RequestError, match=r"cases.json: the case 'endless' has a text of 1099511627776 tokens"):
        validate(tmp_path / "out", ValidateOptions(cases=tmp_path / "cases.json"))


def test_a_report_of_a_newer_version_is_left_alone(tiny_llama: Path, tmp_path: Path) -> None:
    export(tiny_llama, tmp_path / "out")
    newer = json.dumps({"schema": 99, "model": "x"})
    (tmp_path / "out" / "report.json").write_text(newer)
    with pytest.raises(OutputError, match="schema 99"):
        validate(tmp_path / "out")
    assert (tmp_path / "out" / "report.json").read_text() == newer
