"""Models to evaluate: what scoring and writing need of a decoder, in PyTorch and in the runtimes of exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Protocol

from amp_export.exporters.models.generation import generate_greedily

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.exporters.models.decoder import Decoder as RuntimeDecoder

Stop = Callable[[Sequence[int]], bool]
"""Called with the token ids that are written so far; writing ends where it returns true."""


class Decoder(Protocol):
    """A decoder that gives logits; any runtime can."""

    def logits_at(self, input_ids_bs: torch.Tensor, mask_bs: torch.Tensor, places_p: torch.Tensor) -> torch.Tensor:
        """Return the logits of the tokens that follow at some places of a batch, [places, vocabulary].

        Args:
            input_ids_bs: Token ids, padded on the right, int64 [batch, sequence].
            mask_bs: 1 for real tokens, 0 for padding, int64 [batch, sequence].
            places_p: Places in the flattened batch, ascending, int64 [places].
        """
        ...


class Writer(Protocol):
    """A model that writes."""

    def continue_greedily(self, prompt: Sequence[int], tokens: int, *, stop: Stop | None = None) -> list[int]:
        """Return the most likely tokens after a prompt, up to the token that ends a text, which is not returned.

        Args:
            prompt: Token ids of the prompt.
            tokens: Largest number of tokens to generate.
            stop: Ends the text earlier; what it was called with last is returned.
        """
        ...


class Evaluated(Decoder, Writer, Protocol):
    """A model that can be evaluated on everything."""


class TorchDecoder:
    """A decoder in transformers.

    Attributes:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def logits_at(self, input_ids_bs: torch.Tensor, mask_bs: torch.Tensor, places_p: torch.Tensor) -> torch.Tensor:
        """Return the logits at some places; the LM head computes no others. See `Decoder`."""
        import torch

        device = self.model.device
        places_p = places_p.to(device)

        def select(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0].flatten(0, 1)[places_p][None], *inputs[1:])

        head = self.model.get_output_embeddings()
        assert head is not None, f"{type(self.model).__name__} has no LM head"
        handle = head.register_forward_pre_hook(select)
        try:
            with torch.inference_mode():
                found = self.model(
                    input_ids=input_ids_bs.to(device), attention_mask=mask_bs.to(device), use_cache=False
                )
        finally:
            handle.remove()
        logits_pv: torch.Tensor = found.logits[0]
        return logits_pv

    def continue_greedily(self, prompt: Sequence[int], tokens: int, *, stop: Stop | None = None) -> list[int]:
        """Return the most likely tokens after a prompt; see `Writer`.

        Settings of the checkpoint such as a repetition penalty are set aside: they would hide that a model repeats
        itself.
        """
        import torch
        from transformers import GenerationConfig

        from amp_export.checkpoints.quiet import quiet_transformers

        model: Any = self.model
        own, ends = model.generation_config, ending_tokens(model.generation_config, model.config)
        model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=ends[0] if ends else None)
        prompt_bs = torch.tensor([list(prompt)], device=model.device)

        def is_done(written_bs: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
            assert stop is not None
            return torch.tensor([stop(written_bs[0, len(prompt) :].tolist())], device=model.device)

        try:
            with quiet_transformers(), torch.inference_mode():
                found_bs = model.generate(
                    input_ids=prompt_bs,
                    attention_mask=torch.ones_like(prompt_bs),
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=tokens,
                    stopping_criteria=[] if stop is None else [is_done],
                )
        finally:
            model.generation_config = own
        written: list[int] = found_bs[0, len(prompt) :].tolist()
        return written[:-1] if written and written[-1] in ends else written


class ExportedDecoder:
    """A decoder in the runtime of an export.

    Attributes:
        decoder: The decoder.
        ends: Tokens that end a text.
    """

    def __init__(self, decoder: RuntimeDecoder, ends: Sequence[int]) -> None:
        self.decoder = decoder
        self.ends = ends

    def logits_at(self, input_ids_bs: torch.Tensor, mask_bs: torch.Tensor, places_p: torch.Tensor) -> torch.Tensor:
        """Return the logits at some places, in as many calls as the runtime's largest batch asks for; see `Decoder`."""
        import numpy as np
        import torch

        rows, length = input_ids_bs.shape
        most = self.decoder.max_batch or rows
        found = []
        for start in range(0, rows, most):
            ids_bs, kept_bs = (each[start : start + most].numpy() for each in (input_ids_bs, mask_bs))
            positions_bs = np.tile(np.arange(length), (len(ids_bs), 1))
            logits_bsv, _ = self.decoder.forward(ids_bs, kept_bs, positions_bs)
            first, end = start * length, (start + len(ids_bs)) * length
            here_p = places_p[(places_p >= first) & (places_p < end)] - first
            found.append(torch.from_numpy(logits_bsv.reshape(-1, logits_bsv.shape[2])[here_p.numpy()]))
        return torch.cat(found)

    def continue_greedily(self, prompt: Sequence[int], tokens: int, *, stop: Stop | None = None) -> list[int]:
        """Return the most likely tokens after a prompt; see `Writer`."""
        import numpy as np

        forward = partial(self.decoder.forward, logits_to_keep=1)
        following = islice(generate_greedily(forward, np.array([list(prompt)], np.int64)), tokens)
        written: list[int] = []
        for token in takewhile(lambda token: token not in self.ends, following):
            written.append(token)
            if stop is not None and stop(written):
                break
        return written


def ending_tokens(*configs: Any) -> list[int]:
    """Return the tokens that end a text: those of the first config, such as a generation config, that names any."""
    named = [each for each in (getattr(config, "eos_token_id", None) for config in configs) if each is not None]
    if not named:
        return []
    return [named[0]] if isinstance(named[0], int) else list(named[0])
