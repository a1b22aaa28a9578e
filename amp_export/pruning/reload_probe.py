"""Load checkpoints with transformers only, without this package, and write their outputs.

Usage: python -P reload_probe.py JOBS

JOBS is a JSON file with `threads`, `modules` (folder for modeling files that transformers copies) and `checkpoints`.
Each checkpoint has `path`, `inputs` and `outputs` (safetensors files), `loader` (class that loads it), and
`remote_code` (whether to pass `trust_remote_code`).
"""

from __future__ import annotations

import importlib.abc
import json
import os
import sys
from pathlib import Path
from typing import Any


class _NoAmpExport(importlib.abc.MetaPathFinder):
    """Finder that makes importing this package fail, as if it were not installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        if fullname.partition(".")[0] in ("amp_export", "exporters"):
            raise ImportError(f"{fullname} must not be needed to load a pruned checkpoint")


def probe(job: dict[str, Any]) -> None:
    """Read the inputs, run the model, and write its outputs, the token ids of the text, and the class of the model."""
    import torch
    import transformers
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(job["inputs"], framework="pt") as file:
        given, text = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["text"]  # noqa: SIM118
    options = {"local_files_only": True, **({"trust_remote_code": True} if job["remote_code"] else {})}
    model = getattr(transformers, job["loader"]).from_pretrained(job["path"], dtype="auto", **options).eval()
    token_ids = transformers.AutoTokenizer.from_pretrained(job["path"], **options)(text).input_ids if text else []
    with torch.inference_mode():
        computed = model(**given)
    # as `compared_outputs` in `amp_export/inputs/random.py`, which this script must not import
    outputs = {name: value for name, value in computed.items() if isinstance(value, torch.Tensor)}
    tensors = {f"output.{name}": value.clone().contiguous() for name, value in outputs.items()}
    tensors["token_ids"] = torch.tensor(token_ids, dtype=torch.int64)
    save_file(tensors, job["outputs"], metadata={"class": type(model).__name__})


def forbid_amp_export() -> None:
    """Make importing amp_export fail in this process."""
    sys.meta_path.insert(0, _NoAmpExport())


def work_through(jobs: Path) -> None:
    """Load each checkpoint of a file of jobs, and write its outputs."""
    content = json.loads(jobs.read_text(encoding="utf-8"))
    # transformers reads this once, at import
    os.environ["HF_MODULES_CACHE"] = content["modules"]

    import torch

    torch.set_num_threads(content["threads"])
    for job in content["checkpoints"]:
        probe(job)


if __name__ == "__main__":
    forbid_amp_export()
    work_through(Path(sys.argv[1]))
