"""Batches of texts, padded."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, ModelConfig
from amp_export.errors import ModelError
from amp_export.inputs.tokens import start_token

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Array = np.ndarray[Any, np.dtype[np.float32]]


BATCH_TOKENS = 2048
"""Tokens per batch, including padding: enough to keep the cores busy without running out of memory."""

MAX_PROMPT_TOKENS = 2048
"""Longer prompts are truncated, so that none can exhaust the memory."""


@dataclass(frozen=True)
class Batch:
    """A batch of model inputs.

    Attributes:
        inputs: The model's inputs by name.
        samples: Number of samples.
        read_mask: Mask of the real input tokens, [samples, tokens]; None if all are real.
        decoder_mask: The same for the decoder's tokens of an encoder-decoder.
    """

    inputs: Mapping[str, Any]
    samples: int
    read_mask: torch.Tensor | None = None
    decoder_mask: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Number of real tokens of the input; of inputs that are no text, of samples."""
        return self.samples if self.read_mask is None else int(self.read_mask.sum())

    def places(self, shape: Sequence[int]) -> torch.Tensor:
        """Return the indices of the real tokens among all, [real tokens], given the batch's [samples, tokens]."""
        import torch

        device = next(value.device for value in self.inputs.values() if hasattr(value, "device"))
        mask_bs = torch.ones(*shape, device=device) if self.read_mask is None else self.read_mask
        return mask_bs.flatten().nonzero().squeeze(1)

    def rows(self) -> Iterator[Batch]:
        """Yield each sample as a batch of its own."""
        for row in range(self.samples):
            one = slice(row, row + 1)
            inputs = {name: value[one] if hasattr(value, "shape") else value for name, value in self.inputs.items()}
            masks = (None if mask is None else mask[one] for mask in (self.read_mask, self.decoder_mask))
            yield Batch(inputs, 1, *masks)


def text_batch(model: PreTrainedModel, config: ModelConfig, input_ids_bs: torch.Tensor, mask_bs: torch.Tensor) -> Batch:
    """Return a batch of texts; an encoder-decoder gets the same text as input and as target.

    Args:
        model: The model to run.
        config: Its config.
        input_ids_bs: Token ids, padded on the right, [samples, tokens].
        mask_bs: Mask of the real tokens, [samples, tokens].

    Returns:
        The batch, on the model's device.
    """
    input_ids_bs, mask_bs = (each.to(model.device) for each in (input_ids_bs, mask_bs))
    inputs: dict[str, Any] = {"input_ids": input_ids_bs, "attention_mask": mask_bs}
    if config.architecture.kind is Kind.ENCODER_DECODER:
        start = start_token(config)
        inputs["decoder_input_ids"] = input_ids_bs.roll(1, dims=1).index_fill(1, input_ids_bs.new_zeros(1), start)
        inputs["decoder_attention_mask"] = mask_bs
    if "use_cache" in inspect.signature(model.get_submodule(config.base_model).forward).parameters:
        inputs["use_cache"] = False
    return Batch(inputs, len(input_ids_bs), read_mask=mask_bs, decoder_mask=mask_bs)


def text_batches(
    model: PreTrainedModel,
    config: ModelConfig,
    token_ids: Sequence[Sequence[int]],
    batch_tokens: int = BATCH_TOKENS,
) -> list[Batch]:
    """Return batches of texts of similar length.

    Args:
        model: The model to run.
        config: Its config.
        token_ids: Token ids of each text.
        batch_tokens: Largest number of tokens of a batch, including padding.
    """
    return [text_batch(model, config, *padded) for padded in batches(token_ids, batch_tokens)]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], config: ModelConfig) -> list[list[int]]:
    """Return the token ids of each non-empty text, truncated to the model's longest text and `MAX_PROMPT_TOKENS`.

    Raises:
        ModelError: The tokenizer fails on a text, or produces token ids outside the model's vocabulary.
    """
    limit = min(config.longest_text or MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS)
    encoded = [encode(tokenizer, text)[:limit] for text in texts]
    check_vocabulary(encoded, config)
    return [ids for ids in encoded if ids]


def check_vocabulary(token_ids: Iterable[Sequence[int]], config: ModelConfig) -> None:
    """Raise an error if texts have token ids outside the model's vocabulary.

    Raises:
        ModelError: They do.
    """
    if (largest := max(map(max, filter(None, token_ids)), default=0)) >= config.vocab_size:
        raise ModelError(
            f"The tokenizer produces token id {largest}, but the model's vocabulary ends at {config.vocab_size - 1}.\n"
            "The tokenizer is of another model; put the right one next to the weights."
        )


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = True) -> list[int]:
    """Return the token ids of a text, of any length.

    Args:
        tokenizer: The tokenizer.
        text: The text.
        special: Whether to add the tokens with which the tokenizer begins and ends a text.

    Raises:
        ModelError: The tokenizer fails on it.
    """
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=special).input_ids
    except Exception as error:  # tokenizers raises plain exceptions
        raise ModelError(
            f"The tokenizer cannot tokenize {text[:40]!r}: {error}\nPut the model's own tokenizer next to the "
            "weights, or save it again with tokenizer.save_pretrained()."
        ) from error
    return ids


def batches(
    token_ids: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of prompts of similar length: token ids and mask, int64 [batch, sequence], padded on the right."""
    for group in group_by_length([len(ids) for ids in token_ids], batch_tokens):
        yield pad_right([token_ids[number] for number in group])


def group_by_length(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Yield the numbers of texts of similar length, as many as fill a batch when they are padded; at least one.

    Args:
        lengths: Tokens of each text.
        batch_tokens: Largest number of tokens of a batch, including padding.
    """
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        # texts are sorted, so all would be padded to the length of the new one
        if group and (len(group) + 1) * lengths[number] > batch_tokens:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def pad_right(batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, int64 [batch, sequence]; padding is 0 in both."""
    import torch

    longest = max(len(prompt) for prompt in batch)
    input_ids_bs = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask_bs = torch.zeros_like(input_ids_bs)
    for row, prompt in enumerate(batch):
        input_ids_bs[row, : len(prompt)] = torch.tensor(prompt)
        mask_bs[row, : len(prompt)] = 1
    return input_ids_bs, mask_bs
