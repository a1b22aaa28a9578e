"""The command `doctor`: a dry run that predicts the effects of a pruning ratio on a model, without reading weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amp_export.architectures import LayerWidths, Modality, ModelConfig, parameter_count
from amp_export.architectures._footprint import cached_numbers
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.checkpoints.sources import resolve_model
from amp_export.checkpoints.unsupported import check_known_fields
from amp_export.checkpoints.weight_files import has_safetensors
from amp_export.doctor.loaders import RUNTIMES
from amp_export.doctor.memory import MemoryEstimate, ModelVariant, can_estimate, estimate_memory, refuse_limits
from amp_export.doctor.rules import Loader, Outcome, Status
from amp_export.doctor.verdicts import Choice, Verdict, judge
from amp_export.errors import ModelError, PlanError, RatioError
from amp_export.exporters.limits import choose_limits
from amp_export.exporters.onnx.genai import read_generation
from amp_export.exporters.onnx.parts import find_obstacle
from amp_export.exporters.support import can_export
from amp_export.inputs.texts import load_calibration
from amp_export.options import Allocation, Format, HeadPolicy, PerLayer, TargetName, Uniform
from amp_export.outputs.manifest import RewriteKind
from amp_export.outputs.names import PRUNED
from amp_export.progress import Progress, Silent
from amp_export.pruning import nemotron_nas
from amp_export.pruning.candidates import Candidate
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.defaults import choose_plan_settings
from amp_export.pruning.dry_run import check_texts, example_rewrite, layers_differ, possible_candidates, rehearse
from amp_export.pruning.expressible import fit_choices
from amp_export.pruning.planning import decide, list_preferred
from amp_export.pruning.rewriting import MODELING_FILE, Rewrite
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.whole import check_rewrites
from amp_export.verb_options import DoctorOptions, PlanChoices

_CONFIG_ALONE = "No safetensors were found, so that neither weights nor tokenizer were checked."

NEAREST_STEP = 0.01
"""Step of the search for the nearest ratio that a runtime can load."""


@dataclass(frozen=True)
class Option:
    """One way to meet the ratio.

    Attributes:
        candidate: Widths to keep; averages if layers may differ.
        rewrite: Class and config of the pruned model. If counts are allocated across layers, its widths are an example.
        shared_out: Whether counts are allocated across layers by importance, so that the candidate's are averages.
    """

    candidate: Candidate
    rewrite: Rewrite
    shared_out: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """The result of `doctor`.

    Attributes:
        model: The model as the user named it.
        class_name: Class of the model.
        parameters: Number of its parameters, tied ones counted once.
        widths: Heads and neurons of each layer.
        num_layers: Number of layers.
        ratio: The requested ratio.
        target: The requested device.
        options: All ways to meet the ratio.
        chosen: The option that pruning would choose, or None if the choice needs scores.
        compatibility: Whether each runtime loads the result.
        notes: What was not checked, and why.
        memory: Whether model, engine and build fit on the target, and an upper bound of its decoding speed; None if the
            target's memory is not known or the graph is not built directly.
    """

    model: str
    class_name: str
    parameters: int
    widths: LayerWidths
    num_layers: int
    ratio: float
    target: TargetName
    options: tuple[Option, ...]
    chosen: Option | None
    compatibility: tuple[Verdict, ...] = ()
    memory: MemoryEstimate | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the text that `doctor --json` prints; `chosen` is an index into the options."""
        content = {
            "model": self.model,
            "class": self.class_name,
            "parameters": self.parameters,
            "num_layers": self.num_layers,
            "widths": asdict(self.widths),
            "ratio": self.ratio,
            "target": self.target.value,
            "options": [_option_json(option) for option in self.options],
            "chosen": None if self.chosen is None else self.options.index(self.chosen),
            "compatibility": [asdict(verdict) for verdict in self.compatibility],
            "memory": None if self.memory is None else self.memory.to_dict(),
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=2) + "\n"


def _option_json(option: Option) -> dict[str, Any]:
    candidate, rewritten = option.candidate, option.rewrite
    return {
        "heads": candidate.heads.value,
        "widths": asdict(candidate.widths),
        "shared_out": option.shared_out,
        "removed": candidate.ratio,
        "class": rewritten.class_name,
        "rewrite": rewritten.kind.value,
        "reason": rewritten.reason,
    }


def diagnose(
    model: str | Path,
    ratio: float,
    choices: PlanChoices | None = None,
    options: DoctorOptions | None = None,
    *,
    revision: str | None = None,
    learn: Callable[[Path, Progress], None] | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Predict a pruned model's widths, class, runtimes and memory for a ratio, without reading weights.

    The dense and the pruned model are built without weights through transformers' own classes, and checked by the
    functions that `prune`, `export` and `validate` call: what they would refuse is refused here, with the same words.
    What only `prune` would refuse is noted, with its words.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        ratio: Share of all parameters to remove.
        choices: Rules by which a plan is made.
        options: All other options.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        learn: Called with the checkpoint's directory before it is read, to find out the facts of unknown types.
        progress: Shows the download of a model.

    Raises:
        RatioError: The ratio is not possible; the message names the nearest possible one.
        PlanError: The settings do not fit the model.
        RequestError: The model does not exist, is damaged or is not supported, or the limits do not apply to it or to
            the target.
    """
    choices, options, progress = choices or PlanChoices(), options or DoctorOptions(), progress or Silent()
    source = resolve_model(model, revision=revision, on_status=progress.note)
    choices = fit_choices(choices, source.whole, options.uniform)
    if learn is not None:
        learn(source.path, progress)
    raw_config, config, is_complete = _read(source.path)
    nemotron_nas.check(config, options.uniform)
    settings = choose_plan_settings(config, ratio, choices, pad=options.uniform is Uniform.PAD)
    refuse_limits(config, settings.target, max_batch=options.max_batch, max_context=options.max_context)
    candidates = possible_candidates(raw_config, config, settings)
    has_end_token = read_generation(raw_config, source.path).get("eos_token_id") is not None
    context = _DiagnosisContext(raw_config, config, options.uniform, has_end_token)
    ways = {each: context.option(each, settings) for each in candidates}
    rewrites = [way.rewrite for way in ways.values()]
    check_rewrites(rewrites, source.whole)
    rehearse(source.path, rewrites)
    decided = decide(config, settings, candidates)
    chosen = None if decided is None else ways[decided]
    likely = [chosen] if chosen else [ways[each] for each in list_preferred(candidates, settings.heads)]
    return Diagnosis(
        model=source.asked,
        class_name=config.architecture.class_name,
        parameters=parameter_count(config),
        widths=config.widths,
        num_layers=len(config.sites),
        ratio=settings.ratio,
        target=settings.target,
        options=tuple(ways.values()),
        chosen=chosen,
        compatibility=_with_nearest(context, settings, context.verdicts(settings, candidates)),
        memory=_memory(config, settings.target, list(ways.values()), likely, options),
        notes=(
            *_whole_notes(source.whole, config),
            *(_notes(source.path, config) if is_complete else (_CONFIG_ALONE,)),
        ),
    )


def _whole_notes(whole: Path | None, config: ModelConfig) -> Iterator[str]:
    if whole is not None:
        yield (
            "This is about the language model of a vision-language model: the ratio is of its parameters, and the "
            f"other parts of {whole} stay as they are."
        )
        if can_export(config, Format.ONNX) is None and (reason := find_obstacle(whole)) is not None:
            yield f"--to onnx is refused for the whole, not for OUT/{PRUNED}: {reason}."


def _notes(path: Path, config: ModelConfig) -> Iterator[str]:
    """Yield what `prune` will refuse, in its words, though the checkpoint can be exported: an unusable tokenizer."""
    if config.architecture.modality is Modality.TEXT:
        try:
            check_texts(path, config, load_calibration())
        except ModelError as error:
            yield f"The checkpoint can be exported, but not scored for pruning: {error}"


def _read(path: Path) -> tuple[Mapping[str, Any], ModelConfig, bool]:
    """Return the config, raw and parsed, after checking that its fields are known, and whether there are weights.

    The headers of weights are checked against the config.
    """
    if is_complete := has_safetensors(path):
        checkpoint = open_checkpoint(path)
        raw_config: Mapping[str, Any] = checkpoint.raw_config
        config = checkpoint.config
    else:
        raw_config, config = read_config(path)
    check_known_fields(raw_config, config.architecture)
    return raw_config, config, is_complete


def _memory(
    config: ModelConfig, target: TargetName, ways: Sequence[Option], likely: Sequence[Option], options: DoctorOptions
) -> MemoryEstimate | None:
    """Return whether the dense model and the likely ways fit on a target; None if that cannot be estimated."""
    if not can_estimate(config, target):
        return None
    limits = choose_limits(config.context, max_batch=options.max_batch, max_context=options.max_context)
    return estimate_memory(config, _subjects(config, ways, likely), target, limits)


def _subjects(config: ModelConfig, options: Sequence[Option], likely: Sequence[Option]) -> list[ModelVariant]:
    """Return the dense model, and the likely options with the largest and the smallest KV cache."""

    def widths(option: Option) -> Sequence[LayerWidths]:
        is_average = option.shared_out and option.rewrite.kind is not RewriteKind.PADDED
        return config.everywhere(option.candidate.widths) if is_average else option.rewrite.widths

    by_cache = {sum(cached_numbers(config, widths(option))): option for option in reversed(likely)}
    ends = [by_cache[kept] for kept in dict.fromkeys((max(by_cache), min(by_cache)))]
    pruned = [ModelVariant("pruned", options.index(option), widths(option)) for option in ends]
    return [ModelVariant("dense", None, config.everywhere(config.widths)), *pruned]


@dataclass(frozen=True)
class _DiagnosisContext:
    """A model, and the facts that do not depend on the ratio."""

    raw_config: Mapping[str, Any]
    config: ModelConfig
    uniform: Uniform
    has_end_token: bool

    def verdicts(
        self, settings: PlanSettings, candidates: Sequence[Candidate], runtimes: Iterable[Loader] = RUNTIMES
    ) -> tuple[Verdict, ...]:
        """Return each runtime's verdict on the options that pruning may choose."""
        decided = decide(self.config, settings, candidates)
        taken = list_preferred(candidates, settings.heads) if decided is None else [decided]
        choices = [self._choice(candidate, settings) for candidate in taken]
        return tuple(judge(runtime, choices) for runtime in runtimes)

    def option(self, candidate: Candidate, settings: PlanSettings) -> Option:
        """Return a candidate with its rewrite."""
        shared_out = layers_differ(self.config, candidate, settings)
        return Option(candidate, self.rewrite(candidate, settings), shared_out)

    def rewrite(self, candidate: Candidate, settings: PlanSettings, *, pad: bool | None = None) -> Rewrite:
        """Return the rewrite of a candidate, or of an example of it if layers will differ."""
        pad = self.uniform is Uniform.PAD if pad is None else pad
        found = example_rewrite(self.raw_config, self.config, candidate, settings, pad=pad)
        if not layers_differ(self.config, candidate, settings):
            return found
        name = self.config.architecture.class_name
        how = {
            RewriteKind.PADDED: "layers are zero-padded to the widest",
            RewriteKind.RESIZED_CLASS: f"{MODELING_FILE}.py, saved with the checkpoint, resizes them at load time",
        }.get(found.kind, found.reason)
        return replace(
            found, reason=f"{name} has one width for all layers, but the scores give each layer its own; {how}"
        )

    def _choice(self, candidate: Candidate, settings: PlanSettings) -> Choice:
        found = self.rewrite(candidate, settings)
        others = {}
        # with FLAP's allocation, layers always differ
        if settings.allocation is not Allocation.FLAP and layers_differ(self.config, candidate, settings):
            alike = replace(settings, heads_per_layer=PerLayer.UNIFORM, neurons_per_layer=PerLayer.UNIFORM)
            others["--one-width"] = self._outcome(self.rewrite(candidate, alike), candidate, alike)
        if found.kind is RewriteKind.RESIZED_CLASS:
            with suppress(PlanError):
                padded = self.rewrite(candidate, settings, pad=True)
                others["--uniform pad"] = self._outcome(padded, candidate, settings)
        return Choice(candidate.heads, self._outcome(found, candidate, settings), others)

    def _outcome(self, found: Rewrite, candidate: Candidate, settings: PlanSettings) -> Outcome:
        spreads_heads = settings.heads_per_layer is PerLayer.GLOBAL and candidate.heads is not HeadPolicy.NONE
        # how far layers are padded is known only if all layers have the same number of heads
        known = not (spreads_heads and layers_differ(self.config, candidate, settings))
        widths = found.widths[-1]
        stock = found.is_stock
        return Outcome(
            config=ModelConfig.read(found.architecture, found.config) if stock else self.config,
            class_name=found.class_name,
            kind=found.kind,
            query_heads=widths.query_heads if known else None,
            keeps_neurons=all(
                layer.neurons == site.widths.neurons
                for layer, site in zip(found.widths, self.config.sites, strict=True)
            ),
            has_end_token=self.has_end_token,
            layers_differ=self.config.common_widths(found.widths) is None,
        )


def _with_nearest(
    context: _DiagnosisContext, settings: PlanSettings, verdicts: Sequence[Verdict]
) -> tuple[Verdict, ...]:
    """Add to each negative verdict the nearest ratio at which the runtime loads the model."""
    nearest: dict[str, float] = {}
    refusing = {verdict.runtime for verdict in verdicts if verdict.status is Status.CANNOT}
    wanted = [runtime for runtime in RUNTIMES if runtime.name in refusing]
    costs = ModelCosts.of(context.config)
    steps = range(1, round(1 / NEAREST_STEP))
    ratios = [round(settings.ratio + sign * step * NEAREST_STEP, 4) for step in steps for sign in (-1, 1)]
    for ratio in (ratio for ratio in ratios if 0 < ratio < 1):
        if not wanted:
            break
        asked = replace(settings, ratio=ratio)
        try:
            candidates = possible_candidates(context.raw_config, context.config, asked, costs=costs)
            found = context.verdicts(asked, candidates, wanted)
        except (RatioError, PlanError):
            continue
        nearest |= {verdict.runtime: ratio for verdict in found if verdict.loads}
        wanted = [runtime for runtime in wanted if runtime.name not in nearest]
    return tuple(replace(verdict, nearest=nearest.get(verdict.runtime)) for verdict in verdicts)
