"""Options of the commands that prune a model, train it, and find out what is possible."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from amp_export.options import (
    Allocation,
    CriterionName,
    HeadPolicy,
    PerLayer,
    RecoveryMethod,
    TargetName,
    Uniform,
)


@dataclass(frozen=True, kw_only=True)
class PlanChoices:
    """Rules by which a plan chooses the heads and neurons that each layer keeps.

    Attributes:
        criterion: What importance is; by default `obs` for decoders without experts, and the paper's for other models
            and with the paper's allocation.
        allocation: How the budget is divided between attention heads and neurons, and between layers; by default by
            divergence, where that can be measured.
        heads: Which attention heads may be pruned.
        snap: Keep a multiple of this many neurons; by default the target's multiple; for the paper's rule 1, or 8 with
            experts.
        target: The device whose kernels the widths should suit; it decides the default of `snap`.
        one_width: Whether all layers keep the same numbers of heads and neurons, so that a stock class has them.
        heads_per_layer: Whether all layers keep the same number of heads; by default if the budget is allocated
            neither by divergence nor by FLAP's rule, or `one_width` asks for it.
        neurons_per_layer: Whether all layers keep the same number of neurons; the same default.
    """

    criterion: CriterionName | None = None
    allocation: Allocation | None = None
    heads: HeadPolicy = HeadPolicy.AUTO
    snap: int | None = None
    target: TargetName = TargetName.CPU
    one_width: bool = False
    heads_per_layer: PerLayer | None = None
    neurons_per_layer: PerLayer | None = None


@dataclass(frozen=True, kw_only=True)
class PruneOptions(PlanChoices):
    """The options of `prune`, in addition to those of `PlanChoices`.

    Attributes:
        ratio: Share of all parameters to remove; give it or `plan`.
        uniform: How to store layers of different widths.
        calibration: Prompts (`.txt`, `.jsonl`), images or audio (`.npz`, `.safetensors`) to score on, or `alpaca` for
            the paper's dataset, which is downloaded; by default, for text models, prompts shipped with this package.
        scores: Scores of an earlier run, used instead of a calibration pass.
        plan: A plan file to follow instead of a ratio.
        compensate: Whether to update what is kept, so that it makes up for what is removed.
        fitting_tokens: Largest number of calibration tokens to compensate on. Scoring takes half of them, unless
            it is by the paper's measure, and measuring divergences takes few.
        allow_pickle: Read torch pickles if there is no safetensors file; their code is never run.
    """

    ratio: float | None = None
    uniform: Uniform = Uniform.RESIZE
    calibration: Path | None = None
    scores: Path | None = None
    plan: Path | None = None
    compensate: bool = True
    fitting_tokens: int = 12_288
    allow_pickle: bool = False

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Names of the options that differ from their defaults, but that a plan leaves without effect."""
        if self.plan is None:
            return ()
        replaced = {*(each.name for each in fields(PlanChoices)), "scores"}
        return tuple(
            each.name for each in fields(self) if each.name in replaced and getattr(self, each.name) != each.default
        )


@dataclass(frozen=True, kw_only=True)
class RecoverOptions:
    """The options of `recover`.

    Attributes:
        method: How the pruned model is trained.
        text: Text to train on: for distillation `.txt` or `.jsonl`, by default the text shipped with this package; for
            LoRA a `.jsonl` of instructions with their outputs, by default the paper's dataset, which is downloaded.
        minutes: Minutes after which training ends; by default without a limit if `steps` or `epochs` is given or with
            LoRA, otherwise 10.
        steps: Number of steps after which it ends; by default without a limit.
        epochs: Epochs after which it ends, of LoRA alone; by default 2, or without a limit if another limit is given.
        learning_rate: The largest learning rate; by default 2e-4 for distillation and 3e-4 for LoRA.
        windows_per_step: Windows of text, of 512 tokens each, that a step of distillation trains on; by default 1.
        seed: Seed of the order of the text, and of all that LoRA draws.
    """

    method: RecoveryMethod = RecoveryMethod.DISTILL
    text: Path | None = None
    minutes: float | None = None
    steps: int | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    windows_per_step: int | None = None
    seed: int = 0

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Names of the options that are given, but that belong to another method."""
        others = {RecoveryMethod.DISTILL: ("epochs",), RecoveryMethod.LORA: ("windows_per_step",)}
        return tuple(name for name in others[self.method] if getattr(self, name) is not None)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The options of `diagnose`.

    Attributes:
        uniform: How to store layers of different widths.
        max_batch: The largest batch that the target has to run.
        max_context: The longest sequence in tokens; by default 2048, or the model's context if that is shorter.
    """

    uniform: Uniform = Uniform.RESIZE
    max_batch: int = 1
    max_context: int | None = None


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """The options of `inspect`.

    Attributes:
        facts: File to write the facts to; by default, those of a type that nothing describes are kept in the cache.
        architecture: A file of facts to prove, instead of finding them out.
        overwrite: Replace the file of facts.
    """

    facts: Path | None = None
    architecture: Path | None = None
    overwrite: bool = False
