"""The layout of the data file next to a graph."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from amp_export.architectures import LayerWidths, ModelConfig, Projection, expert_name, matrix_shapes
from amp_export.exporters.files import aligned_offset
from amp_export.exporters.onnx.builder.blocks import BlockFormat
from amp_export.exporters.onnx.builder.entries import OF_TOKENS, Entry
from amp_export.exporters.onnx.builder.packing import find_packs
from amp_export.exporters.onnx.builder.rotary import Rope, ropes
from amp_export.options import Dtype, Operators


class Content(enum.Enum):
    """What a stored tensor holds."""

    VALUES = enum.auto()
    """The checkpoint's values in the graph's dtype."""
    CODES_IO = enum.auto()
    """Codes [inputs, outputs] as signed integers of 4 or 8 bits or floats of 8, for DequantizeLinear."""
    SCALES_BO = enum.auto()
    """Their scales [blocks, outputs], or [outputs] if there is one block, in the graph's dtype."""
    CODES_OB = enum.auto()
    """Codes [outputs, blocks, bytes of a block], for MatMulNBits."""
    SCALES_OB = enum.auto()
    """Their scales [outputs, blocks], in the graph's dtype."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the data file.

    Attributes:
        name: Its name in the graph.
        source: Name of the checkpoint's tensor that it is made from, or of a rotary cache.
        shape: Its shape as stored.
        content: What it holds.
        nbytes: Its size in bytes.
        transposed: Whether the checkpoint's tensor is transposed first.
        form: The format of the weight that these are the codes or the scales of, or None.
        from_one: Whether one must be added to the checkpoint's values.
        layer: The decoder layer it belongs to, or None.
        pack: Name of the tensors that it lies beside without a gap, or None: see `packing`.
        offset: Offset of its first byte.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    content: Content
    nbytes: int
    transposed: bool = False
    form: BlockFormat | None = None
    from_one: bool = False
    layer: int | None = None
    pack: str | None = None
    offset: int = 0


def codes_name(weight: str) -> str:
    """Return the name of a quantized weight's codes."""
    return f"{weight}.codes"


def rows_name(weight: str) -> str:
    """Return the name of an embedding's codes, as a matrix of bytes."""
    return f"{weight}.rows"


def scales_name(weight: str) -> str:
    """Return the name of a quantized weight's scales."""
    return f"{weight}.scales"


def lay_out(
    config: ModelConfig,
    widths: Sequence[LayerWidths],
    dtype: Dtype,
    *,
    formats: Mapping[str, BlockFormat] | None = None,
    operators: Operators = Operators.STANDARD,
    entry: Entry = OF_TOKENS,
) -> tuple[StoredTensor, ...]:
    """Return the layout of a decoder's tensors in the data file.

    Linear layers are stored as [in, out], as MatMul takes them. The embedding and the LM head stay as in the
    checkpoint, [vocab_size, hidden_size], so that tied ones are stored once. Norm weights that count from one are
    stored with the one added, rounded once. Quantized weights are two tensors, codes and scales; the standard has no
    operator that looks up rows of them, so that its embeddings stay as they are.

    Args:
        config: Config of the decoder.
        widths: Widths of each layer.
        dtype: Dtype of scales, and of all weights that are not quantized.
        formats: Formats of the weights that are quantized, by name: see `choose_formats`.
        operators: Operators that compute with quantized weights.
        entry: What the graph reads: an embedding that it does not look up is left out, unless it is the LM head, too.
    """
    shapes = {name: shape for rope in ropes(config).values() for name, shape in _cache_shapes(rope).items()}
    formats, linear, from_one = formats or {}, linear_weights(config), _weights_from_one(config)
    embedding = f"{config.architecture.embedding}.weight"
    packs = find_packs(config, formats) if operators is Operators.ONNXRUNTIME else {}
    stored: list[StoredTensor] = []
    for source, shape in {**shapes, **matrix_shapes(config, widths)}.items():
        if source == embedding and not (entry.reads_tokens or config.tie_word_embeddings):
            continue
        layer, below = split_name(source, config.architecture.layers)
        outputs_first = linear.get(below) if layer is not None else None
        form = formats.get(source)
        parts: list[StoredTensor] = []
        if form is None or (source == embedding and entry.reads_tokens and operators is Operators.STANDARD):
            parts.append(_as_floats(source, shape, dtype, transposed=outputs_first is True))
        if form is not None:
            parts += _as_codes(source, shape, form, dtype, transposed=outputs_first is False, operators=operators)
        pack = packs.get(source)
        stored += [replace(part, layer=layer, from_one=below in from_one, pack=pack) for part in parts]
    return tuple(_place(stored))


def _place(tensors: Sequence[StoredTensor]) -> Iterator[StoredTensor]:
    """Yield tensors with their offsets: one after another, but those of a pack at once, by content."""
    together: dict[tuple[str, Content | None], list[StoredTensor]] = {}
    for tensor in tensors:
        together.setdefault(_place_of(tensor), []).append(tensor)
    end, offsets = 0, {}
    for beside in together.values():
        end = aligned_offset(end, sum(tensor.nbytes for tensor in beside))
        for tensor in beside:
            offsets[tensor.name] = end
            end += tensor.nbytes
    return (replace(tensor, offset=offsets[tensor.name]) for tensor in tensors)


def _place_of(tensor: StoredTensor) -> tuple[str, Content | None]:
    """Return what tensors that lie side by side have in common."""
    return (tensor.name, None) if tensor.pack is None else (tensor.pack, tensor.content)


def lay_out_embedding(config: ModelConfig, dtype: Dtype) -> tuple[StoredTensor, ...]:
    """Return the layout of the data file of an embedding that is a graph of its own."""
    name = f"{config.architecture.embedding}.weight"
    return (_as_floats(name, (config.vocab_size, config.hidden_size), dtype, transposed=False),)


def lay_out_grid_encoder(
    shapes: Mapping[str, tuple[int, ...]], linear: Collection[str], dtype: Dtype
) -> tuple[StoredTensor, ...]:
    """Return the layout of the data file of a vision encoder that is a graph of its own.

    Args:
        shapes: Shapes of its tensors by name.
        linear: Names of the weights of linear layers, which are stored as [in, out].
        dtype: Dtype of all weights.
    """
    return tuple(_place([_as_floats(name, shape, dtype, transposed=name in linear) for name, shape in shapes.items()]))


def linear_weights(config: ModelConfig) -> dict[str, bool]:
    """Return the names of linear layers' weights, relative to a layer, and whether they are [out, in].

    Each expert's is one of its own.
    """
    blocks = (block for stack in config.architecture.stacks for block in stack.all_blocks)
    found: dict[str, bool] = {}
    for projection in (projection for block in blocks for projection in block.projections):
        found |= dict.fromkeys(weight_names(config, projection), not projection.transposed)
    return found


def weight_names(config: ModelConfig, projection: Projection) -> list[str]:
    """Return the name of a projection's weight, relative to a layer, or the names of its experts' weights."""
    if projection.stacked is None:
        return [f"{projection.name}.weight"]
    return [expert_name(projection.name, number) for number in range(config.size(projection.stacked))]


def is_outputs_first(config: ModelConfig, name: str) -> bool:
    """Return whether a linear layer's weight is [out, in] in the checkpoint, as embeddings and LM heads are."""
    layer, below = split_name(name, config.architecture.layers)
    return layer is None or linear_weights(config)[below]


def _as_floats(source: str, shape: tuple[int, ...], dtype: Dtype, *, transposed: bool) -> StoredTensor:
    stored = shape[::-1] if transposed else shape
    return StoredTensor(source, source, stored, Content.VALUES, math.prod(shape) * dtype.bytes, transposed=transposed)


def _as_codes(
    source: str, shape: tuple[int, ...], form: BlockFormat, dtype: Dtype, *, transposed: bool, operators: Operators
) -> Iterator[StoredTensor]:
    outputs, inputs = shape[::-1] if transposed else shape
    blocks = inputs // form.block_size
    codes: tuple[Content, tuple[int, ...]]
    scales: tuple[Content, tuple[int, ...]]
    if operators is Operators.STANDARD:
        codes = Content.CODES_IO, (inputs, outputs)
        scales = Content.SCALES_BO, (outputs,) if form.is_float else (blocks, outputs)
    else:
        codes = Content.CODES_OB, (outputs, blocks, form.block_size * form.bits // 8)
        scales = Content.SCALES_OB, (outputs, blocks)
    sizes = math.ceil(outputs * inputs * form.bits / 8), outputs * blocks * dtype.bytes
    names = codes_name(source), scales_name(source)
    for name, (content, stored), nbytes in zip(names, (codes, scales), sizes, strict=True):
        yield StoredTensor(name, source, stored, content, nbytes, transposed=transposed, form=form)


def _cache_shapes(rope: Rope) -> dict[str, tuple[int, ...]]:
    shape = (rope.rows, rope.dimensions // 2)
    return {rope.cos_cache: shape, rope.sin_cache: shape}


def _weights_from_one(config: ModelConfig) -> set[str]:
    """Return the names of norm weights that count from one; those in a layer are relative to it."""
    computation = config.architecture.computation
    if computation is None or not computation.norm.counts_from_one:
        return set()
    tensors = (*config.architecture.norms, *config.architecture.attention.tensors)
    names = {tensor.name for tensor in tensors if tensor.name.endswith(".weight")}
    return {*names, f"{computation.final_norm}.weight"}


def split_name(name: str, layers: str) -> tuple[int | None, str]:
    """Return the layer of a tensor and its name relative to the layer; None and the full name outside of layers."""
    if not name.startswith(f"{layers}."):
        return None, name
    number, _, below = name.removeprefix(f"{layers}.").partition(".")
    return int(number), below
