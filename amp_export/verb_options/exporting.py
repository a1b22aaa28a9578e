"""Options of the commands that write a model for a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amp_export.options import (
    Dtype,
    EngineRuntime,
    Format,
    Layout,
    Logits,
    Operators,
    Opset,
    RoundingMethod,
    TargetName,
    Via,
    WeightFormat,
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `export`.

    Attributes:
        to: The format to export to.
        dtype: The dtype of weights and activations; by default float32, for an engine float16.
        opset: The version of the ONNX operators; by default the newest that the runtime supports.
        operators: The operators of an ONNX graph that is built directly.
        logits: The tokens whose logits the graph of a decoder that is built directly computes.
        static_cache: Tokens that the KV cache of an ONNX graph has room for, if it is to have a fixed length and be
            written into; by default it grows.
        weights: Numbers that the weights of linear layers are stored as, times scales; by default they have the dtype
            of the graph.
        block_size: Number of weights that share a scale; by default 32, for an engine 128.
        average_bits: The largest average of the bits of a weight with `weights` int4: those that matter most have 8,
            which is measured on text; by default all have 4.
        rounding: How weights are rounded with `weights` int4.
        layout: Names and places of the files of an ONNX export.
        via: Whether the graph is built directly or traced.
        target: The device that a TensorRT engine is built for; by default the GPU in this machine.
        runtime: The TensorRT variant that builds the engine; by default the one that is installed.
        max_batch: The largest batch of a TensorRT engine or an ExecuTorch program.
        max_context: Their longest sequence, KV cache and new tokens together; by default 2048 for an engine, 512 for
            ExecuTorch, or the model's context if that is shorter.
        allow_pickle: Read torch pickles if there is no safetensors file; their code is never run.
    """

    to: Format = Format.ONNX
    dtype: Dtype | None = None
    opset: Opset | None = None
    operators: Operators = Operators.STANDARD
    logits: Logits = Logits.ALL
    static_cache: int | None = None
    weights: WeightFormat | None = None
    block_size: int | None = None
    average_bits: float | None = None
    rounding: RoundingMethod = RoundingMethod.NEAREST
    layout: Layout = Layout.FLAT
    via: Via = Via.AUTO
    target: TargetName | None = None
    runtime: EngineRuntime | None = None
    max_batch: int = 1
    max_context: int | None = None
    allow_pickle: bool = False


@dataclass(frozen=True, kw_only=True)
class DraftOptions:
    """The options of `draft`.

    Attributes:
        to: The format of both models: ONNX for onnxruntime-genai, GGUF for llama.cpp.
        dtype: The dtype of weights and activations of both; by default float32.
        weights: Numbers that the weights of the pruned model are stored as; by default they have the dtype.
        block_size: Number of its weights that share a scale; by default 32.
        draft_tokens: Tokens that the pruned model drafts before the dense one checks them.
        measure: Whether to compare texts and speed with the dense model's alone, in the runtime of the format.
        texts: Number of texts to measure with.
        new_tokens: Tokens to generate of each.
        threads: Threads of each model when it is measured; by default one per core.
    """

    to: Format = Format.ONNX
    dtype: Dtype | None = None
    weights: WeightFormat | None = None
    block_size: int | None = None
    draft_tokens: int = 4
    measure: bool = True
    texts: int = 8
    new_tokens: int = 64
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """The options of `bundle`.

    Attributes:
        target: The device that the bundle is for.
        max_batch: The largest batch of the device's engines.
        max_context: Their longest sequence; by default 2048, or the model's context if that is shorter.
        opset: The version of the ONNX operators; by default one that every TensorRT of the device supports.
        against: The output directory to compare with; by default the dense model.
        file: The archive to write; by default `bundle-TARGET.tar.gz` in the output directory.
    """

    target: TargetName = TargetName.CPU
    max_batch: int = 1
    max_context: int | None = None
    opset: Opset | None = None
    against: Path | None = None
    file: Path | None = None
