"""What tests of the LM Evaluation Harness share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def harness() -> None:
    pytest.importorskip("lm_eval", reason="lm-eval (extra `evaluate`) is not installed")


@pytest.fixture
def few_tasks(harness: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leaves the harness the tasks of the paper, since reading all of its own takes ten seconds."""
    from lm_eval.tasks import manager

    for folder in ("piqa", "hellaswag", "winogrande", "arc", "wikitext"):
        shutil.copytree(Path(manager.__file__).parent / folder, tmp_path / "tasks" / folder)
    monkeypatch.setattr(manager, "__file__", str(tmp_path / "tasks/manager.py"))
