"""Model sources: a directory, a GGUF file, the Hugging Face hub, or the demo model.

Each is resolved to a checkpoint directory.
"""

from __future__ import annotations

import contextlib
import enum
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.caching import cache_directory
from amp_export.checkpoints.cache import DEMO, OnStatus, conversion_key, make_once
from amp_export.checkpoints.gguf import convert_gguf, fetch_demo
from amp_export.checkpoints.hub import fetch_from_hub
from amp_export.checkpoints.reading import code_beside
from amp_export.checkpoints.vision_language import extract, hash_whole, is_vision_language, refuse_type
from amp_export.checkpoints.weight_files import find_pickles, has_safetensors
from amp_export.documents import read_object
from amp_export.errors import ModelError, OutputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class SourceKind(enum.StrEnum):
    """Kind of model source."""

    DEMO = "demo"
    DIRECTORY = "directory"
    GGUF = "gguf"
    HUB = "hub"


@dataclass(frozen=True)
class Source:
    """A resolved model.

    Attributes:
        asked: The model as the user named it.
        kind: Kind of source.
        path: The checkpoint directory; of a vision-language model, that of its language model.
        revision: The branch, tag or commit on the hub that the user named, or None.
        commit: The commit on the hub, or None for another kind of source.
        whole: The directory of the vision-language model whose language model this is, or None.
        whole_sha256: A hash of its files.
    """

    asked: str
    kind: SourceKind
    path: Path
    revision: str | None = None
    commit: str | None = None
    whole: Path | None = None
    whole_sha256: str | None = None


def resolve_model(
    model: str | Path,
    *,
    revision: str | None = None,
    cache: Path | None = None,
    allow_pickle: bool = False,
    on_status: OnStatus | None = None,
) -> Source:
    """Resolve a model to a checkpoint directory on disk; download or convert it if needed.

    Args:
        model: A checkpoint directory, a `.gguf` file, a hub id, or `demo`. Use `./demo` for a directory of that name.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        cache: Cache for checkpoints made from GGUF files and pickles; by default `cache_directory()`.
        allow_pickle: Whether to read weights from torch pickles if there are no safetensors; code in them is never run.
        on_status: Called with a line of text before long operations.

    Raises:
        ModelError: The model does not exist, or it cannot be downloaded or read, or has no such revision.
        UnsupportedModelError: The architecture is not supported.
        MissingExtraError: The `demo` extra, needed to read GGUF files, is not installed.
    """
    asked, path = str(model), Path(model).expanduser()
    cache = cache or cache_directory()
    status = on_status or _ignore
    if revision is not None:
        _check_revision(asked, path, revision)
    if asked == DEMO:
        return Source(asked, SourceKind.DEMO, fetch_demo(cache, status))
    if path.is_dir():
        readable = _readable(path, cache, status, allow_pickle=allow_pickle)
        return _with_whole(Source(asked, SourceKind.DIRECTORY, readable), cache, status)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return Source(asked, SourceKind.GGUF, convert_gguf(path, cache, status))
    if path.is_file():
        raise ModelError(
            f"{asked} is neither a directory nor a .gguf file.\nGive the checkpoint's directory: {path.parent}"
        )
    if not _HUB_ID.fullmatch(asked) or path.suffix.lower() == ".gguf":
        raise ModelError(
            f"No such model: {asked}\nThere is no such file or directory, and it is not a hub id (org/name).\nTo try "
            f"amp-export on a small real model, use --model {DEMO}."
        )
    fetched = fetch_from_hub(asked, status, revision=revision, allow_pickle=allow_pickle)
    readable = _readable(fetched, cache, status, allow_pickle=allow_pickle)
    return _with_whole(Source(asked, SourceKind.HUB, readable, revision, commit=fetched.name), cache, status)


def _check_revision(asked: str, path: Path, revision: str) -> None:
    """Raise ModelError if a revision is empty, or names a version of what has none.

    Raises:
        ModelError: It is, or it does.
    """
    if not revision.strip():
        raise ModelError("--revision is empty.\nGive a branch, a tag or a commit, or leave it out for the main branch.")
    kind = "the demo model" if asked == DEMO else "a local directory" if path.is_dir() else "a local file"
    if asked == DEMO or path.exists():
        raise ModelError(
            f"--revision {revision} does not apply to {asked}, which is {kind}: only repositories on the hub have "
            "revisions.\nLeave --revision out, or give a hub id (org/name) that is not the name of a file here."
        )


def _ignore(_: str) -> None:
    """Ignore a status message."""


def _with_whole(source: Source, cache: Path, status: OnStatus) -> Source:
    """Return the source, or the language model of a vision-language model in the cache."""
    whole = source.path
    try:
        raw_config = read_object(whole / "config.json")
    except OutputError:  # reported when it is needed
        return source
    if not is_vision_language(raw_config):
        return source
    refuse_type(raw_config)

    def make(folder: Path) -> None:
        status(f"Taking the language model out (once; cached in {cache})")
        extract(whole, folder)

    status(f"{source.asked} is a vision-language model, whose language model is read")
    sha256 = hash_whole(whole)
    path = make_once(cache / "language" / conversion_key(sha256, "transformers"), make)
    return replace(source, path=path, whole=whole, whole_sha256=sha256)


def _readable(path: Path, cache: Path, status: OnStatus, *, allow_pickle: bool) -> Path:
    """Return the directory, or the one its pickles are converted to; report code in it that is not run."""
    with contextlib.suppress(OutputError):  # a missing or damaged config is reported when it is needed
        if code := code_beside(read_object(path / "config.json")):
            status(f"Code in the checkpoint is not run ({', '.join(code)}); transformers' own class is used.")
    if not allow_pickle or has_safetensors(path) or not (path / "config.json").is_file() or not find_pickles(path):
        return path
    from amp_export.checkpoints.pickles import convert_pickles, hash_pickles

    def make(folder: Path) -> None:
        status(f"Converting pickles to safetensors (once; cached in {cache})")
        convert_pickles(path, folder)

    status("Reading the pickles")
    return make_once(cache / "pickles" / conversion_key(hash_pickles(path)), make)
