"""The choices that a user can name. They stand apart so that `--help` need not load what they choose between."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class Allocation(enum.StrEnum):
    """How the budget is shared between heads and neurons."""

    PAPER = "paper"
    BALANCED = "balanced"


class HeadPolicy(enum.StrEnum):
    """Which query heads may go where several of them share a key/value head."""

    GROUPS = "groups"
    WITHIN = "within"
    AUTO = "auto"
    NONE = "none"


class PerLayer(enum.StrEnum):
    """Whether every layer keeps the same count, or as many as its importance deserves among all layers."""

    UNIFORM = "uniform"
    GLOBAL = "global"


class Uniform(enum.StrEnum):
    """What becomes of a plan that no stock config can say."""

    RESIZE = "resize"
    """The layers are resized when the checkpoint is loaded, by a file that is saved with it."""
    PAD = "pad"
    """The layers are filled up with zeros, until a stock config can say them."""


class Format(enum.StrEnum):
    """What a checkpoint can be exported to; each is a folder in `exporters`."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    EXECUTORCH = "executorch"


class Via(enum.StrEnum):
    """How a graph is made."""

    AUTO = "auto"
    """Directly where all operators of the model are known, by tracing otherwise."""
    DIRECT = "direct"
    TRACE = "trace"


class EngineRuntime(enum.StrEnum):
    """What builds and runs engines."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class TargetName(enum.StrEnum):
    """A device; its facts are in `amp_export.hardware.targets`."""

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
    """What a benchmark on this machine runs models in."""

    ONNXRUNTIME = "onnxruntime"
    GENAI = "onnxruntime-genai"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    EXECUTORCH = "executorch"
    PYTORCH = "pytorch"
    """The checkpoint in transformers, operator by operator."""
    COMPILED = "pytorch-compiled"
    """The same through torch.compile."""


class Phase(enum.StrEnum):
    """What a runtime does with a model; each is timed by itself."""

    PREFILL = "prefill"
    """A decoder reads the prompt in one call."""
    DECODE = "decode"
    """A decoder writes one token a call."""
    FORWARD = "forward"
    """An encoder reads one batch."""
    ENCODE = "encode"
    """An encoder-decoder does all that is done once for an input: the encoder, and the decoder's first call, which
    computes the keys and values of the encoder's states."""


class BenchmarkDevice(enum.StrEnum):
    """The processor of this machine that a benchmark runs on."""

    CPU = "cpu"
    CUDA = "cuda"


class DeviceRuntime(enum.StrEnum):
    """What a device runs a bundle with."""

    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"


class ReportFormat(enum.StrEnum):
    """What a report is written as; each is the ending of a file."""

    JSON = "json"
    """For machines: everything that was found out."""
    MD = "md"
    """For pull requests."""
    XML = "xml"
    """JUnit's, which CI systems show."""
    HTML = "html"
    """For people: one page that needs no network."""


class Dtype(enum.StrEnum):
    """The dtype of an exported graph's weights, activations, keys and values."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def bytes(self) -> int:
        """Bytes of one value."""
        return 4 if self is Dtype.FLOAT32 else 2


class Opset(enum.StrEnum):
    """The version of ONNX operators that a graph is made of."""

    OPSET_20 = "20"
    """For TensorRT before 10.15 and ONNX Runtime before 1.23."""
    OPSET_23 = "23"
    """The first with Attention, RotaryEmbedding and RMSNormalization."""

    @property
    def version(self) -> int:
        """As a number."""
        return int(self.value)

    @property
    def ir_version(self) -> int:
        """The version of the file format that came with it: `VERSION_TABLE`, helper.py, onnx 1.23."""
        return {"20": 9, "23": 11}[self.value]


class Provider(enum.StrEnum):
    """What computes an ONNX graph within ONNX Runtime."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def onnxruntime_name(self) -> str:
        """As ONNX Runtime calls it."""
        return {
            "cpu": "CPUExecutionProvider",
            "cuda": "CUDAExecutionProvider",
            "tensorrt": "TensorrtExecutionProvider",
            "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
        }[self.value]
