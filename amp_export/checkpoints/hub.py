"""Download checkpoints from the Hugging Face hub."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
from pathlib import Path

from amp_export.checkpoints.cache import DEMO, OnStatus
from amp_export.checkpoints.companions import choose_companions
from amp_export.checkpoints.hub_cache import MAIN, SHOWN_LETTERS, cached_commits, choose_commit, note_revision
from amp_export.checkpoints.quiet import quiet_hub
from amp_export.checkpoints.unsupported import ADAPTER_CONFIG
from amp_export.checkpoints.weight_files import INDEX, PICKLE_INDEX, SINGLE, listed_names
from amp_export.documents import shorten_list
from amp_export.errors import ModelError, first_line, system_error

HUB_TIMEOUT = 10.0
"""Timeout of the first request to the hub, in seconds."""

_CONFIGS = frozenset({"config.json", ADAPTER_CONFIG})
_PICKLES = ("pytorch_model*.bin", PICKLE_INDEX)

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


def fetch_from_hub(repo_id: str, status: OnStatus, *, revision: str | None = None, allow_pickle: bool) -> Path:
    """Download a repository, or find it in the hub's cache if the hub cannot be reached.

    Args:
        repo_id: The repository, as `org/name`.
        status: Called with a line of text before the download.
        revision: A branch, a tag or a commit; by default, the main branch.
        allow_pickle: Download torch pickles if there is no safetensors file.

    Returns:
        The snapshot's folder in the hub's cache, which is named by its commit.

    Raises:
        ModelError: The repository or the revision does not exist, is gated, or cannot be downloaded, or there is no
            space for it.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status(f"Fetching {repo_id} from the Hugging Face hub" + (f", revision {revision}" if revision else ""))
    try:
        with quiet_hub():
            return _download(repo_id, revision, allow_pickle=allow_pickle)
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
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{repo_id} has no revision {revision or MAIN}.{_describe_revisions(repo_id)}\nGive a branch, a tag or a "
            "commit of it with --revision."
        ) from error
    except ModelError:
        raise
    except Exception as error:  # the hub's client lets any error of its HTTP library through
        if reason := _error_of_the_disk(error):
            raise ModelError(
                f"{repo_id} cannot be downloaded: {reason}.\nMake space in the hub's cache, or set HF_HOME to a "
                "directory that can be written, on another disk."
            ) from error
        return _find_in_cache(repo_id, revision, status, error)


def _download(repo_id: str, revision: str | None, *, allow_pickle: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # snapshot_download sends the same request without a timeout
    info = HfApi().model_info(repo_id, revision=revision, timeout=HUB_TIMEOUT)
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
    exact = [glob.escape(name) for name in wanted]
    snapshot = Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=exact))
    note_revision(snapshot, revision)
    return snapshot


def _describe_revisions(repo_id: str) -> str:
    """Return a clause that names the branches and tags of a repository; empty if the hub does not tell."""
    from huggingface_hub import HfApi

    try:
        with quiet_hub():
            refs = HfApi().list_repo_refs(repo_id)
    except Exception:  # noqa: BLE001  the clause is left out, whatever the reason
        return ""
    kinds = {"Branches": refs.branches, "Tags": refs.tags}
    found = [f"{kind}: {shorten_list([each.name for each in names])}." for kind, names in kinds.items() if names]
    return "".join(f" {each}" for each in found)


def _find_in_cache(repo_id: str, revision: str | None, status: OnStatus, error: Exception) -> Path:
    """Return the snapshot in the hub's cache, since the hub cannot be reached.

    Raises:
        ModelError: The cache does not hold the repository, or not that revision of it.
    """
    commits = cached_commits(repo_id)
    if chosen := choose_commit(commits, revision):
        commit = chosen.path.name[:SHOWN_LETTERS]
        status(f"The hub cannot be reached: taking commit {commit} of {repo_id} from its cache")
        return chosen.path
    if commits:
        raise ModelError(
            f"No such revision of {repo_id}: {revision or MAIN}\nThe hub cannot be reached ({first_line(error)}), and "
            f"its cache holds other revisions: {shorten_list(map(str, commits))}.\nConnect to the network and try "
            "again, or give one of these with --revision."
        ) from error
    raise ModelError(
        f"No such model: {repo_id}\nIt is not a local directory, and the hub cannot be reached "
        f"({first_line(error)}).\nConnect to the network and try again, or give a local directory or a .gguf file."
    ) from error


def _error_of_the_disk(error: BaseException | None) -> str | None:
    """Return the reason if an error, or what caused it, is one of a disk that is full or cannot be written."""
    while error is not None:
        if (number := system_error(error)) in _OF_THE_DISK:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None
