"""A graph under construction: nodes, constants and weights, in order of execution."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.builder.layout import Content, StoredTensor, codes_name
from amp_export.exporters.onnx.builder.packing import describe_rows
from amp_export.options import Dtype, Operators, Opset

if TYPE_CHECKING:
    import onnx

    from amp_export.exporters.onnx.builder.blocks import BlockFormat

    Attribute = int | float | str | Sequence[int]
    Shape = Sequence[int | str]


ONNXRUNTIME_DOMAIN = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds to the standard."""


END = 2**63 - 1
"""The end of any axis, for Slice."""


class ValueKind(enum.Enum):
    """Dtype of a graph's input or output: the graph's dtype, float32 whatever that is, or int64."""

    FLOAT = enum.auto()
    FLOAT32 = enum.auto()
    INTEGER = enum.auto()


class Graph:
    """Collects the parts of an ONNX graph; every method that adds a value returns the value's name.

    Args:
        stored: Tensors of the data file, from `lay_out`.
        dtype: Dtype of all values that are neither integers nor booleans.
        data_file: Name of the data file, in the same folder as the graph.
        opset: Version of its operators.
        operators: Whether it may have those of ONNX Runtime, too.

    Attributes:
        dtype: As given.
        opset: As given.
        is_fused: Whether it may have ONNX Runtime's operators.
    """

    def __init__(
        self,
        stored: Sequence[StoredTensor],
        *,
        dtype: Dtype,
        data_file: str,
        opset: Opset,
        operators: Operators = Operators.STANDARD,
    ) -> None:
        self.dtype = dtype
        self.opset = opset
        self.is_fused = operators is Operators.ONNXRUNTIME
        self._stored = {tensor.name: tensor for tensor in stored}
        self._data_file = data_file
        self._dtype = _onnx_type(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def add(self, operator: str, *inputs: str, output: str, **attributes: Attribute) -> str:
        """Add a node with one output; the node has the same name."""
        from onnx import helper

        node = helper.make_node(operator, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.append(node)
        return output

    def add_fused(self, operator: str, *inputs: str, outputs: Sequence[str], **attributes: Attribute) -> None:
        """Add a node with an operator of ONNX Runtime, named after its first output; "" leaves an output out."""
        from onnx import helper

        assert self.is_fused, f"{operator} is not an operator of the standard"
        node = helper.make_node(operator, inputs, outputs, name=outputs[0], domain=ONNXRUNTIME_DOMAIN)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self._nodes.append(node)

    def rename_last(self, output: str) -> None:
        """Give the output of the last node another name, as no further node could without copying it."""
        node = self._nodes[-1]
        assert len(node.output) == 1, f"{node.name} has several outputs"
        node.output[0] = output

    def add_scan(
        self,
        step: Callable[[], tuple[str, str]],
        *,
        state: tuple[str, str],
        sequences: Mapping[str, str],
        outputs: tuple[str, str],
    ) -> None:
        """Add a Scan over the second axis, of float32, with one state and one value for each step.

        Args:
            step: Adds the nodes of a step; returns the names of the state after it, and of its value.
            state: Name of the state in a step, and of the one before the first.
            sequences: What a step reads: its name in the step, and the sequence [batch, steps, ...].
            outputs: Names of the last state, and of the values [batch, steps, ...].
        """
        from onnx import helper

        around, self._nodes = self._nodes, []
        try:
            made = step()
            inner = self._nodes
        finally:
            self._nodes = around
        inside, before = state
        inputs, results = (
            [helper.make_tensor_value_info(name, _onnx_type(Dtype.FLOAT32), None) for name in names]
            for names in ((inside, *sequences), made)
        )
        body = helper.make_graph(inner, f"{outputs[1]}.step", inputs, results)
        node = helper.make_node(
            "Scan",
            [before, *sequences.values()],
            outputs,
            name=outputs[1],
            body=body,
            num_scan_inputs=len(sequences),
            scan_input_axes=[1] * len(sequences),
            scan_output_axes=[1],
        )
        self._nodes.append(node)

    def knows(self, operator: str) -> bool:
        """Return whether the graph's opset has an operator."""
        from onnx import defs

        return bool(defs.has(operator, self.opset.version))

    def cast(self, value: str, dtype: Dtype, *, output: str, source: Dtype | None = None) -> str:
        """Cast a value to a dtype, or return it unchanged if it has that dtype.

        Args:
            value: Name of the value.
            dtype: Dtype of the result.
            output: Name of the result.
            source: Dtype of the value; by default the graph's.
        """
        if dtype is (source or self.dtype):
            return value
        return self.add("Cast", value, output=output, to=_onnx_type(dtype))

    def to_int32(self, value: str, *, output: str) -> str:
        """Cast integers to int32, which ONNX Runtime's operators take."""
        from onnx import TensorProto

        return self.add("Cast", value, output=output, to=TensorProto.INT32)

    def to_int64(self, value: str, *, output: str) -> str:
        """Cast booleans or numbers to int64."""
        from onnx import TensorProto

        return self.add("Cast", value, output=output, to=TensorProto.INT64)

    def to_float32(self, value: str, *, output: str) -> str:
        """Cast integers to float32."""
        from onnx import TensorProto

        return self.add("Cast", value, output=output, to=TensorProto.FLOAT)

    def to_graph_dtype(self, value: str, *, output: str) -> str:
        """Cast integers to the graph's dtype."""
        return self.add("Cast", value, output=output, to=self._dtype)

    def slice(self, value: str, start: int, end: int | None, *, axis: int, output: str) -> str:
        """Take a range of an axis; None is its end."""
        ends = self.integers(END if end is None else end)
        return self.add("Slice", value, self.integers(start), ends, self.integers(axis), output=output)

    def largest(self, value: str, count: int, *, outputs: tuple[str, str]) -> tuple[str, str]:
        """Add the largest entries of the last axis, in descending order, and their places."""
        from onnx import helper

        self._nodes.append(helper.make_node("TopK", [value, self.integers(count)], outputs, name=outputs[0]))
        return outputs

    def split_rows(self, value: str, counts: str, *, outputs: Sequence[str]) -> Sequence[str]:
        """Split the first axis of a value into parts whose numbers of rows are a value, int64 [outputs]."""
        from onnx import helper

        node = helper.make_node("Split", [value, counts], outputs, name=f"{value}.rows")
        node.attribute.append(helper.make_attribute("axis", 0))
        self._nodes.append(node)
        return outputs

    def split(self, value: str, sizes: Sequence[int], *, outputs: Sequence[str]) -> Sequence[str]:
        """Split the last axis of a value into parts of these sizes."""
        from onnx import helper

        node = helper.make_node("Split", [value, self.integers(*sizes)], outputs, name=f"{value}.parts")
        node.attribute.append(helper.make_attribute("axis", -1))
        self._nodes.append(node)
        return outputs

    def has_weight(self, name: str) -> bool:
        """Return whether the data file has a tensor of this name."""
        return name in self._stored

    def format_of(self, weight: str) -> BlockFormat | None:
        """Return the format of a weight of a linear layer; None if it is not quantized."""
        codes = self._stored.get(codes_name(weight))
        return codes.form if codes is not None else None

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the data file."""
        return self._stored[name].shape

    def weight(self, name: str) -> str:
        """Return a tensor of the data file."""
        return self.weight_as(name, name, self._stored[name].shape)

    def weight_as(self, name: str, stored_name: str, shape: Sequence[int]) -> str:
        """Return a tensor of the data file under a name and with a shape of its own; its bytes are stored once."""
        if name not in self._initializers:
            tensor = self._stored[stored_name]
            self._initializers[name] = self._external(name, tensor, shape, nbytes=tensor.nbytes)
        return name

    def pack_of(self, weight: str) -> str | None:
        """Return the name of the pack that a weight of a linear layer is in; None if it is in none."""
        codes = self._stored.get(codes_name(weight))
        return codes.pack if codes is not None else None

    def joined(self, name: str, parts: Sequence[str]) -> str:
        """Return tensors of the data file that lie side by side as one, along their first axis."""
        tensors = [self._stored[part] for part in parts]
        pairs = itertools.pairwise(tensors)
        assert all(one.offset + one.nbytes == other.offset for one, other in pairs), f"{parts} do not lie side by side"
        rows = {tensor.source: tensor.shape[0] for tensor in tensors}
        shape = [sum(rows.values()), *tensors[0].shape[1:]]
        made = self._external(name, tensors[0], shape, nbytes=sum(tensor.nbytes for tensor in tensors))
        made.doc_string = describe_rows(rows)
        self._initializers[name] = made
        return name

    def _external(self, name: str, tensor: StoredTensor, shape: Sequence[int], *, nbytes: int) -> onnx.TensorProto:
        from onnx import TensorProto

        entries = {"location": self._data_file, "offset": tensor.offset, "length": nbytes}
        return TensorProto(
            name=name,
            dims=shape,
            data_type=self._data_type(tensor),
            data_location=TensorProto.EXTERNAL,
            external_data=[{"key": key, "value": str(value)} for key, value in entries.items()],
        )

    def integers(self, *values: int) -> str:
        """Return a constant list of int64; equal lists share one constant."""
        return self._constant(f"list_{'_'.join(map(str, values))}", values, shape=[len(values)])

    def integer(self, value: int) -> str:
        """Return a constant int64 scalar."""
        return self._constant(f"scalar_{value}", [value], shape=[])

    def number(self, value: float, *, dtype: Dtype | None = None) -> str:
        """Return a constant scalar, by default of the graph's dtype, rounded to float32 first as in torch."""
        return self.numbers(value, shape=[], dtype=dtype)

    def numbers(self, value: float, *, shape: Sequence[int], dtype: Dtype | None = None) -> str:
        """Return a constant filled with one value, by default of the graph's dtype."""
        import numpy as np
        from onnx import helper

        dtype = dtype or self.dtype
        name = "_".join(["number", *map(str, shape), repr(float(value))])
        name += "" if dtype is self.dtype else f"_{dtype}"
        if name not in self._initializers:
            values = [float(np.float32(value))] * math.prod(shape)
            self._initializers[name] = helper.make_tensor(name, _onnx_type(dtype), shape, values)
        return name

    def parts(self, values: Sequence[float], lengths: Sequence[int]) -> str:
        """Return a constant list of the graph's dtype in parts, each filled with one value; equal lists share one."""
        import numpy as np
        from onnx import helper

        pairs = [(float(np.float32(value)), length) for value, length in zip(values, lengths, strict=True)]
        name = "_".join(["parts", *(f"{value!r}x{length}" for value, length in pairs)])
        if name not in self._initializers:
            filled = [value for value, length in pairs for _ in range(length)]
            self._initializers[name] = helper.make_tensor(name, self._dtype, [len(filled)], filled)
        return name

    def vector(self, name: str, values: Sequence[float]) -> str:
        """Add a constant list of float32 numbers."""
        from onnx import TensorProto, helper

        self._initializers[name] = helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)
        return name

    def declare_input(self, name: str, shape: Shape, *, kind: ValueKind) -> str:
        """Add an input of the graph."""
        self._inputs.append(self._value_info(name, shape, kind))
        return name

    def declare_option(self, name: str, default: int) -> str:
        """Add an int64 scalar that need not be given: an input with an initializer, which is its default."""
        from onnx import TensorProto, helper

        self._initializers[name] = helper.make_tensor(name, TensorProto.INT64, [], [default])
        return self.declare_input(name, [], kind=ValueKind.INTEGER)

    def declare_output(self, name: str, shape: Shape, *, kind: ValueKind = ValueKind.FLOAT) -> None:
        """Declare a value, by default of the graph's dtype, as an output of the graph."""
        self._outputs.append(self._value_info(name, shape, kind))

    def to_model(self, *, name: str, description: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the ONNX model, with entries of `metadata_props`."""
        from onnx import helper

        from amp_export._version import __version__

        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()), doc_string=description
        )
        model = helper.make_model(
            graph,
            producer_name="amp-export",
            producer_version=__version__,
            doc_string=description,
            ir_version=self.opset.ir_version,
            opset_imports=[
                helper.make_opsetid("", self.opset.version),
                *([helper.make_opsetid(ONNXRUNTIME_DOMAIN, 1)] if self.is_fused else []),
            ],
        )
        helper.set_model_props(model, dict(metadata))
        return model

    def _data_type(self, tensor: StoredTensor) -> int:
        from onnx import TensorProto

        if tensor.content is Content.CODES_OB:
            return TensorProto.UINT8
        if tensor.content is Content.CODES_IO:
            assert tensor.form is not None
            integer = {4: TensorProto.INT4, 8: TensorProto.INT8}[tensor.form.bits]
            return TensorProto.FLOAT8E4M3FN if tensor.form.is_float else integer
        return self._dtype

    def _constant(self, name: str, values: Sequence[int], *, shape: Sequence[int]) -> str:
        from onnx import TensorProto, helper

        if name not in self._initializers:
            self._initializers[name] = helper.make_tensor(name, TensorProto.INT64, shape, values)
        return name

    def _value_info(self, name: str, shape: Shape, kind: ValueKind) -> onnx.ValueInfoProto:
        from onnx import TensorProto, helper

        kinds = {
            ValueKind.FLOAT: self._dtype,
            ValueKind.FLOAT32: TensorProto.FLOAT,
            ValueKind.INTEGER: TensorProto.INT64,
        }
        return helper.make_tensor_value_info(name, kinds[kind], shape)


def _onnx_type(dtype: Dtype) -> int:
    from onnx import TensorProto

    return {
        Dtype.FLOAT32: TensorProto.FLOAT,
        Dtype.FLOAT16: TensorProto.FLOAT16,
        Dtype.BFLOAT16: TensorProto.BFLOAT16,
    }[dtype]
