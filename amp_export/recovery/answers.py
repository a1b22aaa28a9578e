"""Instructions as token ids with labels on their answers alone, and the loss on those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.errors import CalibrationError
from amp_export.inputs.batches import check_vocabulary, encode
from amp_export.inputs.instructions import Instruction, load_instructions
from amp_export.inputs.texts import Calibration
from amp_export.inputs.windows import window_length
from amp_export.recovery.devices import precision

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig

NO_LABEL = -100
"""Label of a token that is not predicted, as in PyTorch's cross-entropy."""


@dataclass(frozen=True)
class Example:
    """An instruction with its answer.

    Attributes:
        input_ids: Its token ids.
        labels: The same on the answer, `NO_LABEL` before.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def answer_tokens(self) -> int:
        """Number of tokens that are predicted."""
        return sum(label != NO_LABEL for label in self.labels)


@dataclass(frozen=True)
class Examples:
    """What is trained on, and what the loss is measured on.

    Attributes:
        training: Examples to train on.
        held_out: Examples to measure the loss on.
        length: Tokens of an example, at most.
    """

    training: tuple[Example, ...]
    held_out: tuple[Example, ...]
    length: int

    @property
    def all(self) -> tuple[Example, ...]:
        """Those held out, then those to train on."""
        return (*self.held_out, *self.training)


def read_examples(
    tokenizer: PreTrainedTokenizerBase, file: Path | None, config: ModelConfig
) -> tuple[Examples, Calibration]:
    """Load instructions, and return them as examples, with the text that quality is measured on.

    Args:
        tokenizer: The model's tokenizer.
        file: The user's file, or None for the paper's dataset.
        config: The model's config.

    Raises:
        CalibrationError: The file cannot be used, or no answer begins within the longest text.
        ModelError: The tokenizer fails on a text, or is of another model.
    """
    sets, length = load_instructions(file), window_length(config)
    with quiet_transformers():
        training, held_out = (
            tuple(each for each in (make_example(tokenizer, row, length) for row in rows) if each.answer_tokens)
            for rows in (sets.training, sets.measured)
        )
    examples = Examples(training, held_out, length)
    check_vocabulary((example.input_ids for example in examples.all), config)
    if not training or not held_out:
        raise CalibrationError(
            f"No answer of {sets.quality.source} begins within {length} tokens, as long as a training text is.\nGive "
            "shorter instructions with --text."
        )
    return examples, sets.quality


def make_example(tokenizer: PreTrainedTokenizerBase, row: Instruction, length: int) -> Example:
    """Return an instruction as token ids, cut to a length, and ended by the token that ends a text if it is whole.

    Labels begin at the first token that differs from those of the prompt alone: a tokenizer may join the prompt's end
    with the answer's beginning, or end each text with a token.

    Args:
        tokenizer: The tokenizer.
        row: The instruction.
        length: Largest number of tokens.

    Raises:
        ModelError: The tokenizer fails on it.
    """
    prompt_ids, ids = encode(tokenizer, row.prompt), encode(tokenizer, row.text)
    pairs = zip(prompt_ids, ids, strict=False)
    same = next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(prompt_ids), len(ids)))
    end = tokenizer.eos_token_id
    if end is not None and ids and ids[-1] != end:
        ids = [*ids, end]
    # nothing predicts the first token
    begin = max(same, 1)
    labels = [*[NO_LABEL] * begin, *ids[begin:]]
    return Example(tuple(ids[:length]), tuple(labels[: min(length, len(ids))]))


def batch_of(examples: Sequence[Example]) -> dict[str, Any]:
    """Return the model's inputs and labels, int64 [1, tokens] each, of one example."""
    import torch

    (example,) = examples
    input_ids_bs = torch.tensor([example.input_ids])
    labels_bs = torch.tensor([example.labels])
    mask_bs = torch.ones_like(input_ids_bs)
    return {"input_ids": input_ids_bs, "attention_mask": mask_bs, "labels": labels_bs, "use_cache": False}


def answer_loss(logits_bsv: torch.Tensor, labels_bs: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the labelled tokens, in nats, summed over them.

    Args:
        logits_bsv: Logits, [batch, tokens, vocabulary]; those at a token predict the next.
        labels_bs: Labels, int64 [batch, tokens].
    """
    import torch.nn.functional as F

    logits_pv = logits_bsv[:, :-1].float().flatten(0, 1)
    return F.cross_entropy(logits_pv, labels_bs[:, 1:].flatten(), ignore_index=NO_LABEL, reduction="sum")


def held_out_loss(model: torch.nn.Module, device: torch.device, examples: Sequence[Example]) -> float:
    """Return the mean loss of a model on the answers of examples, in nats per token; its mode is kept.

    Args:
        model: A decoder, with or without adapters.
        device: Its device.
        examples: The examples.
    """
    import torch

    was_training, total = model.training, 0.0
    model.train(False)
    try:
        with torch.no_grad(), precision(device):
            for example in examples:
                batch: Mapping[str, Any] = batch_of([example])
                inputs = {name: value.to(device) if name != "use_cache" else value for name, value in batch.items()}
                labels_bs = inputs.pop("labels")
                total += answer_loss(model(**inputs).logits, labels_bs).item()
    finally:
        model.train(was_training)
    return total / sum(example.answer_tokens for example in examples)
