"""Tiny vision-language models in parts, exported once for all tests."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from amp_export import export
from tests.support.vision_language_models import save_tiny_whole


def exported_parts(shared: Path, model_type: str) -> tuple[Path, Path]:
    """Return a tiny model and its output, which nothing may change.

    Args:
        shared: Folder that all test processes share, from `shared_folder`.
        model_type: Type of the model.
    """
    folder = shared / f"parts-{model_type}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "out").is_dir():
            export(save_tiny_whole(folder / "whole", model_type), folder / "out")
    return folder / "whole", folder / "out"
