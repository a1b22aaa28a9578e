"""Prints logits of checkpoints as JSON: `python compute_logits.py VERSION FOLDER...`, with any transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path


def compute_logits(folders: Iterable[str]) -> dict[str, list[float] | None]:
    """Return some logits of a fixed text by checkpoint; None for one whose class this version does not have."""
    import torch
    import transformers

    found: dict[str, list[float] | None] = {}
    for folder in folders:
        (name,) = json.loads(Path(folder, "config.json").read_text())["architectures"]
        if (model_class := getattr(transformers, name, None)) is None:
            found[folder] = None
            continue
        # version 4.57 takes the dtype under both names
        model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(input_ids=torch.arange(5, 45)[None]).logits
        found[folder] = logits[0, ::7].double().flatten().tolist()
    return found


if __name__ == "__main__":
    import transformers

    transformers.logging.set_verbosity_error()
    assert transformers.__version__.startswith(sys.argv[1]), transformers.__version__
    print(json.dumps(compute_logits(sys.argv[2:])))
