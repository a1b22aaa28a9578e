"""Sample reports of every kind, with invented numbers."""

from __future__ import annotations

import hashlib
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from msgspec import structs

from amp_export.benchmarking.device_results import (
    DeviceBenchmark,
    DeviceFacts,
    DeviceMeasurement,
    DeviceReport,
    PowerSource,
)
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.documents import convert, to_builtins
from amp_export.evaluation.estimates import Estimate, average
from amp_export.evaluation.generation import GenerationResult, Text
from amp_export.evaluation.measuring import Evaluation, Measured, compare
from amp_export.evaluation.perplexity import PerplexityResult, WordPerplexityResult
from amp_export.evaluation.scoring import Metric, TaskResult
from amp_export.evaluation.summaries import EvaluationSummary, summarize
from amp_export.options import Dtype, Format, Phase, Via
from amp_export.outputs.manifest import FileRecord, Manifest, PlanSummary, SourceRecord
from amp_export.parity.results import CaseResult, Explanation, Greedy, ParityReport, Point
from amp_export.pruning.plan import LayerPlan, Plan
from amp_export.pruning.quality import Quality
from amp_export.pruning.scores import Scores
from amp_export.reporting.checks import Against, Check
from amp_export.reporting.report import PruningSection, Report

LAYERS, HEADS, GROUPS, NEURONS = 30, 9, 3, 96

CONFIG = {
    "model_type": "llama",
    "hidden_size": 72,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}


def plan() -> Plan:
    """Return a plan whose layers differ: some lose a head of each group, and later layers lose more neurons."""
    layers = []
    for layer in range(LAYERS):
        heads = tuple(head for head in range(HEADS) if layer % 3 or head % 3)
        layers.append(LayerPlan(heads, tuple(range(GROUPS)), tuple(range(layer // 2, NEURONS))))
    return Plan(tuple(layers), asked=0.2, achieved=0.19, settings={"allocation": "balanced", "snap": 1})


def save_layers(folder: Path) -> None:
    """Write scores and plan, as pruning does."""
    generator = np.random.default_rng(0)
    heads, neurons = (
        tuple(generator.lognormal(size=count).astype(np.float32) for _ in range(LAYERS)) for count in (HEADS, NEURONS)
    )
    Scores(heads, neurons, "8 prompts of prompts.txt").save(folder / "scores.safetensors")
    plan().save(folder / "plan.json")


def pruning() -> PruningSection:
    dense = {"query_heads": HEADS, "key_value_heads": GROUPS, "neurons": NEURONS}
    kept = [widths.__dict__ for widths in plan().widths]
    reload = {"holds": True, "class_name": "LlamaForCausalLM", "logits_compared": 1234, "tokens_compared": 7}
    content = {
        "asked": 0.2,
        "achieved": 0.19,
        "parameters_before": 1_000_000,
        "parameters_after": 810_000,
        "widths_before": dense,
        "widths": kept,
        "settings": {"allocation": "balanced", "snap": 1},
        "reasons": {"heads": "as many as the plan says", "neurons": "what the heads leave"},
        "notes": ["19.00% is removed instead of 20.00%."],
        "calibration": "8 prompts of prompts.txt",
        "rewrite": {"kind": "resized class", "class": "LlamaForCausalLM", "reason": "layers differ"},
        "reload": reload,
    }
    return convert(content, PruningSection, source="pruning")


def case(name: str, *, output: str = "logits", share: float = 0.3) -> CaseResult:
    """Return a case whose largest error is this share of its tolerance."""
    content = {
        "name": name,
        "output": output,
        "positions": 17,
        "max_error": share * 4e-4,
        "mean_error": share * 3e-5,
        "noise": 1e-4,
        "mean_noise": 1e-5,
        "tolerance": 4e-4,
        "mean_tolerance": 4e-5,
        "relative_error": share * 1e-5,
        "kl": share * 1e-8 if output == "logits" else None,
        "top1_agreement": 1.0,
        "top5_agreement": 1.0,
        "near_ties": 0,
        "holds": share <= 1,
    }
    return convert(content, CaseResult, source="case")


GRAPH, WEIGHTS = b"a graph", b"weights"
CONTENT = {"onnx/model.onnx": GRAPH, "pruned/model.safetensors": WEIGHTS}
FILES = {name: FileRecord(hashlib.sha256(content).hexdigest(), len(content)) for name, content in CONTENT.items()}
_FILES = Manifest(SourceRecord("m", "p", "0"), config_before={}, files=FILES)
JUDGED = _FILES.judged("onnx")


def parity(*cases: CaseResult) -> ParityReport:
    return ParityReport(
        runtime="ONNX Runtime 1.32.0",
        dtype="float32",
        reference_dtype="float64",
        noise=1e-4,
        noise_factor=4.0,
        tolerance=4e-4,
        mean_tolerance=4e-5,
        cases=cases,
        holds=all(each.holds for each in cases),
        judged=JUDGED,
    )


def explanation() -> Explanation:
    """Return three values per layer; those from layer 7 on exceed the tolerance, and one is NaN."""
    points = []
    for layer in (None, *range(LAYERS)):
        for module in ("input_layernorm", "self_attn", "mlp"):
            error = 1e-2 if layer is not None and layer >= 7 else 1e-6
            name = f"model.layers.{layer}.{module}" if layer is not None else f"model.{module}"
            if layer == LAYERS - 1 and module == "mlp":
                error = float("nan")
            holds = error <= 1e-5
            points.append(Point("model.onnx", name, layer, f"{name}_output", "Add", error, 1e-6, 1e-5, holds))
    first = next(point for point in points if not point.holds)
    return Explanation("prefill of 17 tokens", tuple(points), first, ("Add",))


def phase(seconds: float, *, speedup: float, calls: int = 1, seed: int = 0) -> PhaseResult:
    """Return the samples of 20 rounds, one of them an outlier."""
    generator = np.random.default_rng(seed)
    dense = seconds * generator.lognormal(sigma=0.1, size=(20, calls))
    pruned = seconds / speedup * generator.lognormal(sigma=0.1, size=(20, calls))
    dense[3, 0] *= 4
    return PhaseResult.of(dense.tolist(), pruned.tolist(), launches=4)


def benchmark(*, decodes: bool = True) -> BenchmarkReport:
    subjects = {
        name: {
            "bytes_on_disk": size,
            "peak_memory_bytes": 2 * size,
            "load_seconds": 0.5,
            "weight_bytes_per_token": size if decodes else None,
            "cache_bytes_per_token": 1_000_000 if decodes else None,
            "bandwidth_share": 0.7 if decodes else None,
        }
        for name, size in (("dense", 500_000_000), ("pruned", 400_000_000))
    }
    phases = {"forward": phase(0.2, speedup=1.0)}
    if decodes:
        phases = {"prefill": phase(0.2, speedup=1.2), "decode": phase(0.02, speedup=1.15, calls=16, seed=1)}
    content = {
        "name": "onnxruntime",
        **subjects,
        "phases": to_builtins(phases),
        "roofline": {"allowed_gain": 1.25, "realised_gain": 0.92, "interval": [0.9, 0.94]} if decodes else None,
        "batch_size": 1,
        "sweep": [],
        "rounds": 20,
        "launches": 4,
        "warm_up_rounds": 8,
        "unsettled_launches": 0,
        "pinned": [0, 1],
        "clock": "wall clock",
        "gpu": None,
        "prompt_tokens": 128 if decodes else 0,
        "decode_tokens": 16 if decodes else 0,
        "threads": 2,
        "runtime": "ONNX Runtime 1",
        "machine": {"processor": "a processor", "cores": 2, "system": "Linux x86_64"},
        "bandwidth_bytes_per_second": 3e10,
        "seed": 0,
        "judged": {"part": JUDGED.part, "sha256": JUDGED.sha256},
    }
    return convert(content, BenchmarkReport, source="benchmark")


def device() -> DeviceReport:
    """Return the report of a device that measures power and does not know the noise."""
    here = benchmark()
    measured = DeviceMeasurement(
        bytes_on_disk=here.dense.bytes_on_disk,
        peak_memory_bytes=here.dense.peak_memory_bytes,
        load_seconds=here.dense.load_seconds,
        gpu_memory_bytes=3e8,
        joules_per_decoded_token=0.25,
    )
    decode = here.phases[Phase.DECODE]
    decode = replace(
        decode,
        dense=replace(decode.dense, tokens_per_second=50.0),
        pruned=replace(decode.pruned, tokens_per_second=50.0),
    )
    one = replace(
        case("17 tokens"), noise=None, mean_noise=None, tolerance=None, mean_tolerance=None, relative_error=None
    )
    found = structs.replace(parity(one), tolerance=1e-3, mean_tolerance=1e-4)
    return DeviceReport(
        runtime="TensorRT 10.3.0",
        facts=DeviceFacts(model="Jetson Orin Nano", system="Linux aarch64"),
        parity={"dense": found, "pruned": found},
        holds=True,
        power=PowerSource("tegrastats", ("VDD_IN",)),
        judged=JUDGED,
        benchmark=DeviceBenchmark(
            dense=measured,
            pruned=replace(measured, bytes_on_disk=here.pruned.bytes_on_disk),
            phases={**here.phases, Phase.DECODE: decode},
            rounds=here.rounds,
            launches=here.launches,
            warm_up_rounds=here.warm_up_rounds,
            interleaved="by round",
            prompt_tokens=here.prompt_tokens,
            decode_tokens=here.decode_tokens,
            seed=here.seed,
            threads=here.threads,
        ),
    )


def evaluation(part: str = "pruned", *, lost: int = 3) -> EvaluationSummary:
    """Return an evaluation on tasks, a text and prompts, in which some questions of the first task are lost.

    The last task is one of whole texts, of the LM Evaluation Harness.

    Args:
        part: The part of the output that was measured.
        lost: How many of the first task's 40 questions only the dense model answers correctly.
    """
    dense = {"piqa": [True] * 30 + [False] * 10, "winogrande": [True] * 12 + [False] * 13}
    ours = {"piqa": [True] * (30 - lost) + [False] * (10 + lost), "winogrande": [False] + [True] * 12 + [False] * 12}
    metrics = {"piqa": Metric.ACC_NORM, "winogrande": Metric.ACC}
    losses, others, tokens = [70.0, 74.0, 76.0], [60.0, 66.0, 68.0], [20, 21, 22]
    measured = []
    for name, answers, found in ((f"out/{part}", ours, losses), ("org/a-model", dense, others)):
        tasks = {
            task: TaskResult(metrics[task], {metrics[task]: Estimate.of(correct)}, 0.55, (), tuple(correct))
            for task, correct in answers.items()
        }
        perplexity = math.exp(sum(found) / sum(tokens))
        text = PerplexityResult(perplexity, 0.4, tuple(found), tuple(tokens), 32, 16, "the hash")
        written = tuple(Text("Say one.", "One.", count, 0.9, None) for count in (5, 7))
        texts = GenerationResult(written, Estimate(6.0, 1.0, 2), Estimate(0.9, 0.0, 2), None)
        mean = average([task.accuracy for task in tasks.values()])
        pages = WordPerplexityResult.of([2 * loss for loss in found], (14, 15, 16))
        measured.append(Measured(name, tasks, mean, text, texts, {"wikitext": pages}))
    model, against = measured
    whole = Evaluation(model, against, compare(model, against), 40, ("It was short.",), {"torch": "2.13.0"})
    files = {
        f"{name}": hashlib.sha256(name.encode()).hexdigest() for name in ("piqa.jsonl", "winogrande.jsonl", "wikitext")
    }
    return summarize(whole, _FILES.judged(part), files=files, new_tokens=16)


def full_report() -> Report:
    """Return the report of a decoder with all measurements, some of which fail."""
    long_name = "left-padded batch of 5, 11 and 17 tokens, and then 4 decode steps that follow each other"
    cases = [
        case("prefill of 17 tokens"),
        case(long_name, share=0.9),
        case("hidden", output="pooler_output", share=9.0),
    ]
    return Report(
        "org/a-model",
        pruning=pruning(),
        quality=Quality(22.8, 34.2, "2 prompts held out from calibration", kl=0.412, top1_agreement=0.75),
        parity=structs.replace(
            parity(*cases, case("no number", share=float("nan"))),
            greedy=Greedy(steps=64, common=11, near_tie=False, holds=False),
            explanation=explanation(),
        ),
        benchmarks={"onnxruntime": benchmark()},
        devices={"orin.local": device()},
        evaluations={"pruned": evaluation(), "onnx": evaluation("onnx", lost=20)},
        checks=(
            Check("max_kl", True, "3e-09 is at most 0.0001", Against.THRESHOLDS),
            Check("max_size", False, "600 MB is above 500 MB by 100 MB (20.0%)", Against.THRESHOLDS),
            Check("size", True, "600 MB before, 600 MB now (+0.00%); no regression is tolerated", Against.BASELINE),
        ),
        packages={"torch": "2.13.0", "numpy": "2.4.6"},
    )


def large_report() -> Report:
    """Return the report of a model of 100 GB on a machine that takes minutes to load it."""
    measured = benchmark()
    dense, pruned = (
        replace(model, bytes_on_disk=123_456_700_000, peak_memory_bytes=234_567_800_000, load_seconds=seconds)
        for model, seconds in ((measured.dense, 123.4567), (measured.pruned, 1023.4567))
    )
    return replace(full_report(), benchmarks={"onnxruntime": replace(measured, dense=dense, pruned=pruned)})


def encoder_report() -> Report:
    """Return the report of an encoder, without decoding; its parity holds."""
    return Report(
        "an-encoder",
        pruning=pruning(),
        parity=parity(case("1 image"), case("batch of 3 images")),
        benchmarks={"onnxruntime": benchmark(decodes=False)},
    )


def bare_report() -> Report:
    """Return the report of an export without pruning and without measurements."""
    return Report("as-it-is")


def manifest(report: Report) -> Manifest:
    pruning = report.pruning
    plan = None
    if pruning is not None:
        plan = PlanSummary(**{field.name: getattr(pruning, field.name) for field in fields(PlanSummary)})
    return Manifest(
        SourceRecord(report.model, "/somewhere", "ab" * 32),
        config_before=CONFIG,
        plan=plan,
        rewrite=None if pruning is None else pruning.rewrite,
        exports={Format.ONNX: Dtype.FLOAT32},
        exporters={Format.ONNX: Via.DIRECT},
        files=FILES,
    )


def save_graph(folder: Path) -> None:
    """Write the files that the reports are about."""
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(content)
