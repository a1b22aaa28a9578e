"""What a GGUF file says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amp_export.errors import ModelError, UnsupportedModelError, first_line
from amp_export.exporters.files import exported_files
from amp_export.exporters.gguf.blocks import BLOCK, FLOATS, Kind, find_kind
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.extras import require_extra
from amp_export.options import Dtype, Format

_COUNTING = ("attention.sliding_window", "shortconv.l_cache", "ssm.conv_kernel")
"""Keys of models in which padding between tokens counts: those with windows and convolutions."""


@dataclass(frozen=True)
class GgufFacts:
    """The header of a file.

    Attributes:
        architecture: Value of `general.architecture`.
        kind: The type of most weights.
        weight_bytes: Bytes of the tensors that each token is multiplied with: all but an embedding beside an LM head.
        counts_padding: Whether transformers counts the padding between tokens, in sliding windows and convolutions:
            llama.cpp is given none.
    """

    architecture: str
    kind: Kind
    weight_bytes: int
    counts_padding: bool

    @property
    def dtype(self) -> Dtype:
        """The dtype that products are computed in; float32, if weights are quantized."""
        return next((dtype for dtype, kind in FLOATS.items() if kind == self.kind), Dtype.FLOAT32)

    @property
    def quantization(self) -> Quantization | None:
        """The format of quantized weights; None if they are not."""
        return Quantization(self.kind.weights, BLOCK) if self.kind.weights is not None else None


def is_gguf(folder: Path) -> bool:
    """Return whether a folder holds a GGUF file."""
    return any(folder.glob("*.gguf"))


def exported_file(folder: Path) -> Path:
    """Return the GGUF file of an export.

    Raises:
        ModelError: There is none.
    """
    return exported_files(folder, Format.GGUF)[0]


def read_facts(file: Path) -> GgufFacts:
    """Return what a file's header says.

    Raises:
        MissingExtraError: The library gguf is not installed.
        ModelError: The file is damaged, or not a GGUF file.
        UnsupportedModelError: Its weights are of a type that is not written here.
    """
    require_extra("gguf", "gguf", needed_for="Reading a GGUF file")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        number = int(reader.fields["general.file_type"].contents())
        architecture = str(reader.fields["general.architecture"].contents())
        sizes = {tensor.name: int(tensor.n_bytes) for tensor in reader.tensors}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{file} is damaged or not a GGUF file: {first_line(error)}\nExport it again.") from error
    if (kind := find_kind(number)) is None:
        raise UnsupportedModelError(
            f"{file} has weights of the file type {number}, which amp-export does not write.\nExport it again."
        )
    looked_up = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    counts_padding = any(f"{architecture}.{key}" in reader.fields for key in _COUNTING)
    return GgufFacts(architecture, kind, sum(sizes.values()) - looked_up, counts_padding)
