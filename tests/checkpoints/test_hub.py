"""Downloads from the hub: which files, of which commit, and what is said where that fails."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from amp_export.checkpoints import hub
from amp_export.checkpoints.hub import fetch_from_hub
from amp_export.checkpoints.weight_files import INDEX, SINGLE
from amp_export.errors import ModelError

SHA = "0123456789abcdef0123456789abcdef01234567"

BESIDE = {"config.json": "{}", "tokenizer.json": "{}", "generation_config.json": "{}", "chat_template.jinja": "x"}
SHARDS = {f"model-{number}-of-2.safetensors": "weights" for number in (1, 2)}
CONSOLIDATED = {"consolidated.safetensors": "twice", "README.md": "x", "original/tokenizer.model": "x"}
FOLDERS = {f"onnx/{SINGLE}": "other", "fp16/config.json": "{}", "onnx/model-1-of-2.safetensors": "other"}
LISTED = json.dumps({"metadata": {}, "weight_map": dict(zip("ab", SHARDS, strict=True))})


class Hub:
    """Stands in for a repository on the hub, and records what is asked of it."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder, self.files = folder, files
        self.revisions: list[str] = []

    def model_info(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(sha=SHA, siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, _: str, *, revision: str, allow_patterns: list[str]) -> str:
        self.revisions.append(revision)
        for name, content in self.files.items():
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_text(content)
        return str(self.folder)


def serve(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", hub.model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)


def names_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({SINGLE: "weights"}, {SINGLE}),
        ({SINGLE: "weights", INDEX: LISTED, **SHARDS}, {SINGLE}),
        ({INDEX: LISTED, **SHARDS, "model-9-of-9.safetensors": "stale"}, {INDEX, *SHARDS}),
        ({"pytorch_model.bin": "pickle"}, {"pytorch_model.bin"}),
        ({SINGLE: "weights", "pytorch_model.bin": "pickle"}, {SINGLE}),
    ],
)
def test_only_what_is_read_is_fetched_and_all_of_one_commit(
    weights: dict[str, str], expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Hub(tmp_path / "snapshot", {**BESIDE, **weights, **CONSOLIDATED, **FOLDERS})
    serve(monkeypatch, served)
    assert names_in(fetch_from_hub("org/name", lambda _: None, allow_pickle=True)) == {*BESIDE, *expected}
    assert set(served.revisions) == {SHA}


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = json.dumps({"metadata": {}, "weight_map": {"a": "../other/weights"}})
    serve(monkeypatch, Hub(tmp_path / "snapshot", {**BESIDE, INDEX: outside}))
    with pytest.raises(ModelError, match="the name of a file beside it"):
        fetch_from_hub("org/name", lambda _: None, allow_pickle=False)


def of_python() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def of_rust() -> None:
    raise RuntimeError("Data processing error: IO Error: No space left on device (os error 28)")


def within_another() -> None:
    try:
        of_python()
    except OSError as error:
        raise RuntimeError("download failed") from error


@pytest.mark.parametrize("fail", [of_python, of_rust, within_another])
def test_a_full_disk_is_named_and_no_older_download_is_used(
    fail: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, Hub(tmp_path / "snapshot", BESIDE))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: fail())
    monkeypatch.setattr(hub, "cached_commits", lambda _: pytest.fail("looked for an older download"))
    with pytest.raises(ModelError, match=r"cannot be downloaded: No space left on device\.\n.*HF_HOME") as caught:
        fetch_from_hub("org/name", lambda _: None, allow_pickle=False)
    assert "No such model" not in str(caught.value)
