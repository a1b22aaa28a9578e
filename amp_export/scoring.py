"""AMP's importance of attention heads and MLP neurons, from one forward pass over calibration prompts.

Head importance is the L1 norm of one query head's contribution to the residual stream; neuron importance is the
absolute hidden activation of the MLP. Both are averaged over a prompt's real tokens, then over prompts. Source: arXiv
2504.21174 and `amp_criterion.py` of the paper's reference code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints import save_tensors
from amp_export.errors import CalibrationError, ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amp_export.architectures import Architecture, ModelConfig, Projection

    Array = np.ndarray[Any, np.dtype[np.float32]]

BATCH_TOKENS = 2048
"""Tokens of one batch, padding counted: enough to keep the cores busy, little enough to stay out of swap."""

CHUNK_TOKENS = 512
"""Tokens whose contributions of one head are held at a time: small enough for the cache of a core."""

MAX_PROMPT_TOKENS = 2048
"""Longer prompts are cut here, so that one of them cannot exhaust the memory."""


@dataclass(frozen=True)
class Scores:
    """Importance by layer.

    Attributes:
        heads: For each layer a float32 array [num_attention_heads].
        neurons: For each layer a float32 array [intermediate_size].
        origin: What text the scores were measured on.
    """

    heads: tuple[Array, ...]
    neurons: tuple[Array, ...]
    origin: str

    def save(self, file: Path) -> None:
        """Writes `layers.N.heads` and `layers.N.neurons` as safetensors."""
        tensors = {f"layers.{layer}.heads": array for layer, array in enumerate(self.heads)}
        tensors |= {f"layers.{layer}.neurons": array for layer, array in enumerate(self.neurons)}
        save_tensors(file, tensors, metadata={"origin": self.origin})

    @classmethod
    def load(cls, file: Path, config: ModelConfig) -> Scores:
        """Reads what `save` wrote, and holds it against the model it is to be used for.

        Raises:
            ModelError: The file is missing, damaged, or of another model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="np") as handle:
                origin = (handle.metadata() or {}).get("origin", "unknown")
                layers = range(config.num_hidden_layers)
                heads = tuple(handle.get_tensor(f"layers.{layer}.heads") for layer in layers)
                neurons = tuple(handle.get_tensor(f"layers.{layer}.neurons") for layer in layers)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} holds no scores for {config.num_hidden_layers} layers: {error}") from error
        found, expected = (heads[0].size, neurons[0].size), (config.num_attention_heads, config.intermediate_size)
        if found != expected:
            raise ModelError(
                f"{file}: the scores are of another model: {found[0]} heads and {found[1]} neurons a layer, "
                f"where this one has {expected[0]} and {expected[1]}."
            )
        return cls(heads=heads, neurons=neurons, origin=origin)


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    architecture: Architecture,
    *,
    origin: str = "unknown",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores all heads and neurons in one forward pass over the prompts.

    Args:
        model: A causal language model of transformers; it is not changed.
        tokenizer: Its tokenizer.
        prompts: The calibration text.
        architecture: The facts of the model's `model_type`.
        origin: What the text is, kept with the scores.
        on_progress: Called with the number of prompts done and of all prompts.

    Raises:
        CalibrationError: No prompt has a token.
        ModelError: The activations are not finite.
    """
    config: Any = model.config
    token_ids = tokenize(tokenizer, prompts, limit=config.max_position_embeddings, vocab_size=config.vocab_size)
    return score_tokens(model, token_ids, architecture, origin=origin, on_progress=on_progress)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, limit: int, vocab_size: int
) -> list[list[int]]:
    """Token ids of each text that has any, cut to the model's length and to `MAX_PROMPT_TOKENS`.

    Raises:
        ModelError: The tokenizer knows tokens that the model does not.
    """
    encoded = [tokenizer(text).input_ids[: min(limit, MAX_PROMPT_TOKENS)] for text in texts]
    if (largest := max(map(max, filter(None, encoded)), default=0)) >= vocab_size:
        raise ModelError(
            f"The tokenizer gives token id {largest}, but the model's vocabulary ends at {vocab_size - 1}.\n"
            "The tokenizer is of another model; put the right one beside the weights."
        )
    return [ids for ids in encoded if ids]


def score_tokens(
    model: PreTrainedModel,
    token_ids: Sequence[Sequence[int]],
    architecture: Architecture,
    *,
    origin: str = "unknown",
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """`score` for prompts that are tokenized already."""
    import torch

    if not token_ids:
        raise CalibrationError("No calibration prompt has a token; there is nothing to score with.")
    base_model = model.get_submodule(architecture.base_model)
    done = 0
    with torch.inference_mode(), _Recorder(model, architecture) as recorder:
        for input_ids_bs, mask_bs in batches(token_ids, batch_tokens):
            recorder.begin_batch(mask_bs)
            base_model(input_ids=input_ids_bs, attention_mask=mask_bs, use_cache=False)
            done += len(input_ids_bs)
            if on_progress is not None:
                on_progress(done, len(token_ids))
        return recorder.scores(len(token_ids), origin)


def batches(
    token_ids: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields prompts of like length together: token ids and mask, both int64 [batch, sequence], padded on the right."""
    batch: list[Sequence[int]] = []
    for prompt in sorted(token_ids, key=len):
        # the new prompt is the longest so far, so its length is what all would be padded to
        if batch and (len(batch) + 1) * len(prompt) > batch_tokens:
            yield _pad(batch)
            batch = []
        batch.append(prompt)
    if batch:
        yield _pad(batch)


def _pad(batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(len(prompt) for prompt in batch)
    input_ids_bs = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask_bs = torch.zeros_like(input_ids_bs)
    for row, prompt in enumerate(batch):
        input_ids_bs[row, : len(prompt)] = torch.tensor(prompt)
        mask_bs[row, : len(prompt)] = 1
    return input_ids_bs, mask_bs


class _Recorder:
    """Hooks on the inputs of every output and down projection, and the sums that they add to."""

    def __init__(self, model: PreTrainedModel, architecture: Architecture) -> None:
        import torch

        self.handles: list[Any] = []
        self.heads: list[torch.Tensor] = []
        self.neurons: list[torch.Tensor] = []
        self.real_tokens = torch.empty(0)
        self.weights = torch.empty(0)
        output, down = architecture.attention.output, architecture.mlp.output
        for layer, module in enumerate(model.get_submodule(architecture.layers).children()):
            attention_output, mlp_output = module.get_submodule(output.name), module.get_submodule(down.name)
            self.heads.append(torch.zeros(model.config.num_attention_heads))
            self.neurons.append(torch.zeros(_weight_oi(mlp_output, down).shape[1]))
            hook = self._head_hook(layer, output)
            self.handles.append(attention_output.register_forward_pre_hook(hook))
            self.handles.append(mlp_output.register_forward_pre_hook(self._neuron_hook(layer)))

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def begin_batch(self, mask_bs: torch.Tensor) -> None:
        """Says which tokens of the coming batch are real; each weighs one over the length of its prompt."""
        self.real_tokens = mask_bs.flatten().nonzero().squeeze(1)
        self.weights = (mask_bs / mask_bs.sum(dim=1, keepdim=True)).flatten()[self.real_tokens].float()

    def _real(self, hidden_bsi: torch.Tensor) -> torch.Tensor:
        hidden_ti = hidden_bsi.flatten(0, 1)
        return hidden_ti if len(self.real_tokens) == len(hidden_ti) else hidden_ti[self.real_tokens]

    def _head_hook(self, layer: int, output: Projection) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hidden_ti = self._real(inputs[0])
            self.heads[layer] += head_contributions(
                hidden_ti.float(),
                _weight_oi(module, output).float(),
                self.weights,
                num_heads=len(self.heads[layer]),
            )

        return hook

    def _neuron_hook(self, layer: int) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            self.neurons[layer] += self.weights @ self._real(inputs[0]).abs().float()

        return hook

    def scores(self, prompts: int, origin: str) -> Scores:
        """The averages over prompts."""
        for layer, (heads, neurons) in enumerate(zip(self.heads, self.neurons, strict=True)):
            if not (heads.isfinite().all() and neurons.isfinite().all()):
                raise ModelError(
                    f"Layer {layer} gives activations that are NaN or infinite, so nothing can be scored.\n"
                    "The weights are damaged, or the model overflows in its dtype: try a bfloat16 or float32 copy."
                )
        return Scores(
            heads=tuple((heads / prompts).numpy() for heads in self.heads),
            neurons=tuple((neurons / prompts).numpy() for neurons in self.neurons),
            origin=origin,
        )


def _weight_oi(module: Any, projection: Projection) -> torch.Tensor:
    """The weight of a projection, [out, in], however the module keeps it."""
    weight: torch.Tensor = module.weight
    return weight.T if projection.transposed else weight


def head_contributions(
    hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, *, num_heads: int
) -> torch.Tensor:
    """Weighted sum over tokens of the L1 norm of each head's contribution to the residual stream.

    One head and one chunk of tokens at a time: [tokens, heads, hidden] would not fit.

    Args:
        hidden_ti: The output projection's input, [tokens, num_heads * head_dim].
        weight_oi: Its weight, [hidden_size, num_heads * head_dim].
        weights_t: What each token counts, [tokens].
        num_heads: Number of query heads.

    Returns:
        Sums by head, [num_heads].
    """
    import torch

    totals = torch.zeros(num_heads)
    chunks = max(1, math.ceil(len(hidden_ti) / CHUNK_TOKENS))
    for chunk_ti, chunk_weights_t in zip(hidden_ti.chunk(chunks), weights_t.chunk(chunks), strict=True):
        contribution_to = chunk_ti.new_empty(len(chunk_ti), len(weight_oi))
        heads = zip(chunk_ti.chunk(num_heads, dim=1), weight_oi.chunk(num_heads, dim=1), strict=True)
        for head, (head_td, weight_od) in enumerate(heads):
            torch.mm(head_td, weight_od.T, out=contribution_to)
            totals[head] += chunk_weights_t @ torch.linalg.vector_norm(contribution_to, ord=1, dim=1)
    return totals
