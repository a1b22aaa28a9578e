"""A request to prune, read and checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amp_export.architectures import Modality
from amp_export.checkpoints.hashing import hash_finite_weights
from amp_export.checkpoints.loading import has_tokenizer
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.checkpoints.sources import Source, resolve_model
from amp_export.checkpoints.unsupported import check_known_fields
from amp_export.errors import CalibrationError, RequestError
from amp_export.inputs.arrays import SUFFIXES, SampleArrays, check_arrays, no_samples, read_arrays
from amp_export.inputs.texts import Calibration, load_calibration
from amp_export.options import Allocation, HeadPolicy, PerLayer, Uniform
from amp_export.progress import Progress
from amp_export.pruning import nemotron_nas
from amp_export.pruning.defaults import choose_plan_settings
from amp_export.pruning.dry_run import check_texts, example_rewrite, possible_candidates, rehearse
from amp_export.pruning.expressible import fit_choices
from amp_export.pruning.flap_allocation import check_scores
from amp_export.pruning.plan import Plan
from amp_export.pruning.rewriting import Rewrite, rewrite
from amp_export.pruning.scores import Scores
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.whole import check_rewrites
from amp_export.verb_options import PruneOptions


@dataclass(frozen=True)
class PruneRequest:
    """Inputs of pruning, read and checked before the model is loaded.

    Attributes:
        source: The resolved model.
        checkpoint: The dense checkpoint.
        sha256: SHA-256 of its weights and config: see `hash_weights`.
        settings: The requested plan; None if a plan file is given.
        uniform: How to store layers of different widths.
        calibration: Text to score on and to measure quality with, or images or audio to score on. None if the model
            reads images or audio, and scores or a plan are given.
        scores: Scores of an earlier run, or None.
        plan: The given plan, or None.
        fitting_tokens: Largest number of tokens to score on, if the criterion reads long texts, and to compensate on.
        compensate: Whether to update what is kept.
    """

    source: Source
    checkpoint: Checkpoint
    sha256: str
    settings: PlanSettings | None
    uniform: Uniform
    calibration: Calibration | SampleArrays | None
    scores: Scores | None
    plan: Plan | None
    fitting_tokens: int = PruneOptions.fitting_tokens
    compensate: bool = True

    @property
    def may_differ(self) -> bool:
        """Whether layers may be stored with different widths."""
        if self.uniform is Uniform.PAD:
            return False
        if self.plan is not None:
            return self.checkpoint.config.common_widths(self.plan.widths) is None
        assert self.settings is not None
        return PerLayer.GLOBAL in (self.settings.heads_per_layer, self.settings.neurons_per_layer)

    @property
    def may_remove_heads(self) -> bool:
        """Whether layers may keep fewer query heads than they have."""
        if self.plan is not None:
            dense = self.checkpoint.widths
            return any(kept.query_heads < had.query_heads for kept, had in zip(self.plan.widths, dense, strict=True))
        assert self.settings is not None
        return self.settings.heads is not HeadPolicy.NONE


def prepare(
    model: str | Path,
    options: PruneOptions,
    *,
    revision: str | None = None,
    learn: Callable[[Path, Progress], None] | None = None,
    progress: Progress,
) -> PruneRequest:
    """Read and check everything that pruning needs, so that errors in a request are found before any work is done.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        options: Options of pruning.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        learn: Called with the checkpoint's directory before it is read, to find out the facts of unknown types.
        progress: Where to show progress.

    Raises:
        RequestError: The request is invalid.
    """
    plan, scores, pad = options.plan, options.scores, options.uniform is Uniform.PAD
    if (options.ratio is None) == (plan is None):
        raise RequestError("Give either a ratio or a plan, not both: a plan defines how much is removed.")
    if unused := [f"--{name.replace('_', '-')}" for name in options.without_effect]:
        raise RequestError(
            f"--plan defines what each layer keeps, so that {', '.join(unused)} would have no effect.\n"
            f"Leave {'it' if len(unused) == 1 else 'them'} out, or give --ratio instead of --plan."
        )
    given_samples = _read_calibration(options.calibration) if options.calibration is not None else None
    source = resolve_model(model, revision=revision, allow_pickle=options.allow_pickle, on_status=progress.note)
    options = fit_choices(options, source.whole, options.uniform)
    if learn is not None:
        learn(source.path, progress)
    checkpoint = open_checkpoint(source.path)
    check_known_fields(checkpoint.raw_config, checkpoint.config.architecture)
    given_plan = Plan.load(plan, checkpoint.config) if plan is not None else None
    given_scores = Scores.load(scores, checkpoint.config) if scores is not None else None
    samples = _fit_calibration(given_samples, checkpoint, needed=given_plan is None and given_scores is None)
    settings = settings_of(options, checkpoint, samples, given_scores)
    nemotron_nas.check(checkpoint.config, options.uniform, None if given_plan is None else given_plan.widths)
    rewrites = list(_rewrites(checkpoint, settings, given_plan, pad=pad))
    check_rewrites(rewrites, source.whole)
    rehearse(source.path, rewrites)
    if isinstance(samples, Calibration):
        check_texts(source.path, checkpoint.config, samples)
    with progress.step("Hashing and checking weights") as advance:
        sha256 = hash_finite_weights(checkpoint, on_progress=advance)
    if given_scores is not None:
        given_scores.check_checkpoint(sha256)
        given_scores.check_criterion(options.criterion)
        if settings is not None and settings.allocation is Allocation.FLAP:
            check_scores(given_scores)
    return PruneRequest(
        source,
        checkpoint,
        sha256,
        settings,
        options.uniform,
        samples,
        given_scores,
        given_plan,
        options.fitting_tokens,
        options.compensate,
    )


def settings_of(
    options: PruneOptions,
    checkpoint: Checkpoint,
    samples: Calibration | SampleArrays | None,
    scores: Scores | None,
) -> PlanSettings | None:
    """Return the settings of the plan; None if a plan is given.

    Args:
        options: Options of pruning.
        checkpoint: The dense checkpoint.
        samples: What it is scored on.
        scores: Scores of an earlier run, or None.

    Raises:
        PlanError: The options contradict each other.
    """
    if options.ratio is None:
        return None
    measured = scores is not None and scores.sensitivity is not None
    return choose_plan_settings(
        checkpoint.config,
        options.ratio,
        options,
        pad=options.uniform is Uniform.PAD,
        has_text=measured or isinstance(samples, Calibration),
    )


def _rewrites(
    checkpoint: Checkpoint, settings: PlanSettings | None, plan: Plan | None, *, pad: bool
) -> Iterator[Rewrite]:
    """Yield the rewrites that pruning may choose from."""
    raw, config = checkpoint.raw_config, checkpoint.config
    if plan is not None:
        yield rewrite(raw, config, plan.widths, pad=pad)
    if settings is not None:
        for candidate in possible_candidates(raw, config, settings):
            yield example_rewrite(raw, config, candidate, settings, pad=pad)


def _read_calibration(file: Path) -> Calibration | SampleArrays:
    return read_arrays(file) if file.suffix.lower() in SUFFIXES else load_calibration(file)


def _fit_calibration(
    given: Calibration | SampleArrays | None, checkpoint: Checkpoint, *, needed: bool
) -> Calibration | SampleArrays | None:
    """Return the samples to score on, after checking that the model can read them; only text has a default."""
    config = checkpoint.config
    if config.architecture.modality is Modality.TEXT:
        if isinstance(given, SampleArrays):
            raise CalibrationError(
                f"{given.file} contains arrays, but {config.class_name} takes text.\nGive a .txt file."
            )
        # without need, quality alone is measured on it
        return given or (load_calibration() if needed or has_tokenizer(checkpoint.path) else None)
    if isinstance(given, SampleArrays):
        check_arrays(given, config)
    elif given is not None or needed:
        raise no_samples(config)
    return given
