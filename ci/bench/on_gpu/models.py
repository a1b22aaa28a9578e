"""Models with random weights, drawn on the device, dense and pruned, and their graphs.

The values of the weights do not affect times. A CPU takes minutes to draw as many.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from bench.on_gpu.rows import Fact
from transformers import AutoConfig, AutoModelForCausalLM

from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.exporters.models.caches import is_past, is_present
from amp_export.exporters.onnx import export
from amp_export.exporters.onnx.descriptions import OPERATORS
from amp_export.options import Dtype, HeadPolicy, Operators
from amp_export.pruning.candidates import list_candidates
from amp_export.pruning.planning import choose_candidate
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.settings import PlanSettings

RATIO = 0.3

DENSE, PRUNED, BUILDER = "dense", "pruned", "builder"

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "1b": {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
    # half of the layers: a step takes half of the time, and so does all that is before it
    "7b": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 16}
    | {"num_attention_heads": 32},
    "tiny": {"vocab_size": 101, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2},
}
"""Shapes of Llamas: that of Llama 3.2 1B with the vocabulary of Llama 2; LLaMA-2-7B with half of its layers; and one to
rehearse with. Source: the config.json of the first two."""

CONTEXT = 4096


def write_checkpoints(shape: str, folder: Path, *, device: torch.device, dtype: torch.dtype) -> Iterator[Fact]:
    """Write the dense and the pruned checkpoint, and yield a sentence about them."""
    dense = AutoConfig.for_model(
        "llama", **SHAPES[shape], max_position_embeddings=CONTEXT, architectures=["LlamaForCausalLM"]
    )
    _write_random(dense, folder / DENSE, device=device, dtype=dtype)
    raw, config = read_config(folder / DENSE)
    settings = PlanSettings(RATIO, heads=HeadPolicy.GROUPS)
    candidate = choose_candidate(config, settings, list_candidates(raw, config, settings))
    rewritten = rewrite(raw, config, config.everywhere(candidate.widths))
    (folder / PRUNED).mkdir()
    (folder / PRUNED / "config.json").write_text(json.dumps(rewritten.config), encoding="utf-8")
    _write_random(AutoConfig.from_pretrained(folder / PRUNED), folder / PRUNED, device=device, dtype=dtype)
    widths = candidate.widths
    yield Fact(
        f"shape {shape}",
        f"{dense.num_hidden_layers} layers, hidden size {dense.hidden_size}; pruned: {widths.query_heads} of "
        f"{dense.num_attention_heads} heads, {widths.neurons} of {dense.intermediate_size} neurons, "
        f"{candidate.ratio:.1%} of the parameters removed",
    )


def _write_random(config: Any, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        # norms of ones would hide an error in the norms
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder)


def export_fused(folder: Path) -> None:
    """Write the graphs of both checkpoints, with fused operators in float16."""
    for name in (DENSE, PRUNED):
        checkpoint = open_checkpoint(folder / name)
        export(checkpoint, graph_folder(folder, name), dtype=Dtype.FLOAT16, operators=Operators.ONNXRUNTIME)


def graph_folder(folder: Path, name: str) -> Path:
    """Return the folder of the graph of a model."""
    return folder / f"{name}-graph"


def build_with_genai(models_folder: Path) -> None:
    """Write the graph that onnxruntime-genai's builder makes of the dense model for CUDA, in float16."""
    checkpoint, folder = models_folder / DENSE, graph_folder(models_folder, BUILDER)
    _write_tokenizer(checkpoint)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp16", "-e", "cuda"]
    subprocess.run([*command, "-m", checkpoint, "-o", folder], check=True, capture_output=True)
    shutil.copyfile(checkpoint / "config.json", folder / "config.json")
    # it has the same attention as ours, and runs as ours do if it says so, and how wide its heads are
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    graph.metadata_props.add(key=OPERATORS, value=Operators.ONNXRUNTIME)
    head_dim = read_config(checkpoint)[1].head_dim
    for value in (*graph.graph.input, *graph.graph.output):
        if is_past(value.name) or is_present(value.name):
            value.type.tensor_type.shape.dim[-1].dim_value = head_dim
    (folder / "model.onnx").write_bytes(graph.SerializeToString())


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of one word, without which the builder does not work."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
