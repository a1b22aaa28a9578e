"""Enumerations of option values. They have a module of their own so that `--help` loads nothing else."""

from __future__ import annotations

import enum


class Allocation(enum.StrEnum):
    """How the budget is divided between attention heads and neurons."""

    PAPER = "paper"
    BALANCED = "balanced"
    KL = "kl"
    """By the divergence from the dense model that removing a little of each layer costs, which is measured."""
    FLAP = "flap"
    """By FLAP's rule: standardised fluctuations of all units are compared, whatever their layer and kind."""


class CriterionName(enum.StrEnum):
    """Criterion of importance; each has a file in `pruning/criteria`."""

    AMP = "amp"
    WANDA = "wanda"
    FLAP = "flap"
    OBS = "obs"
    TAYLOR = "taylor"
    MAGNITUDE = "magnitude"
    RANDOM = "random"
    REVERSED = "reversed"


class HeadPolicy(enum.StrEnum):
    """Which attention heads to prune."""

    GROUPS = "groups"
    WITHIN = "within"
    AUTO = "auto"
    NONE = "none"


class PerLayer(enum.StrEnum):
    """Whether every layer keeps the same count, or counts are allocated across layers by importance."""

    UNIFORM = "uniform"
    GLOBAL = "global"


class Uniform(enum.StrEnum):
    """How to store layers of different widths."""

    RESIZE = "resize"
    """A modeling file, saved with the checkpoint, resizes the layers at load time."""
    PAD = "pad"
    """The layers are zero-padded to widths that a stock config can express."""
    NEMOTRON_NAS = "nemotron-nas"
    """Like `RESIZE`, and once more in the form that vLLM and TensorRT-LLM load with layers that differ."""


class Format(enum.StrEnum):
    """Export format; each has a package in `exporters`."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    EXECUTORCH = "executorch"
    GGUF = "gguf"


class Via(enum.StrEnum):
    """How a graph is made: directly from config and weights, or by tracing."""

    AUTO = "auto"
    """Directly if all operators of the model are known, otherwise by tracing."""
    DIRECT = "direct"
    TRACE = "trace"


class Operators(enum.StrEnum):
    """Operators of a graph that is built directly."""

    STANDARD = "standard"
    """Those of the ONNX standard, which every runtime and TensorRT may read."""
    ONNXRUNTIME = "onnxruntime"
    """Fused ones that ONNX Runtime has kernels for. They take no padding between tokens."""


class Logits(enum.StrEnum):
    """Tokens whose logits a decoder's graph computes."""

    ALL = "all"
    """All, unless its optional input `num_logits_to_keep` says how many last ones."""
    LAST = "last"
    """The last of each call, for runtimes that take no optional inputs."""


class Layout(enum.StrEnum):
    """Names and places of the files of an ONNX export."""

    FLAT = "flat"
    """`model.onnx`, or the graphs of several parts, beside config and tokenizer: `model.onnx` as Optimum and
    onnxruntime-genai take it."""
    TRANSFORMERS_JS = "transformers.js"
    """The graph in a subfolder `onnx`, named after its dtype, as transformers.js takes it."""


class WeightFormat(enum.StrEnum):
    """Numbers that weights are stored as, times scales; activations stay as they are."""

    INT8 = "int8"
    INT4 = "int4"
    """Integers, with a scale for each block of a row."""
    FP8 = "fp8"
    """Floats of 4 bits of exponent and 3 of mantissa (E4M3), with a scale for each row."""
    Q8_0 = "q8_0"
    """8 bits in a GGUF file."""
    Q4_0 = "q4_0"
    """4 bits in a GGUF file."""
    Q4_1 = "q4_1"
    """4 bits in a GGUF file, with a smallest value for each block."""

    @property
    def bits(self) -> int:
        """Bits of one weight, without those of its block."""
        return 8 if "8" in self.value else 4


class RoundingMethod(enum.StrEnum):
    """How weights are rounded to integers of 4 bits."""

    NEAREST = "nearest"
    """Each to the nearest; no text and no PyTorch are needed."""
    GPTQ = "gptq"
    """One input after another on text, so that those that are left make up for the error."""


class RecoveryMethod(enum.StrEnum):
    """How a pruned model is trained."""

    DISTILL = "distill"
    """All weights but embeddings and LM head, towards the dense model's predictions."""
    LORA = "lora"
    """Low-rank adapters of the layers' projections, on instructions with answers, as in the paper."""


class EngineRuntime(enum.StrEnum):
    """TensorRT variant that builds and runs engines."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class TargetName(enum.StrEnum):
    """Target device; its facts are in `amp_export.hardware.targets`."""

    CPU = "cpu"
    ORIN_NANO = "orin-nano"
    ORIN_NX = "orin-nx"
    ORIN_AGX = "orin-agx"
    THOR = "thor"
    A100 = "a100"
    H100 = "h100"
    H200 = "h200"
    L4 = "l4"
    RTX3090 = "rtx3090"
    RTX4090 = "rtx4090"
    RTX5090 = "rtx5090"


class Runtime(enum.StrEnum):
    """Runtime of a benchmark on this machine."""

    ONNXRUNTIME = "onnxruntime"
    GENAI = "onnxruntime-genai"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    EXECUTORCH = "executorch"
    LLAMA_CPP = "llama.cpp"
    PYTORCH = "pytorch"
    """The checkpoint in transformers, in eager mode."""
    COMPILED = "pytorch-compiled"
    """The checkpoint in transformers, compiled with torch.compile."""


class Phase(enum.StrEnum):
    """Phase of inference; each is timed separately."""

    PREFILL = "prefill"
    """A decoder processes the prompt in one call."""
    DECODE = "decode"
    """A decoder generates one token per call."""
    FORWARD = "forward"
    """An encoder processes one batch."""
    ENCODE = "encode"
    """An encoder-decoder does all work that is done once per input: it runs the encoder, and the decoder's first call,
    which computes the cross-attention keys and values."""


class BenchmarkDevice(enum.StrEnum):
    """Device of this machine that a benchmark runs on."""

    CPU = "cpu"
    CUDA = "cuda"


class DeviceRuntime(enum.StrEnum):
    """Runtime that a device runs a bundle with."""

    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"


class ReportFormat(enum.StrEnum):
    """Format of a report; each value is a file extension."""

    JSON = "json"
    """All results, for programs."""
    MD = "md"
    """For pull requests."""
    XML = "xml"
    """JUnit XML, which CI systems show."""
    HTML = "html"
    """A self-contained page that needs no network."""


class Dtype(enum.StrEnum):
    """Dtype of the weights, activations and KV cache of an exported graph."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def bytes(self) -> int:
        """Bytes of one value."""
        return 4 if self is Dtype.FLOAT32 else 2


class Opset(enum.StrEnum):
    """Version of the ONNX operators in a graph."""

    OPSET_20 = "20"
    """For TensorRT before 10.15 and ONNX Runtime before 1.23."""
    OPSET_23 = "23"
    """The first with Attention, RotaryEmbedding and RMSNormalization."""
    OPSET_24 = "24"
    """The first with TensorScatter, which writes into a KV cache of fixed length."""

    @property
    def version(self) -> int:
        """The version as a number."""
        return int(self.value)

    @property
    def ir_version(self) -> int:
        """The IR version released with it. Source: `VERSION_TABLE` in helper.py of onnx 1.23."""
        return {"20": 9, "23": 11, "24": 12}[self.value]


class Provider(enum.StrEnum):
    """ONNX Runtime execution provider."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def onnxruntime_name(self) -> str:
        """Its name in ONNX Runtime."""
        return {
            "cpu": "CPUExecutionProvider",
            "cuda": "CUDAExecutionProvider",
            "tensorrt": "TensorrtExecutionProvider",
            "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
        }[self.value]
