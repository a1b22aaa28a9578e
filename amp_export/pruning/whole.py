"""Prune the language model within a vision-language model, whose other parts stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from amp_export.checkpoints.building import check_config
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.vision_language import join, join_configs, special_tokens, tell_parts
from amp_export.documents import read_object
from amp_export.errors import ModelError, PlanError, RequestError
from amp_export.inputs.random import compared_outputs, random_inputs
from amp_export.options import HeadPolicy
from amp_export.outputs.manifest import RewriteKind
from amp_export.outputs.names import WHOLE
from amp_export.pruning.reload_check import PROBE_SHAPE, Expectation, ReloadProof, prove_reload
from amp_export.pruning.rewriting import Rewrite
from amp_export.verb_options import PlanChoices

AnyChoices = TypeVar("AnyChoices", bound=PlanChoices)


def fit_choices(choices: AnyChoices, whole: Path | None) -> AnyChoices:
    """Return choices that the config of a vision-language model can express: one width for all layers.

    Args:
        choices: The choices.
        whole: The vision-language model, or None if the model is none.

    Raises:
        RequestError: Heads are to be removed that have to stay.
    """
    if whole is None:
        return choices
    fitted = replace(choices, one_width=True)
    stay = tell_parts(whole).facts.heads_stay
    if stay is None:
        return fitted
    if choices.heads not in (HeadPolicy.AUTO, HeadPolicy.NONE):
        raise RequestError(
            f"--heads {choices.heads} removes heads, but all heads of {whole} stay: {stay}.\nGive --heads none."
        )
    return replace(fitted, heads=HeadPolicy.NONE)


def check_rewrites(rewrites: Iterable[Rewrite], whole: Path | None) -> None:
    """Raise an error if no rewrite of the language model fits into the vision-language model, or it refuses one.

    Args:
        rewrites: The rewrites that pruning may choose from.
        whole: The vision-language model, or None if the model is none.

    Raises:
        ModelError: transformers refuses the config of the whole with one that fits.
        PlanError: None fits.
    """
    if whole is None:
        return
    parts = tell_parts(whole)
    kinds = {RewriteKind.SAME_CLASS, RewriteKind.PADDED}
    if parts.facts.model_type is None:
        kinds.add(RewriteKind.SIBLING_CLASS)
    found = list(rewrites)
    fitting = [each for each in found if each.kind in kinds]
    for each in fitting:
        check_config(join_configs(parts, each.config), f"{whole}, pruned")
    if not fitting:
        advice = (
            "Give --heads none, or another ratio."
            if found[0].architecture.heads_stay is None
            else "Save its language model as a checkpoint of its own with transformers, and prune that."
        )
        raise PlanError(
            f"The language model would be a {found[0].class_name} ({found[0].kind}), which {whole} cannot contain: "
            f"{found[0].reason}.\n{advice}"
        )


def write_whole(folder: Path, whole: Path, pruned: Path) -> ReloadProof:
    """Write a vision-language model with its language model replaced, and prove that transformers loads it.

    In a process without this package, it has to compute the logits of the pruned language model, bit for bit.

    Args:
        folder: The directory to create.
        whole: The vision-language model.
        pruned: The language model to put in.

    Raises:
        VerificationError: It does not load, or computes other logits.
    """
    join(whole, pruned, folder)
    return prove_reload(folder, _expect(folder, pruned))


def note_left_out(whole: Path) -> Iterator[str]:
    """Yield what the vision-language model with the pruned language model lacks, for the user."""
    parts = tell_parts(whole)
    if parts.left_out:
        yield (
            f"{len(parts.left_out)} tensors ({', '.join(parts.facts.left_out)}) are left out of OUT/{WHOLE}: in other "
            "runtimes they draft tokens for the dense model, by layers as wide as its own; transformers ignores them."
        )


def _expect(whole: Path, pruned: Path) -> Expectation:
    """Return the logits of a language model for random text, without tokens that stand for images."""
    import torch

    model, config = load_model(pruned), open_checkpoint(pruned).config
    samples, length = PROBE_SHAPE
    inputs = random_inputs(config, samples=samples, length=length)
    special = set(special_tokens(read_object(whole / "config.json", error=ModelError)))
    ordinary = next(token for token in range(config.vocab_size) if token not in special)
    ids_bs = inputs["input_ids"]
    stands_in_bs = torch.isin(ids_bs, torch.tensor(sorted(special), dtype=ids_bs.dtype))
    inputs["input_ids"] = ids_bs.masked_fill(stands_in_bs, ordinary)
    with torch.inference_mode():
        logits_bsv = compared_outputs(model(**inputs))["logits"]
    return Expectation(inputs, {"logits": logits_bsv}, [], "AutoModelForImageTextToText", returns_others=True)
