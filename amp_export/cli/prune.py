"""The command `prune`."""

from __future__ import annotations

from typing import Any

from amp_export.cli.options import (
    DEFAULT_MODEL,
    AllocationOption,
    AllowPickle,
    Calibration,
    Heads,
    HeadsPerLayer,
    Model,
    NeuronsPerLayer,
    Output,
    Overwrite,
    PlanOption,
    Ratio,
    ScoresOption,
    Snap,
    TargetOption,
    UniformOption,
)
from amp_export.cli.running import examples, run_command
from amp_export.options import Allocation, HeadPolicy, PerLayer, TargetName, Uniform

EXAMPLES = examples(
    "amp-export prune --model demo --ratio 0.1 --output out",
    "amp-export prune --model demo --plan out/plan.json --output out2",
)


def prune(
    output: Output,
    model: Model = DEFAULT_MODEL,
    ratio: Ratio = None,
    allocation: AllocationOption = Allocation.BALANCED,
    heads: Heads = HeadPolicy.AUTO,
    snap: Snap = None,
    target: TargetOption = TargetName.CPU,
    heads_per_layer: HeadsPerLayer = PerLayer.UNIFORM,
    neurons_per_layer: NeuronsPerLayer = PerLayer.UNIFORM,
    uniform: UniformOption = Uniform.RESIZE,
    calibration: Calibration = None,
    scores: ScoresOption = None,
    plan: PlanOption = None,
    allow_pickle: AllowPickle = False,
    overwrite: Overwrite = False,
) -> None:
    """Score, plan, slice and rewrite: writes scores, plan and a checkpoint that plain transformers loads."""

    def work(console: Any) -> None:
        from amp_export.api.prune import prune as run
        from amp_export.cli.console import ConsoleProgress

        result = run(
            model,
            output=output,
            ratio=ratio,
            allocation=allocation,
            heads=heads,
            snap=snap,
            target=target,
            heads_per_layer=heads_per_layer,
            neurons_per_layer=neurons_per_layer,
            uniform=uniform,
            calibration=calibration,
            scores=scores,
            plan=plan,
            allow_pickle=allow_pickle,
            overwrite=overwrite,
            progress=ConsoleProgress(console),
        )
        console.print(f"{result.plan.achieved:.2%} removed. {result.reload}.", soft_wrap=True)
        if result.quality is not None:
            quality = result.quality
            console.print(
                f"Perplexity {quality.dense:.2f} -> {quality.pruned:.2f}, KL divergence {quality.kl:.3g} nats, the "
                f"same first choice for {quality.top1_agreement:.1%} of the tokens of {quality.text}.",
                soft_wrap=True,
            )
        for note in result.notes:
            console.print(f"Note: {note}", soft_wrap=True)
        console.print(f"Written: {result.folder}", soft_wrap=True)

    run_command(work)
