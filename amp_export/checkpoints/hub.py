"""Download checkpoints from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.cache import DEMO, OnStatus
from amp_export.checkpoints.quiet import quiet_hub
from amp_export.checkpoints.reading import COMPANIONS
from amp_export.checkpoints.unsupported import ADAPTER_CONFIG
from amp_export.checkpoints.weight_files import INDEX, PICKLE_INDEX
from amp_export.errors import ModelError, first_line

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


HUB_TIMEOUT = 10.0
"""Timeout of the first request to the hub, in seconds."""

_HUB_PATTERNS = ("config.json", ADAPTER_CONFIG, "*.safetensors", INDEX, *COMPANIONS)

_HUB_PICKLES = ("pytorch_model*.bin", PICKLE_INDEX)


def fetch_from_hub(repo_id: str, status: OnStatus, *, allow_pickle: bool) -> Path:
    """Download a repository, or find it in the hub's cache if the hub cannot be reached.

    Raises:
        ModelError: The repository does not exist, is gated, or cannot be downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status(f"Fetching {repo_id} from the Hugging Face hub")
    try:
        with quiet_hub():
            # snapshot_download sends the same request without a timeout
            info = HfApi().model_info(repo_id, timeout=HUB_TIMEOUT)
            names = [file.rfilename for file in info.siblings or ()]
            needs_pickles = allow_pickle and not any(name.endswith(".safetensors") for name in names)
            patterns = (*_HUB_PATTERNS, *_HUB_PICKLES) if needs_pickles else _HUB_PATTERNS
            return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
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
    except Exception as error:  # the hub's client lets any error of its HTTP library through
        if cached := _find_in_hub_cache(repo_id):
            return cached
        raise ModelError(
            f"No such model: {repo_id}\nIt is not a local directory, and the hub cannot be reached "
            f"({first_line(error)}).\nConnect to the network and try again, or give a local directory or a .gguf file."
        ) from error


def _find_in_hub_cache(repo_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
