"""Checkpoints in the form of Nemotron-NAS, loaded by what the sources of vLLM and TensorRT-LLM do with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from amp_export import DoctorOptions, PlanChoices, PruneOptions, diagnose, prune
from amp_export.architectures import LayerWidths
from amp_export.checkpoints.loading import load_model
from amp_export.errors import PlanError, UnsupportedModelError
from amp_export.options import PerLayer, Uniform
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import NEMOTRON_NAS
from amp_export.pruning.nemotron_nas import MULTIPLE, _say
from amp_export.reporting.report import Report
from amp_export.reporting.reproduce import commands
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

NAS = Uniform.NEMOTRON_NAS
TOKENS = torch.tensor([[5, 17, 42, 8, 99, 3, 61], [7, 7, 13, 50, 2, 90, 33]])


def neurons_of(multiple: float, hidden_size: int) -> int:
    """What both runtimes make of `ffn_mult`: `_ffn_mult_to_intermediate_size`."""
    neurons = int(2 * multiple * hidden_size / 3)
    return neurons if neurons % 256 == 0 else neurons + 256 - neurons % 256


def load_as_runtimes_do(folder: Path) -> transformers.LlamaForCausalLM:
    """A Llama whose layers are made as vLLM and TensorRT-LLM make them, from config.json and the weights alone."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["DeciLMForCausalLM"]
    heads, head_dim, hidden_size = (config[name] for name in ("num_attention_heads", "head_dim", "hidden_size"))
    plain: dict[str, Any] = {
        name: config[name]
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps", "rope_parameters")
    }
    # one head, so that transformers takes any number; each layer gets its own
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **plain, num_attention_heads=1, head_dim=head_dim, tie_word_embeddings=config["tie_word_embeddings"]
        )
    )
    for layer, block in zip(model.model.layers, config["block_configs"], strict=True):
        assert not any(part[key] for part in block.values() for key in ("no_op", "replace_with_linear"))
        neurons = neurons_of(block["ffn"]["ffn_mult"], hidden_size)
        shared = heads // block["attention"]["n_heads_in_group"]
        layer.self_attn.num_key_value_groups = heads // shared
        sizes = {
            "self_attn.q_proj": (hidden_size, heads * head_dim),
            "self_attn.k_proj": (hidden_size, shared * head_dim),
            "self_attn.v_proj": (hidden_size, shared * head_dim),
            "self_attn.o_proj": (heads * head_dim, hidden_size),
            "mlp.gate_proj": (hidden_size, neurons),
            "mlp.up_proj": (hidden_size, neurons),
            "mlp.down_proj": (neurons, hidden_size),
        }
        for name, (inputs, outputs) in sizes.items():
            path, _, attribute = name.rpartition(".")
            setattr(layer.get_submodule(path), attribute, torch.nn.Linear(inputs, outputs, bias=False))
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    model.tie_weights()
    return model.eval()


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    checkpoint = save_tiny_model(
        tmp_path / "dense",
        "llama",
        intermediate_size=1024,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        hidden_size=48,
    )
    save_tiny_tokenizer(checkpoint)
    return checkpoint


def test_runtimes_compute_what_the_pruned_model_does(dense: Path, tmp_path: Path) -> None:
    prune(dense, tmp_path / "out", PruneOptions(ratio=0.3, uniform=NAS, fitting_tokens=512))
    folder = tmp_path / "out" / NEMOTRON_NAS
    pruned = load_model(tmp_path / "out/pruned")
    with torch.inference_mode():
        expected, found = (model(TOKENS).logits for model in (pruned, load_as_runtimes_do(folder)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    widths = [block["ffn"]["ffn_mult"] for block in json.loads((folder / "config.json").read_text())["block_configs"]]
    assert len(set(widths)) > 1
    assert not (folder / "modeling_amp.py").exists()
    assert json.loads((tmp_path / "out/pruned/config.json").read_text())["model_type"] == "amp_resized"
    said = commands(Report.load(tmp_path / "out"), Manifest.load(tmp_path / "out"))
    assert any("--uniform nemotron-nas" in line for line in said)
    # the class of the config, in a process without this package
    script = (
        "import sys; from transformers import AutoConfig; "
        "config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True); "
        "block = config.block_configs[0]; "
        "print(config.model_type, block.attention.n_heads_in_group, block.ffn.no_op, hasattr(block.ffn, 'nothing'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, folder], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split()[-4:] == ["nemotron-nas", "3", "False", "False"]


@given(
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=5),
    hidden_size=st.integers(1, 256).map(lambda number: number * 64),
)
def test_every_multiple_is_said_exactly(counts: list[int], hidden_size: int) -> None:
    widths = [LayerWidths(4, 2, count * MULTIPLE) for count in counts]
    said = _say({"hidden_size": hidden_size, "num_attention_heads": 4}, widths)["block_configs"]
    assert [neurons_of(block["ffn"]["ffn_mult"], hidden_size) for block in said] == [each.neurons for each in widths]


def test_what_cannot_be_said_is_refused(dense: Path, tmp_path: Path) -> None:
    def run(**options: Any) -> None:
        prune(dense, tmp_path / "out", PruneOptions(uniform=NAS, **options), overwrite=True)

    with pytest.raises(PlanError, match="multiple of 256 neurons in each layer, and --snap is 32"):
        run(ratio=0.3, snap=32)
    with pytest.raises(PlanError, match="--heads-per-layer global lets them differ"):
        run(ratio=0.3, heads_per_layer=PerLayer.GLOBAL)
    prune(dense, tmp_path / "free", PruneOptions(ratio=0.3, snap=8, fitting_tokens=512))
    with pytest.raises(PlanError, match="the plan keeps"):
        run(plan=tmp_path / "free/plan.json")
    qwen = save_tiny_model(tmp_path / "qwen2", "qwen2", intermediate_size=1024)
    with pytest.raises(UnsupportedModelError, match="and not what qwen2 does"):
        prune(qwen, tmp_path / "out", PruneOptions(ratio=0.3, uniform=NAS))
    biased = save_tiny_model(tmp_path / "biased", "llama", intermediate_size=1024, mlp_bias=True)
    with pytest.raises(UnsupportedModelError, match=r"has mlp_bias False, and config\.json says True"):
        diagnose(biased, 0.3, PlanChoices(), DoctorOptions(uniform=NAS))


def test_a_dry_run_names_the_option(dense: Path) -> None:
    found = {each.runtime: each for each in diagnose(dense, 0.3).compatibility}
    verdict = next(each for name, each in found.items() if name.startswith("Nemotron-NAS"))
    assert verdict.loads
    assert "--uniform nemotron-nas" in str(verdict)
