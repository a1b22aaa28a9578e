"""Tiny vision-language models in parts, which several files of tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from amp_export import export
from amp_export.parity import decoder_cases
from amp_export.parity.decoder_cases import Case
from tests.support.shared import shared_folder
from tests.support.vision_language_models import save_tiny_whole

ExportedParts = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def parts_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets all tests share one cache, where the language models of these are kept."""
    monkeypatch.setenv("AMP_EXPORT_CACHE", str(shared_folder(tmp_path_factory) / "parts-cache"))


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> tuple[Case, ...]:
    """Lets parity compare few texts without images: they are those of decoders, which other tests compare."""
    cases = (Case("prefill of 2 tokens", (2,)), Case("left-padded batch of 1 and 5 tokens, 2 steps", (1, 5), 2))
    monkeypatch.setattr(decoder_cases, "DEFAULT_CASES", cases)
    return cases


@pytest.fixture(scope="session")
def exported_parts(tmp_path_factory: pytest.TempPathFactory) -> ExportedParts:
    """Exports a tiny model of a type, once for all tests: the model and the output, which nothing may change."""
    shared = shared_folder(tmp_path_factory)

    def exported(model_type: str) -> tuple[Path, Path]:
        folder = shared / f"parts-{model_type}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "out").is_dir():
                export(save_tiny_whole(folder / "whole", model_type), folder / "out")
        return folder / "whole", folder / "out"

    return exported
