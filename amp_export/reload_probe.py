"""Loads a checkpoint as anyone would, and writes down the logits. Runs alone: this package must not be importable.

Usage: python -I reload_probe.py CHECKPOINT INPUTS OUTPUTS THREADS AUTO_CLASS MODULES

MODULES is where transformers keeps the modelling file of a resized checkpoint; without it, remote code is refused.
"""

from __future__ import annotations

import importlib.abc
import os
import sys


class _NoAmpExport(importlib.abc.MetaPathFinder):
    """Makes importing this package fail, as it would where it is not installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        if fullname.partition(".")[0] in ("amp_export", "exporters"):
            raise ImportError(f"{fullname} must not be needed to load a pruned checkpoint")


def main() -> None:
    """Reads token ids, runs the model, writes logits and what class it was."""
    checkpoint, inputs, outputs, threads, auto_class, *modules = sys.argv[1:]
    sys.meta_path.insert(0, _NoAmpExport())
    if modules:
        os.environ["HF_MODULES_CACHE"] = modules[0]

    import torch
    import transformers
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.set_num_threads(int(threads))
    with safe_open(inputs, framework="pt") as file:
        given, text = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["text"]  # noqa: SIM118
    options = {"local_files_only": True, "trust_remote_code": True} if modules else {"local_files_only": True}
    model = getattr(transformers, auto_class).from_pretrained(checkpoint, dtype="auto", **options).eval()
    token_ids = transformers.AutoTokenizer.from_pretrained(checkpoint, **options)(text).input_ids if text else []
    with torch.inference_mode():
        computed = model(**given)
    named = (getattr(computed, name, None) for name in ("logits", "last_hidden_state", "image_embeds"))
    output = next(value for value in named if value is not None)
    tensors = {"output": output.contiguous(), "token_ids": torch.tensor(token_ids, dtype=torch.int64)}
    save_file(tensors, outputs, metadata={"class": type(model).__name__})


if __name__ == "__main__":
    main()
