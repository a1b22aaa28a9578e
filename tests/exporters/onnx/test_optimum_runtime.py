"""Graphs run by optimum-onnx, with the code that `docs/how-it-works.md` shows: it writes what PyTorch writes.

It needs transformers 4: with AMP_EXPORT_TRANSFORMERS_4 set to a directory that also holds optimum-onnx 0.1.0 and
optimum 2.1.0 (`pip install --no-deps --target`), it runs there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.exporters.onnx import export
from tests.support import PROJECT
from tests.support.lopsided import save_lopsided
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

LOCATION = os.environ.get("AMP_EXPORT_TRANSFORMERS_4", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not LOCATION or not (Path(LOCATION) / "optimum/onnxruntime").is_dir(),
        reason="AMP_EXPORT_TRANSFORMERS_4 names no directory with optimum-onnx",
    ),
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"),
]

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "gpt2": ("gpt2", {}),
    "gemma2, whose KV heads optimum takes for as many as its heads": ("gemma2", {}),
    "mistral with fewer heads than fill the hidden size": (
        "mistral",
        {"num_attention_heads": 3, "num_key_value_heads": 1},
    ),
}

IDS = torch.tensor([[0, 0, 9, 5, 8, 6], [7, 9, 4, 8, 5, 6]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
GREEDY = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
WAYS: dict[str, dict[str, int]] = {"greedy": {}, "beams": {"num_beams": 3}}

GENERATE = """
import json, sys
import torch
from optimum.onnxruntime import ORTModelForCausalLM
folders, ids, mask, ways, line = map(json.loads, sys.argv[1:])
found = {}
for folder in folders:
    try:
        model = ORTModelForCausalLM.from_pretrained(folder)
        exec(line)
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        found[folder] = {name: model.generate(**inputs, **way).tolist() for name, way in ways.items()}
    except Exception as error:
        found[folder] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def generate(folders: list[Path], line: str) -> dict[Path, Any]:
    ways = {name: {**GREEDY, **way} for name, way in WAYS.items()}
    words = map(json.dumps, ([*map(str, folders)], IDS.tolist(), MASK.tolist(), ways, line))
    environment = {**os.environ, "PYTHONPATH": LOCATION, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", GENERATE, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {Path(folder): found for folder, found in json.loads(done.stdout).items()}


def expect(checkpoint: Path, graph: Path) -> dict[str, list[list[int]]]:
    """Exports a checkpoint, and returns what PyTorch writes."""
    export(open_checkpoint(checkpoint), graph)
    model, inputs = load_model(checkpoint), {"input_ids": IDS, "attention_mask": MASK}
    return {name: model.generate(**inputs, **GREEDY, **way).tolist() for name, way in WAYS.items()}


def documented_line() -> str:
    """Returns the line that the guide shows for models whose cache has other shapes than optimum assumes."""
    (line,) = re.findall(r"^(_, model\.num_key_value_heads.*)$", (PROJECT / "docs/how-it-works.md").read_text(), re.M)
    return str(line)


def test_optimum_writes_what_pytorch_writes(tmp_path: Path) -> None:
    graphs: dict[Path, Any] = {}
    for number, (model_type, fields) in enumerate(MODELS.values()):
        checkpoint, graph = tmp_path / f"{number}", tmp_path / f"{number}-onnx"
        save_tiny_model(checkpoint, model_type, **fields)
        save_tiny_tokenizer(checkpoint)
        graphs[graph] = expect(checkpoint, graph)
    save_lopsided(tmp_path / "padded", "llama", pad=True)
    graphs[tmp_path / "padded/onnx"] = expect(tmp_path / "padded/pruned", tmp_path / "padded/onnx")
    assert generate([*graphs], documented_line()) == graphs
    # where optimum derives the shapes of the cache right, it needs no line; a class that is not stock it refuses
    save_lopsided(tmp_path / "resized", "llama")
    export(open_checkpoint(tmp_path / "resized/pruned"), tmp_path / "resized/onnx")
    plain = generate([*graphs, tmp_path / "resized/onnx"], "")
    assert "trust_remote_code" in plain.pop(tmp_path / "resized/onnx")
    assert [plain[graph] == graphs[graph] for graph in graphs] == [True, True, True, False, False, True]
    stopped = [found for found in plain.values() if isinstance(found, str)]
    assert all("Got invalid dimensions for input: past_key_values" in message for message in stopped)
