"""Checkpoints that transformers 4 loads as the same model.

With AMP_EXPORT_TRANSFORMERS_4 set to a directory with transformers 4.57, tokenizers 0.22 and huggingface-hub 0.36
(`pip install --no-deps --target`), each family is computed there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amp_export.architectures import Kind, Modality, find_architecture, supported_model_types
from amp_export.checkpoints.older_versions import add_old_names, name_tokenizer_class
from amp_export.errors import ModelError
from tests.support import PROJECT
from tests.support.compute_logits import compute_logits
from tests.support.tiny_models import save_tiny_model

NOT_COMPARED = {
    "bert": "its masked-LM head has two biases, which are one parameter in version 4; random ones differ",
    "deberta-v2": "the same",
    "mpnet": "the same",
    "apertus": "version 4 differs by a thousandth of the largest logit, also with plain RoPE; it is not known why",
    **dict.fromkeys(
        ("bamba", "granitemoehybrid"), "version 4 computes something else with random weights; it is not known why"
    ),
    "gpt_oss": "version 4 computes something else with random weights, also with plain RoPE; it is not known why",
    "t5": "transformers 5 saves a T5 whose outputs are not scaled as one with tied embeddings, which scales them in 4",
    "umt5": "transformers 5 scales its outputs unless it is told that embeddings are not tied; version 4 never does",
    **{
        name: "it takes images, audio, or two texts, and its config has no renamed fields"
        for name in supported_model_types()
        if find_architecture(name).modality is not Modality.TEXT
        or (find_architecture(name).kind is Kind.ENCODER_DECODER and name not in ("t5", "umt5"))
    },
}
FAMILIES = sorted(set(supported_model_types()) - set(NOT_COMPARED))

IN_VERSION_4: dict[str, dict[str, Any]] = {
    # `Llama4TextConfig.__init__` of 4.57 has no other value
    "llama4_text": {"attention_bias": False}
}
"""Fields without which version 4 computes something else."""

YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 7e4, "factor": 2.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 3e4,
    "short_factor": [1.5] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 64,
}
SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, yarn": ("llama", YARN),
    "llama, llama3": ("llama", LLAMA3),
    "qwen2, yarn": ("qwen2", YARN),
    "mistral, linear": ("mistral", LINEAR),
    "phi3, longrope": ("phi3", LONG),
    "granite, llama3": ("granite", LLAMA3),
}


def compute_with(version: str, folders: list[str], path: str) -> dict[str, list[float] | None]:
    command = [sys.executable, "-P", PROJECT / "tests/support/compute_logits.py", version, *folders]
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float] | None] = json.loads(done.stdout)
    return found


def save(folder: Path, model_type: str, **fields: Any) -> Path:
    save_tiny_model(folder, model_type, **fields)
    file = folder / "config.json"
    file.write_text(json.dumps(add_old_names(json.loads(file.read_text()))))
    return folder


@pytest.mark.slow
def test_transformers_4_computes_the_same(tmp_path: Path) -> None:
    path = os.environ.get("AMP_EXPORT_TRANSFORMERS_4")
    if path is None:
        pytest.skip("AMP_EXPORT_TRANSFORMERS_4 names no directory with transformers 4.57")
    folders = [save(tmp_path / name, name, **IN_VERSION_4.get(name, {})) for name in FAMILIES]
    folders += [save(tmp_path / name, kind, rope_parameters=rope) for name, (kind, rope) in SCALED.items()]
    names = [str(folder) for folder in folders]
    then = compute_with("4.57", names, path)
    differing = [
        folder
        for folder, expected in compute_logits(names).items()
        if then[folder] is not None
        and then[folder] != pytest.approx(expected, rel=1e-6, abs=max(3e-5, 2e-6 * max(map(abs, expected))))
    ]
    assert differing == []
    # there are more new families than old ones
    assert sum(logits is not None for logits in then.values()) > 40


@pytest.mark.parametrize("case", [*FAMILIES, *NOT_COMPARED, *SCALED])
def test_this_version_reads_the_same_config_with_old_names(case: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    kind, fields = (SCALED[case][0], {"rope_parameters": SCALED[case][1]}) if case in SCALED else (case, {})
    save_tiny_model(tmp_path / "m", kind, **fields)
    before = AutoConfig.from_pretrained(tmp_path / "m").to_dict()
    file = tmp_path / "m/config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(add_old_names(raw)))
    after = AutoConfig.from_pretrained(tmp_path / "m").to_dict()
    # the old name of rope_type, which is read as the new one
    (after.get("rope_parameters") or {}).pop("type", None)
    assert {name: value for name, value in after.items() if name in before} == before
    assert add_old_names(add_old_names(raw)) == add_old_names(raw)
    # version 4 has no Gemma 4
    if "rope_parameters" in raw and case != "gemma4_text":
        assert {"rope_theta", "rotary_emb_base", "global_rope_theta"} & add_old_names(raw).keys()


@pytest.mark.parametrize(
    ("found", "given", "written"),
    [
        ("TokenizersBackend", None, "PreTrainedTokenizerFast"),
        ("LlamaTokenizerFast", None, "LlamaTokenizerFast"),
        ("LlamaTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast"),
        (None, "GPT2Tokenizer", "GPT2Tokenizer"),
        (None, None, None),
    ],
)
def test_a_tokenizer_has_a_class_that_both_versions_know(
    found: str | None, given: str | None, written: str | None, tmp_path: Path
) -> None:
    name_tokenizer_class(tmp_path, given)
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"x": 1} if found is None else {"x": 1, "tokenizer_class": found}))
    name_tokenizer_class(tmp_path, given)
    content = json.loads(file.read_text())
    assert content.pop("tokenizer_class", None) == written
    assert content == {"x": 1}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"[1]", b"null"])
def test_a_damaged_tokenizer_config_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        name_tokenizer_class(tmp_path)
