"""Reads the quantized weights of a graph back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.exporters.onnx.builder.blocks import BlockFormat, BlockWeight, unpack_fused, unpack_standard
from amp_export.exporters.onnx.builder.layout import codes_name, rows_name, scales_name
from amp_export.exporters.onnx.builder.packing import read_rows
from amp_export.exporters.onnx.builder.weights import taking
from amp_export.exporters.onnx.descriptions import read_quantization
from amp_export.options import Operators, WeightFormat

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig
    from amp_export.exporters.onnx.builder.weights import Rounding

    Array = np.ndarray[Any, np.dtype[Any]]

_PACKED = 2
"""`TensorProto.UINT8`, the type of codes for MatMulNBits."""


class ExpertWeight:
    """The weight of one expert, as if it were a module's: a part of a parameter.

    Args:
        experts: Module of the experts.
        parameter: Name of the parameter, [experts, ...].
        number: Number of the expert.

    Attributes:
        experts: As given.
        parameter: As given.
    """

    def __init__(self, experts: Any, parameter: str, number: int) -> None:
        self.experts, self.parameter, self._number = experts, parameter, number

    @property
    def weight(self) -> torch.Tensor:
        """A copy of the weight."""
        values: torch.Tensor = getattr(self.experts, self.parameter).detach()
        return values[self._number].clone()

    @weight.setter
    def weight(self, values: torch.Tensor) -> None:
        getattr(self.experts, self.parameter).data[self._number] = values


@dataclass(frozen=True)
class Owners:
    """Modules of a model that a quantized weight of its graph is the weight of.

    Attributes:
        products: Those that multiply with it.
        rows: The embedding that looks up its rows, or None.
    """

    products: tuple[Any, ...]
    rows: Any = None

    @property
    def all(self) -> tuple[Any, ...]:
        """All of them."""
        return self.products if self.rows is None else (*self.products, self.rows)


def find_owners(model: PreTrainedModel, config: ModelConfig, name: str, operators: Operators) -> Owners:
    """Return the owners of a quantized weight.

    Args:
        model: The model.
        config: Its config.
        name: Name of the checkpoint's tensor.
        operators: Operators of the graph: the standard's look up rows in an embedding that is not quantized.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    architecture = config.architecture
    if name == f"{architecture.head}.weight":
        return Owners((head,))
    if name != f"{architecture.embedding}.weight":
        return Owners((_owner(model, config, name),))
    is_tied = head.weight is embedding.weight
    if operators is Operators.STANDARD:
        return Owners((head,))
    return Owners((head,) if is_tied else (), embedding)


def _owner(model: PreTrainedModel, config: ModelConfig, name: str) -> Any:
    """Return the module of a layer's weight, or the expert."""
    path, _, last = name.rpartition(".")
    if not last.isdecimal():
        return _language_module(model, config, path)
    module, _, parameter = path.rpartition(".")
    return ExpertWeight(_language_module(model, config, module), parameter, int(last))


def _language_module(model: PreTrainedModel, config: ModelConfig, name: str) -> Any:
    """Return a module of a language model by its name there, also where the model is a vision-language one."""
    if not hasattr(model.config, "text_config"):
        return model.get_submodule(name)
    embedding = model.get_input_embeddings()
    place = next(path for path, module in model.named_modules() if module is embedding)
    decoder = model.get_submodule(place.rpartition(".")[0])
    return decoder.get_submodule(name.removeprefix(f"{config.architecture.base_model}."))


def quantized_names(graph: Path) -> tuple[str, ...]:
    """Return the names of the checkpoint's tensors that are quantized in a graph that this package wrote."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    return tuple(
        part for name in _quantized(model) for part in read_rows(scales[scales_name(name)].doc_string) or [name]
    )


def _quantized(model: onnx.ModelProto) -> tuple[str, ...]:
    end, names = scales_name(""), (tensor.name for tensor in model.graph.initializer)
    return tuple(name.removesuffix(end) for name in names if name.endswith(end))


def read_quantized(graph: Path) -> Iterator[tuple[str, BlockWeight]]:
    """Yield the quantized weights of a graph that this package wrote, by the names of the checkpoint's tensors.

    Args:
        graph: File of the graph.
    """
    import numpy as np
    import onnx
    from onnx import helper

    model = onnx.load(graph, load_external_data=False)
    quantization = read_quantization({entry.key: entry.value for entry in model.metadata_props})
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in _quantized(model):
        assert quantization is not None
        scales = tensors[scales_name(name)]
        codes = next(tensors[each] for each in (codes_name(name), rows_name(name)) if each in tensors)
        numbers = _read(graph.parent, scales).view(helper.tensor_dtype_to_np_dtype(scales.data_type))
        numbers = numbers.reshape(scales.dims).astype(np.float32)
        is_packed = codes.data_type == _PACKED
        # one axis if all of a row share a scale
        scales_ob = numbers if is_packed else numbers.reshape(-1, numbers.shape[-1]).T
        outputs, blocks = scales_ob.shape
        packed, size = _read(graph.parent, codes), quantization.block_size
        inputs = blocks * size if size is not None else len(packed) // outputs
        is_float = quantization.weights is WeightFormat.FP8
        form = BlockFormat(len(packed) * 8 // (outputs * inputs), size or inputs, is_float=is_float)
        codes_oi = (
            unpack_fused(packed, form, outputs=outputs) if is_packed else unpack_standard(packed, form, inputs=inputs)
        )
        start = 0
        for part, rows in (read_rows(scales.doc_string) or {name: outputs}).items():
            yield part, BlockWeight(codes_oi[start : start + rows], scales_ob[start : start + rows])
            start += rows


def same_codes(graph: Path) -> Rounding:
    """Return a rounding that takes the quantized weights of a graph, for another graph of the same model."""
    return taking(dict(read_quantized(graph)))


def _read(folder: Path, tensor: onnx.TensorProto) -> Array:
    """Return the bytes of a tensor."""
    import numpy as np

    entries = {entry.key: entry.value for entry in tensor.external_data}
    return np.fromfile(
        folder / entries["location"], np.uint8, count=int(entries["length"]), offset=int(entries["offset"])
    )
