"""Download checkpoints from the Hugging Face hub."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
from pathlib import Path

from amp_export.checkpoints.cache import DEMO, OnStatus
from amp_export.checkpoints.companions import choose_companions
from amp_export.checkpoints.quiet import quiet_hub
from amp_export.checkpoints.unsupported import ADAPTER_CONFIG
from amp_export.checkpoints.weight_files import INDEX, PICKLE_INDEX, SINGLE, listed_names, weight_files
from amp_export.errors import ModelError, first_line, system_error

HUB_TIMEOUT = 10.0
"""Timeout of the first request to the hub, in seconds."""

_CONFIGS = frozenset({"config.json", ADAPTER_CONFIG})
_PICKLES = ("pytorch_model*.bin", PICKLE_INDEX)

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


def fetch_from_hub(repo_id: str, status: OnStatus, *, allow_pickle: bool) -> Path:
    """Download a repository, or find it in the hub's cache if the hub cannot be reached.

    Raises:
        ModelError: The repository does not exist, is gated, or cannot be downloaded, or there is no space for it.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status(f"Fetching {repo_id} from the Hugging Face hub")
    try:
        with quiet_hub():
            return _download(repo_id, allow_pickle=allow_pickle)
    except GatedRepoError as error:
        raise ModelError(
            f"{repo_id} is gated: its owner has to grant you access.\nAccept the terms at "
            f"https://huggingface.co/{repo_id}, then log in: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"No such model: {repo_id}\nIt is neither a local directory nor a repository on the hub that you can "
            "access.\n"
            f"Check the spelling; for a private repository, log in first: hf auth login. For the demo model, use "
            f"--model {DEMO}."
        ) from error
    except ModelError:
        raise
    except Exception as error:  # the hub's client lets any error of its HTTP library through
        if reason := _error_of_the_disk(error):
            raise ModelError(
                f"{repo_id} cannot be downloaded: {reason}.\nMake space in the hub's cache, or set HF_HOME to a "
                "directory that can be written, on another disk."
            ) from error
        if cached := _find_in_hub_cache(repo_id):
            return cached
        raise ModelError(
            f"No such model: {repo_id}\nIt is not a local directory, and the hub cannot be reached "
            f"({first_line(error)}).\nConnect to the network and try again, or give a local directory or a .gguf file."
        ) from error


def _download(repo_id: str, *, allow_pickle: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # snapshot_download sends the same request without a timeout
    info = HfApi().model_info(repo_id, timeout=HUB_TIMEOUT)
    names = [file.rfilename for file in info.siblings or ()]
    # of the commit that the names are of, though the repository may change meanwhile
    if SINGLE not in names and INDEX in names:
        index = Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=[INDEX]))
        weights = frozenset({INDEX, *listed_names(index / INDEX)})
    else:
        weights = frozenset({SINGLE})
    patterns = _PICKLES if allow_pickle and weights.isdisjoint(names) else ()
    pickles = {name for name in names for pattern in patterns if "/" not in name and fnmatch.fnmatchcase(name, pattern)}
    chosen = {*weights, *_CONFIGS, *pickles, *choose_companions(names)}
    wanted = [name for name in names if name in chosen]
    # the hub's patterns match below folders too: those of whole names do not
    return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=[glob.escape(name) for name in wanted]))


def _error_of_the_disk(error: BaseException | None) -> str | None:
    """Return the reason if an error, or what caused it, is one of a disk that is full or cannot be written."""
    while error is not None:
        if (number := system_error(error)) in _OF_THE_DISK:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def _find_in_hub_cache(repo_id: str) -> Path | None:
    """Return the newest revision in the hub's cache whose weights are complete, or else that has a config."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir().repos
    except CacheNotFound:
        return None
    models = (each for each in found if each.repo_type == "model" and each.repo_id == repo_id)
    revisions = [revision for model in models for revision in model.revisions]
    newest = sorted(revisions, key=lambda revision: revision.last_modified, reverse=True)
    paths = [path for revision in newest if ((path := revision.snapshot_path) / "config.json").is_file()]
    return next(filter(_has_weights, paths), next(iter(paths), None))


def _has_weights(path: Path) -> bool:
    try:
        weight_files(path)
    except ModelError:
        return False
    return True
