"""What pruning a model that is no decoder costs, in the measure of its kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.trained.texts import hear

from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.inputs.batches import tokenize

if TYPE_CHECKING:
    import torch

EVERY = 7
"""Every seventh token is masked, which is the 15 % of BERT's training."""

WRITTEN_TOKENS = 96


def compare_encoders(dense: Path, pruned: Path, texts: Sequence[str]) -> str:
    """Compare two encoders on texts: by perplexity of masked tokens, or by their embeddings if they have no head."""
    bare = open_checkpoint(dense).config.is_bare
    return _compare_embeddings(dense, pruned, texts) if bare else _compare_masked(dense, pruned, texts)


def _compare_masked(dense: Path, pruned: Path, texts: Sequence[str]) -> str:
    before, after = (_masked_perplexity(path, texts) for path in (dense, pruned))
    return f"perplexity of masked tokens {before:.3g} to {after:.3g}"


def _masked_perplexity(path: Path, texts: Sequence[str]) -> float:
    """Return the perplexity of every seventh token, masked, given the others."""
    import torch

    model, tokenizer = load_model(path), load_tokenizer(path)
    loss, masked = 0.0, 0
    with torch.inference_mode():
        for ids_bs in _token_ids(path, texts):
            # neither the first nor the last token, which begin and end a text
            places = list(range(1 + EVERY // 2, ids_bs.shape[1] - 1, EVERY))
            hidden_bs = ids_bs.clone()
            hidden_bs[0, places] = tokenizer.mask_token_id
            found = model(input_ids=hidden_bs, attention_mask=torch.ones_like(ids_bs))
            logits_bsv = found.logits if "logits" in found else found.prediction_logits
            log_pv = logits_bsv[0, places].double().log_softmax(-1)
            loss -= float(log_pv.gather(1, ids_bs[0, places][:, None]).sum())
            masked += len(places)
    return math.exp(loss / masked)


def _compare_embeddings(dense: Path, pruned: Path, texts: Sequence[str]) -> str:
    """Compare mean-pooled embeddings, and how they rank all pairs of texts."""
    import torch
    from scipy.stats import spearmanr

    before, after = (torch.stack(list(_embeddings(path, texts))) for path in (dense, pruned))
    cosine = float((before * after).sum(1).mean())
    upper = torch.triu_indices(len(texts), len(texts), offset=1)
    pairs = [(each @ each.T)[upper[0], upper[1]].numpy() for each in (before, after)]
    return f"cosine {cosine:.3f}, rank correlation of pairs {float(spearmanr(*pairs).statistic):.3f}"


def _embeddings(path: Path, texts: Sequence[str]) -> Iterator[torch.Tensor]:
    import torch

    model = load_model(path)
    with torch.inference_mode():
        for ids_bs in _token_ids(path, texts):
            states_bsh = model(input_ids=ids_bs, attention_mask=torch.ones_like(ids_bs)).last_hidden_state
            yield torch.nn.functional.normalize(states_bsh[0].mean(0).double(), dim=0)


def _token_ids(path: Path, texts: Sequence[str]) -> Iterator[torch.Tensor]:
    import torch

    for ids in tokenize(load_tokenizer(path), texts, open_checkpoint(path).config):
        yield torch.tensor([ids])


def compare_speech(dense: Path, pruned: Path, texts: Sequence[str]) -> str:
    """Compare word error rates of what two Whisper models hear."""
    import torch

    heard = torch.from_numpy(hear(dense, texts))
    before, after = (_word_errors(path, heard, texts) for path in (dense, pruned))
    return f"word errors {before:.1%} to {after:.1%}"


def _word_errors(path: Path, heard: torch.Tensor, texts: Sequence[str]) -> float:
    import torch

    model, tokenizer = load_model(path), cast("Any", load_tokenizer(path))
    tokens = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    start = [tokenizer.convert_tokens_to_ids(token) for token in tokens]
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    errors = words = 0
    with torch.inference_mode():
        for sound, text in zip(heard, texts, strict=True):
            ids = _transcribe(model, sound[None], start, end)
            said, read = (_words(each) for each in (tokenizer.decode(ids), text))
            errors += _distance(said, read)
            words += len(read)
    return errors / words


def _transcribe(model: Any, sound: torch.Tensor, start: list[int], end: int) -> list[int]:
    import torch

    states = model.get_encoder()(sound)
    written: list[int] = []
    cache, given = None, torch.tensor([start])
    while len(written) < WRITTEN_TOKENS:
        found = model(encoder_outputs=states, decoder_input_ids=given, past_key_values=cache, use_cache=True)
        cache, given = found.past_key_values, found.logits[:, -1:].argmax(-1)
        if int(given) == end:
            break
        written.append(int(given))
    return written


def _words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return "".join(each if each.isalnum() else " " for each in text.lower().replace("'", "")).split()


def _distance(said: Sequence[str], read: Sequence[str]) -> int:
    """Return the smallest number of insertions, deletions and replacements of words."""
    row = list(range(len(read) + 1))
    for number, word in enumerate(said, start=1):
        last, row[0] = row[0], number
        for place, expected in enumerate(read, start=1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (word != expected))
    return row[-1]
