"""The proof, family by family: what is pruned, how it is said, that it reloads bit for bit, and which graphs it makes.

With AMP_EXPORT_SUPPORT_ROWS set to a directory, each family leaves there what docs/support.md says of it. Tracing
takes minutes: without AMP_EXPORT_ALL_WAYS, one family of each way of tracing is traced, here or by other tests.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amp_export.architectures import Kind, LayerWidths, ModelConfig, find_architecture, supported_model_types
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.onnx import can_build
from amp_export.exporters.onnx import run as open_graph
from amp_export.exporters.support import can_trace
from amp_export.exporting.run import export_into
from amp_export.exporting.settings import ExportSettings
from amp_export.options import Dtype, Format, HeadPolicy, Opset, PerLayer, Via
from amp_export.outputs.manifest import RewriteKind
from amp_export.parity.comparison import compare
from amp_export.parity.decoder_cases import Case, replay
from amp_export.progress import Silent
from amp_export.pruning.plan import Plan, removed_ratio
from amp_export.pruning.planning import keep_most_important
from amp_export.pruning.reload_check import Claim, expect, prove_reloads
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.saving import save_pruned
from amp_export.pruning.scores import Scores
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.slicing import prune_module
from tests.support.family_runner import mask, measured_scores, run
from tests.support.forms import ALL_FAMILIES
from tests.support.plans import make_plan
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

pytestmark = pytest.mark.slow

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

SHAPE = {"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8, "hidden_size": 48}
ODD_HEADS = 5
"""It does not divide the hidden size of 48."""

TRACED_TOO = ("falcon", "llama", "modernbert")
"""Families that are traced in every run: two that are built directly, whose graphs must agree, and the encoder with the
most of its own."""

TRACED_ELSEWHERE = ("bert", "hubert", "t5", "vit", "whisper")
"""Families that are traced alone in every run: by cli/test_kinds.py, doctor/test_dry_run.py and
exporters/onnx/test_tracing.py."""


def way_of_tracing(model_type: str) -> tuple[Any, ...]:
    """What decides how a family is traced: kind, modality, raw audio or patches, and whether it has experts."""
    facts = find_architecture(model_type)
    return facts.kind, facts.modality, facts.convolutions is not None, facts.takes_patches, facts.mlp.has_experts


REPRESENTATIVES: dict[tuple[Any, ...], str] = {}
"""The family that is traced in every run for all that are traced alike."""
for each in (*TRACED_ELSEWHERE, *supported_model_types()):
    REPRESENTATIVES.setdefault(way_of_tracing(each), each)

CASES = (Case("prefill", (9,)), Case("decode", (3,), decode_steps=3), Case("padded batch", (2, 5), decode_steps=2))


def plans_of(checkpoint: Checkpoint, scores: Scores) -> dict[str, Plan]:
    """Three ratios: neurons alone, an odd number of heads, and layers that differ."""
    config = checkpoint.config
    step = 8 if config.architecture.mlp.has_experts else 1
    neurons = make_plan(checkpoint.raw_config, config, scores, PlanSettings(0.1, heads=HeadPolicy.NONE, snap=step))
    tied = config.tied_layers
    differing = PlanSettings(
        0.1 if config.architecture.heads_stay else 0.2,
        heads=HeadPolicy.NONE if tied else HeadPolicy.AUTO,
        snap=step,
        heads_per_layer=PerLayer.UNIFORM if tied else PerLayer.GLOBAL,
        neurons_per_layer=PerLayer.GLOBAL,
    )
    odd = {} if config.architecture.heads_stay else {"odd heads": odd_plan(config, scores)}
    return {
        "neurons": neurons,
        **odd,
        "layers differ": lopsided(config, make_plan(checkpoint.raw_config, config, scores, differing)),
    }


def odd_plan(config: ModelConfig, scores: Scores) -> Plan:
    widths = LayerWidths(ODD_HEADS, ODD_HEADS, 24)
    sites = config.everywhere(widths)
    # the heads of some families must be the same in all layers
    shared = [sum(scores.heads)] * len(sites) if config.tied_layers else scores.heads
    layers = tuple(
        keep_most_important(config, np.asarray(heads), neurons, layer)
        for heads, neurons, layer in zip(shared, scores.neurons, sites, strict=True)
    )
    return Plan(layers=layers, asked=None, achieved=removed_ratio(config, sites))


def lopsided(config: ModelConfig, plan: Plan) -> Plan:
    """The same, but with one layer that keeps fewer neurons where the scores made all alike."""
    if config.common_widths(plan.widths) is None:
        return plan
    first = plan.layers[0]
    half = first.widths.neurons // 2
    narrow = replace(first, neurons=first.neurons[:half], experts=tuple(kept[:half] for kept in first.experts))
    layers = (narrow, *plan.layers[1:])
    return replace(plan, layers=layers, achieved=removed_ratio(config, [layer.widths for layer in layers]))


@pytest.mark.parametrize("model_type", supported_model_types())
def test_family(model_type: str, tmp_path: Path) -> None:
    # an encoder with a decoder has two layers if each has one
    layers = 1 if find_architecture(model_type).kind is Kind.ENCODER_DECODER else 2
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type, **SHAPE, num_hidden_layers=layers))
    config = checkpoint.config
    save_tiny_tokenizer(checkpoint.path)
    dense = load_model(checkpoint.path)
    plans = plans_of(checkpoint, measured_scores(dense, config))
    row: dict[str, Any] = {"model_type": model_type, "kind": config.architecture.kind.value, "rewrites": {}}
    claims = []
    for name, plan in plans.items():
        pruned = prune_module(copy.deepcopy(dense), config, plan)
        rewritten = rewrite(checkpoint.raw_config, config, plan.widths)
        folder = tmp_path / name.replace(" ", "-")
        tokenizer = load_tokenizer(checkpoint.path)
        save_pruned(folder, pruned, rewritten, companions=checkpoint.companions(), tokenizer=tokenizer)
        expected = expect(pruned, config, tokenizer)
        claims.append(Claim(folder, expected, stock=rewritten.is_stock))
        row["rewrites"][name] = {"kind": rewritten.kind.value, "class": rewritten.class_name}
        torch.testing.assert_close(
            run(pruned.double(), config), run(mask(dense, config, plan), config), rtol=0, atol=1e-5
        )
    conditions = config.architecture.says_neurons_when
    says_neurons = conditions is not None and config.meets(conditions)
    expected_kind = RewriteKind.SAME_CLASS if says_neurons else RewriteKind.RESIZED_CLASS
    assert row["rewrites"]["neurons"]["kind"] == expected_kind.value
    assert row["rewrites"]["layers differ"]["kind"] == RewriteKind.RESIZED_CLASS.value
    # in a process that cannot import this package
    assert [proof.logits_compared > 0 for proof in prove_reloads(claims)] == [True] * len(plans)
    ways = [Via.DIRECT] if can_build(config) is None else []
    ways += [Via.TRACE] if can_trace(config) is None else []
    row["exporters"] = [via.value for via in ways]
    exported = open_checkpoint(tmp_path / ("odd-heads" if "odd heads" in plans else "layers-differ"))
    check_exports(exported, tmp_path, ways_to_try(model_type, ways))
    row["genai"] = (tmp_path / "direct" / "onnx" / "genai_config.json").is_file()
    routes = config.architecture.gguf
    row["gguf"] = [] if routes is None else [name for name in (routes.uniform, routes.varied) if name is not None]
    if rows := os.environ.get("AMP_EXPORT_SUPPORT_ROWS"):
        (Path(rows) / f"{model_type}.json").write_text(json.dumps(row), encoding="utf-8")


def ways_to_try(model_type: str, ways: Sequence[Via]) -> Sequence[Via]:
    """The ways to export a family that this run takes; where it is built directly, that comes first."""
    if ALL_FAMILIES or model_type in TRACED_TOO:
        return ways
    if Via.DIRECT in ways:
        return ways[:1]
    is_representative = REPRESENTATIVES[way_of_tracing(model_type)] == model_type
    return ways if is_representative and model_type not in TRACED_ELSEWHERE else []


def check_exports(checkpoint: Checkpoint, folder: Path, ways: Sequence[Via]) -> None:
    """Exports in several ways, holds each graph against the model, and the graphs against each other."""
    tolerances, logits = [], []
    for via in ways:
        settings = ExportSettings(Format.ONNX, Dtype.FLOAT32, Opset.OPSET_23, via)
        graph = export_into(folder / via, checkpoint, settings, progress=Silent()).folder
        decoder = checkpoint.config.architecture.kind is Kind.DECODER
        report = compare(checkpoint.path, graph, progress=Silent(), cases=CASES if decoder else None)
        assert report.holds, report.cases
        tolerances.append(report.tolerance)
        if len(ways) > 1:
            logits.append(replayed(graph, checkpoint.config.vocab_size))
    if len(ways) > 1:
        np.testing.assert_allclose(*logits, rtol=0, atol=sum(tolerances))


def replayed(graph: Path, vocab_size: int) -> np.ndarray:
    """The logits of a decoder's graph over all cases."""
    pool = np.random.default_rng(0).integers(vocab_size, size=64)
    decoder = open_graph(graph)
    assert isinstance(decoder, GraphDecoder)
    return np.concatenate([replay(case, pool, decoder.forward) for case in CASES])
