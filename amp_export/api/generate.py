"""Generate texts with a model, or with what an output directory holds, and show what another model writes instead."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from amp_export.api.subjects import (
    Subject,
    open_if_output,
    read_ending_tokens,
    resolve_subject,
    split_export,
    subject_in,
    subject_of,
)
from amp_export.checkpoints.loading import load_tokenizer
from amp_export.errors import ModelError, RequestError
from amp_export.exporters.models.sampling import Sampling
from amp_export.generation.texts import GeneratedTexts, Prompt, Rules, generate_texts
from amp_export.inputs.batches import check_vocabulary, encode
from amp_export.inputs.texts import read_prompts
from amp_export.options import Provider
from amp_export.outputs.lookup import open_source_checkpoint
from amp_export.outputs.manifest import Manifest, package_versions
from amp_export.outputs.staging import is_ours
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_output
from amp_export.verb_options import GenerateOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig
    from amp_export.exporters.models.decoder import Decoder
    from amp_export.generation.texts import OnText

DENSE = "dense"
"""What to give as `against` for the dense model of an output directory."""

STDIN = "-"


@dataclass(frozen=True)
class Generation:
    """Texts of one model or two.

    Attributes:
        model: Texts of the model.
        against: Texts of the other model after the same prompts, or None.
        sampling: How tokens were chosen.
        chat: Whether the prompts are in the tokenizers' chat templates.
        packages: Versions of the packages that computed them.
        schema: Version of this format.
    """

    SCHEMA: ClassVar[int] = 1

    model: GeneratedTexts
    against: GeneratedTexts | None
    sampling: Sampling
    chat: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def generate(
    model: str | Path,
    options: GenerateOptions,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
    on_text: OnText | None = None,
) -> Generation:
    """Generate texts after prompts.

    Exports are run in their runtime, and checkpoints in PyTorch. With the same seed, a model writes the same text.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, `demo`, an output directory, or an export in one, such
            as `out/onnx`.
        options: The prompts, and how texts are generated.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        progress: Where to show progress.
        on_text: Called with the number of a prompt and each new piece of the model's text.

    Raises:
        CalibrationError: The file of prompts is missing, empty or malformed; the message names the line.
        RequestError: There is no prompt, one is too long for the model, or an option is out of range.
        UnsupportedModelError: A model is not a decoder.
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    sampling = Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
    )
    prompts = _read_prompts(options)
    model, to = split_export(model, options.to)
    subjects = _find(model, replace(options, to=to), revision, progress)
    # one after the other, so that memory holds one
    found = [
        _generate(subject, prompts, options, sampling, progress, on_text if number == 0 else None)
        for number, subject in enumerate(subjects)
    ]
    return Generation(found[0], found[1] if len(found) > 1 else None, sampling, options.chat, package_versions())


def _read_prompts(options: GenerateOptions) -> tuple[str, ...]:
    given = tuple(sys.stdin.read() if each == STDIN else each for each in options.prompt)
    prompts = (*given, *(read_prompts(options.prompts) if options.prompts is not None else ()))
    if not prompts:
        raise RequestError('There is no prompt.\nGive one with --prompt "...", or a file of them with --prompts.')
    if any(not prompt for prompt in prompts):
        raise RequestError("A prompt is empty.\nGive at least a word.")
    if any(not each for each in options.stop):
        raise RequestError("--stop is an empty string, at which every text would end.\nLeave it out.")
    return prompts


def _find(model: str | Path, options: GenerateOptions, revision: str | None, progress: Progress) -> list[Subject]:
    """Return the model, and the one beside it if there is one."""
    output, manifest = open_if_output(model, options.to, does="runs")
    if manifest is not None:
        subject = _in_output(output, manifest, options)
    else:
        subject = resolve_subject(model, revision=revision, allow_pickle=options.allow_pickle, progress=progress)
    if options.provider is not Provider.CPU and subject.export is None:
        raise RequestError(
            f"--provider {options.provider} is for exports in ONNX Runtime, but {subject.name} runs in PyTorch.\n"
            "Export it first, and name that OUT."
        )
    if options.against is None:
        return [subject]
    if options.against != DENSE:
        named, to = split_export(options.against, None)
        if is_ours(other := Path(named).expanduser()):
            return [subject, _in_output(other, open_output(other), replace(options, to=to or options.to))]
        return [subject, resolve_subject(options.against, allow_pickle=options.allow_pickle, progress=progress)]
    if manifest is None:
        raise RequestError(
            f"--against {DENSE} is for an output directory, and {model} is none.\nName the other model instead."
        )
    dense = open_source_checkpoint(output, manifest, advice="Name the dense model with --against MODEL.")
    return [subject, subject_of(manifest.source.name, dense)]


def _in_output(output: Path, manifest: Manifest, options: GenerateOptions) -> Subject:
    return subject_in(output, manifest, options.to or next(iter(manifest.exports), None))


def _generate(
    subject: Subject,
    prompts: Sequence[str],
    options: GenerateOptions,
    sampling: Sampling,
    progress: Progress,
    on_text: OnText | None,
) -> GeneratedTexts:
    checkpoint = subject.checkpoint
    with checkpoint.snapshot.held(), contextlib.ExitStack() as stack:
        tokenizer = load_tokenizer(checkpoint.path)
        read = [_encode(tokenizer, prompt, subject, chat=options.chat) for prompt in prompts]
        with progress.step(f"Loading {subject.name}"):
            decoder = _load(subject, options)
        stack.callback(decoder.close)
        rules = Rules(
            new_tokens=options.new_tokens,
            ends=frozenset(read_ending_tokens(checkpoint.path)),
            stop=options.stop,
            sampling=sampling,
            batch=options.batch_size,
            context=_context(checkpoint.config, decoder),
        )
        if on_text is not None:
            return generate_texts(decoder, tokenizer, read, rules, model=subject.name, on_text=on_text)
        with progress.step(f"Generating with {subject.name}") as advance:
            return generate_texts(decoder, tokenizer, read, rules, model=subject.name, on_progress=advance)


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: Subject, *, chat: bool) -> Prompt:
    """Return a prompt as token ids, in the chat template if that is asked for.

    Raises:
        RequestError: The tokenizer has no chat template.
        ModelError: The template fails, or the tokenizer is of another model.
    """
    if chat and not tokenizer.chat_template:
        raise RequestError(
            f"{subject.name} has no chat template, so it cannot be talked to.\nLeave --chat out: it then goes on from "
            "the prompt."
        )
    text = prompt
    if chat:
        try:
            said = [{"role": "user", "content": prompt}]
            text = str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # templates raise what they like
            raise ModelError(f"The chat template of {subject.name} fails: {error}\nLeave --chat out.") from error
    # a template writes the special tokens itself
    ids = encode(tokenizer, text, special=not chat)
    check_vocabulary([ids], subject.checkpoint.config)
    return Prompt(prompt, tuple(ids))


def _load(subject: Subject, options: GenerateOptions) -> Decoder:
    if subject.export is None:
        from amp_export.generation.torch_decoder import load_torch_decoder

        return load_torch_decoder(subject.checkpoint.path, threads=options.threads)
    from amp_export.exporters.dispatch import run
    from amp_export.exporters.models.decoder import Decoder

    decoder = run(subject.export, threads=options.threads, provider=options.provider)
    assert isinstance(decoder, Decoder), f"{subject.export} is the export of a decoder"
    return decoder


def _context(config: ModelConfig, decoder: Decoder) -> int | None:
    """Return the longest text that the model writes with one KV cache, prompt included; None if there is no limit."""
    limits = [config.longest_text, config.cache_limit, decoder.max_context]
    return min((each for each in limits if each is not None), default=None)
