"""Models to evaluate: what scoring needs of a decoder, and the decoder that PyTorch runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Decoder(Protocol):
    """A decoder that gives logits; any runtime can."""

    def logits_at(self, input_ids_bs: torch.Tensor, mask_bs: torch.Tensor, places_p: torch.Tensor) -> torch.Tensor:
        """Return the logits of the tokens that follow at some places of a batch, [places, vocabulary].

        Args:
            input_ids_bs: Token ids, padded on the right, int64 [batch, sequence].
            mask_bs: 1 for real tokens, 0 for padding, int64 [batch, sequence].
            places_p: Places in the flattened batch, int64 [places].
        """
        ...


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

    def continue_greedily(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Return the most likely tokens after a prompt, up to the token that ends a text, which is not returned.

        Settings of the checkpoint such as a repetition penalty are set aside: they would hide that a model repeats
        itself.

        Args:
            prompt: Token ids of the prompt.
            tokens: Largest number of tokens to generate.
        """
        import torch
        from transformers import GenerationConfig

        from amp_export.checkpoints.quiet import quiet_transformers

        model: Any = self.model
        own, ends = model.generation_config, _ends(model)
        model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=ends[0] if ends else None)
        prompt_bs = torch.tensor([list(prompt)], device=model.device)
        try:
            with quiet_transformers(), torch.inference_mode():
                found_bs = model.generate(
                    input_ids=prompt_bs,
                    attention_mask=torch.ones_like(prompt_bs),
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=tokens,
                )
        finally:
            model.generation_config = own
        written: list[int] = found_bs[0, len(prompt) :].tolist()
        return written[:-1] if written and written[-1] in ends else written


def _ends(model: Any) -> list[int]:
    """Return the tokens that end a text."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = getattr(model.config, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
