"""The verb `validate`: does the exported graph compute what the pruned PyTorch model computes?

The tolerance is not a constant. PyTorch itself runs the model in the graph's precision and in a higher one; how far the
two are apart is the noise of this model's arithmetic. A graph that is right is about as far from the higher precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import OutputError
from amp_export.exporters import Precision
from amp_export.loading import load_model
from amp_export.manifest import Manifest
from amp_export.progress import Progress, Silent
from amp_export.reporting import update_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.parity_cases import Case, Floats, Integers

NOISE_FACTOR = 4.0
"""How many times PyTorch's own noise a graph may be off: two runtimes sum in different orders, and each order is a draw
from the same noise; the worst of millions of logits is seldom more than twice another draw's worst."""

REFERENCE = {Precision.FLOAT32: "float64", Precision.FLOAT16: "float32", Precision.BFLOAT16: "float32"}
"""The higher precision that each precision's noise is measured against."""


@dataclass(frozen=True)
class CaseResult:
    """How one case came out.

    Attributes:
        name: The case.
        positions: Real token positions compared.
        max_error: Largest absolute difference of a logit between graph and reference.
        mean_error: Mean absolute difference.
        noise: Largest absolute difference between PyTorch in the graph's precision and the reference.
        mean_noise: The mean of that difference.
        top1_agreement: Share of positions at which graph and reference rank the same token first.
        holds: Whether both errors are within their tolerance.
    """

    name: str
    positions: int
    max_error: float
    mean_error: float
    noise: float
    mean_noise: float
    top1_agreement: float
    holds: bool


@dataclass(frozen=True)
class ParityReport:
    """Whether the graph computes what the model computes.

    Attributes:
        precision: The graph's precision.
        reference_precision: What PyTorch computed the reference in.
        noise: The largest noise over all cases.
        noise_factor: How many times the noise is tolerated.
        tolerance: What the largest error of a case may be: noise times factor.
        mean_tolerance: What its mean error may be: the largest mean noise times factor. Small faults show here.
        cases: Every case.
        holds: Whether all of them hold.
    """

    precision: str
    reference_precision: str
    noise: float
    noise_factor: float
    tolerance: float
    mean_tolerance: float
    cases: tuple[CaseResult, ...]
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def validate(
    output: Path,
    *,
    reference: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Checks parity of what an output directory holds, and writes the result into its report.

    Args:
        output: What `export` or the whole run wrote.
        reference: The checkpoint that was exported; by default the one the manifest names.
        threads: Threads of the runtime; by default one for each core.
        progress: Where to show what is going on.

    Returns:
        The result, whether parity holds or not.

    Raises:
        OutputError: `output` holds no graph, or its checkpoint is gone.
    """
    manifest = Manifest.load(output)
    checkpoint = reference or exported_checkpoint(output, manifest)
    report = compare(checkpoint, output / "onnx", threads=threads, progress=progress or Silent())
    update_report(output, manifest, parity=report.to_json())
    return report


def exported_checkpoint(output: Path, manifest: Manifest) -> Path:
    """The checkpoint that the graph in an output directory was exported from.

    Raises:
        OutputError: It is no longer there.
    """
    if (output / "pruned").is_dir():
        return output / "pruned"
    path = Path(manifest.source.path)
    if not path.is_dir():
        raise OutputError(
            f"The graph in {output} was exported from {manifest.source.asked}, found then at {path}, which is gone.\n"
            "Name the checkpoint with --reference."
        )
    return path


def compare(
    checkpoint: Path,
    graph: Path,
    *,
    threads: int | None = None,
    progress: Progress,
    cases: Sequence[Case] | None = None,
) -> ParityReport:
    """Compares a graph with the checkpoint it came from.

    Raises:
        ModelError: The checkpoint or the graph cannot be read.
        MissingExtraError: The runtime is not installed.
    """
    from amp_export.checkpoints import open_checkpoint
    from amp_export.exporters.onnx import run
    from amp_export.parity_cases import DEFAULT_CASES, cases_within, replay, token_pool

    config = open_checkpoint(checkpoint).config
    chosen = cases_within(tuple(cases or DEFAULT_CASES), config.max_position_embeddings)
    pool = token_pool(checkpoint, config.vocab_size)
    decoder = run(graph, threads=threads)
    precision = decoder.precision
    with progress.step(f"Running the graph ({precision.value})") as _:
        found = [replay(case, pool, decoder.forward) for case in chosen]
    decoder.close()
    with progress.step(f"Running PyTorch in {REFERENCE[precision]}") as _:
        expected = _run_torch(checkpoint, REFERENCE[precision], chosen, pool)
    with progress.step(f"Running PyTorch in {precision.value}") as _:
        same_precision = _run_torch(checkpoint, precision.value, chosen, pool)

    noises = [_distance(one, other) for one, other in zip(same_precision, expected, strict=True)]
    noise, mean_noise = (max(each) for each in zip(*noises, strict=True))
    results = tuple(
        _judge(
            case, graph_logits, reference_logits, case_noise, limits=(NOISE_FACTOR * noise, NOISE_FACTOR * mean_noise)
        )
        for case, graph_logits, reference_logits, case_noise in zip(chosen, found, expected, noises, strict=True)
    )
    return ParityReport(
        precision=precision.value,
        reference_precision=REFERENCE[precision],
        noise=noise,
        noise_factor=NOISE_FACTOR,
        tolerance=NOISE_FACTOR * noise,
        mean_tolerance=NOISE_FACTOR * mean_noise,
        cases=results,
        holds=all(result.holds for result in results),
    )


def _judge(
    case: Case,
    found_pv: Floats,
    expected_pv: Floats,
    noise: tuple[float, float],
    *,
    limits: tuple[float, float],
) -> CaseResult:
    worst, mean = _distance(found_pv, expected_pv)
    return CaseResult(
        name=case.name,
        positions=len(found_pv),
        max_error=worst,
        mean_error=mean,
        noise=noise[0],
        mean_noise=noise[1],
        top1_agreement=float((found_pv.argmax(axis=1) == expected_pv.argmax(axis=1)).mean()),
        # a NaN compares false, so it fails
        holds=worst <= limits[0] and mean <= limits[1],
    )


def _distance(one_pv: Floats, other_pv: Floats) -> tuple[float, float]:
    """The largest and the mean absolute difference."""
    difference_pv = abs(one_pv - other_pv)
    return float(difference_pv.max()), float(difference_pv.mean())


def _run_torch(checkpoint: Path, precision: str, cases: Sequence[Case], pool: Integers) -> list[Floats]:
    import torch
    from transformers import DynamicCache

    from amp_export.parity_cases import replay

    model = load_model(checkpoint, dtype=getattr(torch, precision))
    if precision == "float64" and model.config._attn_implementation == "eager":
        _keep_padding_finite(model)
    # transformers 5.24 renamed the argument and warns at the old name
    cache_argument = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def forward(
        input_ids_bs: Integers, attention_mask_bt: Integers, position_ids_bs: Integers, past: DynamicCache | None
    ) -> tuple[Floats, DynamicCache]:
        cache = past if past is not None else DynamicCache(config=model.config)
        result = model(
            input_ids=torch.from_numpy(input_ids_bs),
            attention_mask=torch.from_numpy(attention_mask_bt),
            position_ids=torch.from_numpy(position_ids_bs),
            use_cache=True,
            **{cache_argument: cache},
        )
        return result.logits.double().numpy(), cache

    with torch.inference_mode():
        return [replay(case, pool, forward) for case in cases]


def _keep_padding_finite(model: PreTrainedModel) -> None:
    """Clears what a layer makes of padding that sees no token at all, which nothing looks at.

    Eager attention takes the softmax in float32, where float64's lowest number, the mask, is minus infinity: NaN, which
    the next layer's values would carry to the real tokens. Source: `eager_mask`, `masking_utils.py`, transformers 5.24.
    """
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    def clear(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        del module, inputs
        if not isinstance(output, torch.Tensor):
            return output
        sees_nothing = output.isnan().all(dim=-1, keepdim=True)
        return output.masked_fill(sees_nothing, 0.0)

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.register_forward_hook(clear)
