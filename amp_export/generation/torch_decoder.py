"""A checkpoint in PyTorch behind the interface of exported decoders, so that both generate in the same way."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.loading import cache_argument
from amp_export.exporters.models.decoder import Decoder
from amp_export.inputs.random import as_tensors
from amp_export.options import Dtype

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import DynamicCache, PreTrainedModel

    from amp_export.exporters.models.session import Floats, Integers


def load_torch_decoder(path: Path, *, threads: int | None = None) -> TorchDecoder:
    """Load a checkpoint in float32.

    Args:
        path: The checkpoint.
        threads: Threads that compute one operator, until it is closed; by default as many as torch is set to.

    Raises:
        ModelError: The checkpoint cannot be read.
    """
    import torch

    from amp_export.checkpoints.loading import load_model

    return TorchDecoder(load_model(path, dtype=torch.float32), threads=threads)


class TorchDecoder(Decoder):
    """A decoder in transformers, with a dynamic KV cache that each call extends."""

    def __init__(self, model: PreTrainedModel, *, threads: int | None = None) -> None:
        import torch

        self._threads_before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        self._model: PreTrainedModel | None = model
        self._taken = frozenset(inspect.signature(model.forward).parameters)
        self._cache = str(cache_argument(model))
        self.num_layers = int(model.config.get_text_config().num_hidden_layers)
        self.dtype = Dtype(str(model.dtype).removeprefix("torch."))
        self.threads = torch.get_num_threads()
        self.description = f"PyTorch {torch.__version__}"

    def forward(
        self,
        input_ids: Integers,
        attention_mask: Integers,
        position_ids: Integers,
        past: DynamicCache | None = None,
        *,
        logits_to_keep: int = 0,
    ) -> tuple[Floats, DynamicCache]:
        """See `Decoder.forward`; a cache that is passed is extended in place."""
        import torch
        from transformers import DynamicCache

        model = self._model
        if model is None:
            raise ValueError("This decoder is closed.")
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        tensors = as_tensors({name: array for name, array in given.items() if name in self._taken}, model)
        options: dict[str, Any] = {"logits_to_keep": logits_to_keep} if "logits_to_keep" in self._taken else {}
        with torch.inference_mode():
            cache = past if past is not None else DynamicCache(config=model.config)
            found = model(**tensors, **options, **{self._cache: cache}, use_cache=True)
        logits: Floats = found.logits.float().cpu().numpy()
        return logits[:, -logits_to_keep:], cache

    def close(self) -> None:
        """Free the weights, and give torch its number of threads back."""
        import torch

        self._model = None
        torch.set_num_threads(self._threads_before)
