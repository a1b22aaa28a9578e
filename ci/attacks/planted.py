"""Thirty numeric faults, planted in the graphs of five families: each must fail parity, and its layer must be named."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_DIM, NEURONS = 8, 48
"""Of the tiny models in tests/support/tiny_models.py."""

LAYER = 1
"""The layer in which a fault is planted, unless it is in all layers."""


@dataclass(frozen=True)
class Fault:
    """A mistake of an exporter.

    Attributes:
        family: Model type.
        name: What is wrong.
        change: Changes the weights that the graph is exported from.
        config: Fields of the config that the graph is exported with, instead of the right ones.
        layer: The layer that must be named; None for what is outside of the layers.
        base: Fields of the right config.
    """

    family: str
    name: str
    change: Callable[[Any], None] | None = None
    config: Mapping[str, Any] | None = None
    layer: int | None = LAYER
    base: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """What parity and its explanation said of a fault.

    Attributes:
        fault: The fault.
        caught: Whether parity failed.
        named: Whether the first value that differs is in the fault's layer.
        module: The module that was named.
    """

    fault: Fault
    caught: bool
    named: bool
    module: str


def plant_all(folder: Path, *, families: Sequence[str] | None = None) -> Iterator[Verdict]:
    """Plant each fault in a graph of its own.

    Args:
        folder: Directory for checkpoints and graphs.
        families: Families whose faults are planted; by default all.

    Yields:
        What came of each fault.
    """
    checkpoints: dict[str, Path] = {}
    for fault in (fault for fault in FAULTS if families is None or fault.family in families):
        key = f"{fault.family} {json.dumps(fault.base)}"
        if key not in checkpoints:
            checkpoints[key] = _save_model(folder / f"model-{len(checkpoints)}", fault)
            _check_that_it_holds(checkpoints[key])
        yield _plant(fault, checkpoints[key])


def _save_model(folder: Path, fault: Fault) -> Path:
    from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

    save_tiny_model(folder, fault.family, **(fault.base or {}))
    save_tiny_tokenizer(folder)
    return folder


def _check_that_it_holds(checkpoint: Path) -> None:
    """A fault is caught only if the right graph passes."""
    with tempfile.TemporaryDirectory() as scratch:
        caught, _ = _judge(checkpoint, checkpoint, Path(scratch))
    if caught:
        raise SystemExit(f"Parity fails for the right graph of {checkpoint}.")


def _plant(fault: Fault, checkpoint: Path) -> Verdict:
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(shutil.copytree(checkpoint, Path(scratch) / "other"))
        if fault.change is not None:
            _change_weights(other, fault.change)
        if fault.config is not None:
            content = json.loads((other / "config.json").read_text())
            (other / "config.json").write_text(json.dumps(_merged(content, fault.config)))
        caught, first = _judge(checkpoint, other, Path(scratch) / "out")
    if first is None:
        return Verdict(fault, caught, named=False, module="none")
    return Verdict(fault, caught, named=first.layer == fault.layer, module=first.module)


def _merged(content: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with some fields changed, also within tables."""
    tables = {name: {**content[name], **value} for name, value in change.items() if isinstance(content.get(name), dict)}
    return {**content, **change, **tables}


def _change_weights(checkpoint: Path, change: Callable[[Any], None]) -> None:
    import torch

    from amp_export.checkpoints.loading import load_model

    model = load_model(checkpoint)
    with torch.no_grad():
        change(model)
    model.save_pretrained(checkpoint)


def _judge(reference: Path, exported: Path, output: Path) -> tuple[bool, Any]:
    """Return whether parity fails, and the first value that differs."""
    from amp_export.api.export import export
    from amp_export.checkpoints.reading import open_checkpoint
    from amp_export.exporters.onnx.sessions import exported_graphs
    from amp_export.parity.comparison import compare
    from amp_export.parity.explain.explanation import explain, plan_taps
    from amp_export.progress import Silent

    export(exported, output)
    folder, case = output / "onnx", _case(open_checkpoint(exported).config.architecture.kind)
    report = compare(reference, folder, threads=1, progress=Silent(), cases=[case])
    found = explain(plan_taps(reference, exported_graphs(folder)), case, progress=Silent())
    return not report.holds, found.first


def _case(kind: Any) -> Any:
    """Return a case whose texts are longer than the window of the tiny models, and of different lengths."""
    from amp_export.architectures import Kind
    from amp_export.parity.decoder_cases import Case
    from amp_export.parity.encoder_cases import EncoderCase
    from amp_export.parity.seq2seq_cases import Seq2SeqCase

    cases = {
        Kind.DECODER: Case("padded batch", (4, 11), decode_steps=2),
        Kind.ENCODER: EncoderCase("padded batch", (4, 9)),
        Kind.ENCODER_DECODER: Seq2SeqCase("padded batch", (5, 9), written=4, decode_steps=2),
    }
    return cases[kind]


def _swap_rows(name: str, first: slice, second: slice) -> Callable[[Any], None]:
    """Return a change that swaps rows of a weight, and of its bias."""

    def change(model: Any) -> None:
        module = model.get_submodule(name)
        for parameter in (module.weight, module.bias):
            if parameter is not None:
                rows = parameter[first].clone()
                parameter[first] = parameter[second]
                parameter[second] = rows

    return change


def _swap_weights(first: str, second: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        one, other = model.get_submodule(first).weight, model.get_submodule(second).weight
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)

    return change


def _edit(name: str, edit: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return a change that computes a parameter anew."""

    def change(model: Any) -> None:
        parameter = model.get_parameter(name)
        parameter.copy_(edit(parameter.clone()))

    return change


def _head(number: int) -> slice:
    return slice(number * HEAD_DIM, (number + 1) * HEAD_DIM)


def _add_to_one(weight: Any) -> Any:
    weight[3] += 0.05
    return weight


def _untie(model: Any) -> None:
    import torch

    head = model.lm_head.weight.clone()
    head[:, 0] += 0.05
    model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False


_LLAMA, _GPT2, _BERT, _T5 = (
    f"model.layers.{LAYER}",
    f"transformer.h.{LAYER}",
    f"bert.encoder.layer.{LAYER}",
    f"decoder.block.{LAYER}",
)
_GATED = f"{_T5}.layer.2.DenseReluDense"
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_SCALED = {"rope_parameters": _YARN}
_TIED = {"tie_word_embeddings": True}

FAULTS: tuple[Fault, ...] = (
    Fault("llama", "query heads of a group swapped", _swap_rows(f"{_LLAMA}.self_attn.q_proj", _head(0), _head(1))),
    Fault("llama", "key heads swapped", _swap_rows(f"{_LLAMA}.self_attn.k_proj", _head(0), _head(1))),
    Fault("llama", "gate and up swapped", _swap_weights(f"{_LLAMA}.mlp.gate_proj", f"{_LLAMA}.mlp.up_proj")),
    Fault("llama", "output projection transposed", _edit(f"{_LLAMA}.self_attn.o_proj.weight", lambda weight: weight.T)),
    Fault("llama", "norms swapped", _swap_weights(f"{_LLAMA}.input_layernorm", f"{_LLAMA}.post_attention_layernorm")),
    Fault("llama", "epsilon of norms", config={"rms_norm_eps": 1e-3}, layer=0),
    Fault("llama", "theta of RoPE", config={"rope_parameters": {"rope_theta": 9000.0}}, layer=0),
    Fault("llama", "YaRN left out", config={"rope_parameters": {"rope_type": "default"}}, layer=0, base=_SCALED),
    Fault("llama", "factor of YaRN", config={"rope_parameters": {"factor": 2.0}}, layer=0, base=_SCALED),
    Fault("llama", "tied head untied", _untie, layer=None, base=_TIED),
    Fault("gemma2", "softcap of attention", config={"attn_logit_softcapping": 30.0}, layer=0),
    Fault("gemma2", "softcap of attention left out", config={"attn_logit_softcapping": None}, layer=0),
    Fault("gemma2", "softcap of logits", config={"final_logit_softcapping": 20.0}, layer=None),
    Fault("gemma2", "sliding window by one", config={"sliding_window": 7}, layer=0),
    Fault("gemma2", "scale of queries", config={"query_pre_attn_scalar": 8}, layer=0),
    Fault("gemma2", "offset of a norm", _edit(f"{_LLAMA}.pre_feedforward_layernorm.weight", lambda one: one - 1)),
    Fault("gemma2", "activation", config={"hidden_activation": "gelu"}, layer=0),
    Fault("gpt2", "missing bias of attention", _edit(f"{_GPT2}.attn.c_attn.bias", lambda bias: bias * 0)),
    Fault("gpt2", "missing bias of the output", _edit(f"{_GPT2}.attn.c_proj.bias", lambda bias: bias * 0)),
    Fault("gpt2", "missing bias of a norm", _edit(f"{_GPT2}.ln_2.bias", lambda bias: bias * 0)),
    Fault("gpt2", "queries and keys swapped", _edit(f"{_GPT2}.attn.c_attn.weight", lambda weight: weight.roll(32, 1))),
    Fault("gpt2", "positions by one", _edit("transformer.wpe.weight", lambda weight: weight.roll(1, 0)), layer=None),
    Fault("bert", "query heads swapped", _swap_rows(f"{_BERT}.attention.self.query", _head(0), _head(1))),
    Fault("bert", "missing bias of values", _edit(f"{_BERT}.attention.self.value.bias", lambda bias: bias * 0)),
    Fault("bert", "bias of one neuron", _edit(f"{_BERT}.intermediate.dense.bias", _add_to_one)),
    Fault("bert", "weight of one norm", _edit(f"{_BERT}.output.LayerNorm.weight", _add_to_one)),
    Fault("t5", "key heads swapped", _swap_rows(f"{_T5}.layer.1.EncDecAttention.k", _head(0), _head(1))),
    Fault("t5", "gate and up swapped", _swap_weights(f"{_GATED}.wi_0", f"{_GATED}.wi_1")),
    Fault("t5", "neuron of the encoder", _edit(f"encoder.block.{LAYER}.layer.1.DenseReluDense.wo.weight", _add_to_one)),
    Fault("t5", "norm of the decoder", _edit(f"{_T5}.layer.0.layer_norm.weight", _add_to_one)),
)  # fmt: skip
