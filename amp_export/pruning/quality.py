"""Quality of the pruned model compared with the dense one.

Quality is measured. It is not parity, which compares an export with its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.writing import save_tensors, to_numpy
from amp_export.inputs.batches import batches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.inputs.texts import Calibration


BATCH_TOKENS = 512
"""Tokens per batch: each has dense and pruned logits over the vocabulary, which must fit in memory."""

CHUNK_TOKENS = 64
"""Tokens per chunk of distributions in float64."""


@dataclass(frozen=True)
class Quality:
    """Quality of the pruned model compared with the dense one, on held-out text.

    Attributes:
        dense: Perplexity of the dense model.
        pruned: Perplexity of the pruned model.
        kl: Mean Kullback-Leibler divergence of the pruned model's distribution from the dense one's, in nats, over all
            predicted tokens.
        top1_agreement: Share of predicted tokens for which both models have the same top-1 token.
        text: Description of the text.
        other: The same on text of other kinds than the calibration's; None if it was not measured.
    """

    dense: float
    pruned: float
    text: str
    kl: float | None = None
    top1_agreement: float | None = None
    other: Quality | None = None


@dataclass(frozen=True)
class DenseRun:
    """Results of the dense model on texts, kept because it is then pruned in place.

    Attributes:
        token_ids: The texts, each of two tokens or more.
        folder: Folder of the final hidden states, the inputs of the LM head: one file per batch, in the model's dtype,
            [batch, sequence, hidden]. They are smaller than logits by a factor of vocabulary over hidden size.
        perplexity: Perplexity of the dense model.
    """

    token_ids: tuple[Sequence[int], ...]
    folder: Path
    perplexity: float


def describe_held_out(dense: DenseRun, calibration: Calibration) -> str:
    """Return a description of the texts that quality is measured on."""
    return f"{len(dense.token_ids)} prompts held out from calibration: {calibration.origin}"


def run_dense(model: PreTrainedModel, token_ids: Sequence[Sequence[int]], folder: Path) -> DenseRun | None:
    """Run the dense model on texts, and store the final hidden states, from which the LM head recomputes the logits.

    Args:
        model: A causal language model.
        token_ids: The texts; all tokens of a text but the first are predicted.
        folder: Folder to store the hidden states in.

    Returns:
        The results to compare the pruned model with, or None if no token is predicted.
    """
    import torch

    texts = tuple(ids for ids in token_ids if len(ids) > 1)
    if not texts:
        return None
    given: list[torch.Tensor] = []
    handle = _projection(model).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    loss = 0.0
    try:
        with torch.inference_mode():
            for number, (input_ids_bs, mask_bs) in enumerate(_batches(model, texts)):
                logits_bsv = _logits(model, input_ids_bs, mask_bs)
                save_tensors(_states_file(folder, number), {"hidden": to_numpy(given.pop().cpu())}, metadata={})
                for (log_pv,), next_p in _predictions(input_ids_bs, mask_bs, logits_bsv):
                    loss += _loss(log_pv, next_p)
    finally:
        handle.remove()
    return DenseRun(texts, folder, _perplexity(loss, texts))


def compare(model: PreTrainedModel, dense: DenseRun, *, text: str) -> Quality:
    """Run the pruned model on the same texts, and compare its predictions with those of the dense model.

    The LM head is never pruned. It therefore also gets the dense model's hidden states, so that a family's processing
    of logits applies to both models alike.

    Args:
        model: The dense model, pruned.
        dense: Results of the dense model.
        text: Description of the texts.
    """
    import torch
    from safetensors.torch import load_file

    kept: list[torch.Tensor] = []
    handle = _projection(model).register_forward_pre_hook(
        lambda _, inputs: (torch.cat((inputs[0], kept.pop())), *inputs[1:])
    )
    loss, divergence, agreeing = 0.0, 0.0, 0
    try:
        with torch.inference_mode():
            for number, (input_ids_bs, mask_bs) in enumerate(_batches(model, dense.token_ids)):
                kept.append(load_file(_states_file(dense.folder, number))["hidden"].to(model.device))
                both = _logits(model, input_ids_bs, mask_bs).chunk(2)
                for (pruned_pv, dense_pv), next_p in _predictions(input_ids_bs, mask_bs, *both):
                    loss += _loss(pruned_pv, next_p)
                    divergence += torch.nn.functional.kl_div(
                        pruned_pv, dense_pv, reduction="sum", log_target=True
                    ).item()
                    agreeing += int((pruned_pv.argmax(dim=1) == dense_pv.argmax(dim=1)).sum())
    finally:
        handle.remove()
    predicted = _predicted(dense.token_ids)
    return Quality(
        dense=dense.perplexity,
        pruned=_perplexity(loss, dense.token_ids),
        # rounding can make a divergence of zero negative; in this order, max keeps a NaN
        kl=max(divergence / predicted, 0.0),
        top1_agreement=agreeing / predicted,
        text=text,
    )


def _batches(model: PreTrainedModel, token_ids: Sequence[Sequence[int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and masks of padded batches, on the model's device."""
    for input_ids_bs, mask_bs in batches(token_ids, BATCH_TOKENS):
        yield input_ids_bs.to(model.device), mask_bs.to(model.device)


def _projection(model: PreTrainedModel) -> torch.nn.Module:
    """Return the LM head."""
    found: torch.nn.Module | None = model.get_output_embeddings()
    assert found is not None, f"{type(model).__name__} has no LM head"
    return found


def _logits(model: PreTrainedModel, input_ids_bs: torch.Tensor, mask_bs: torch.Tensor) -> torch.Tensor:
    logits_bsv: torch.Tensor = model(input_ids=input_ids_bs, attention_mask=mask_bs, use_cache=False).logits
    return logits_bsv


def _predictions(
    input_ids_bs: torch.Tensor, mask_bs: torch.Tensor, *logits_bsv: torch.Tensor
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """Yield log-probabilities in float64, [positions, vocabulary], by model, and the next tokens, chunk by chunk.

    Padding is excluded: it is not predicted, and no token follows it.
    """
    import torch

    predicts_bs = mask_bs.roll(-1, dims=1).index_fill(1, mask_bs.new_tensor([mask_bs.shape[1] - 1]), 0)
    next_p = input_ids_bs.roll(-1, dims=1).flatten()
    for places in torch.split(predicts_bs.flatten().nonzero().squeeze(1), CHUNK_TOKENS):
        yield [each.flatten(0, 1)[places].double().log_softmax(dim=1) for each in logits_bsv], next_p[places]


def _loss(log_pv: torch.Tensor, next_p: torch.Tensor) -> float:
    """Return the sum of the negative log-likelihoods of tokens."""
    return -log_pv.gather(1, next_p[:, None]).sum().item()


def _perplexity(loss: float, token_ids: Sequence[Sequence[Any]]) -> float:
    return math.exp(min(loss / _predicted(token_ids), 700.0))


def _predicted(token_ids: Sequence[Sequence[Any]]) -> int:
    return sum(len(ids) - 1 for ids in token_ids)


def _states_file(folder: Path, number: int) -> Path:
    return folder / f"batch-{number}.safetensors"
