"""The choices that a user can name. They stand apart so that `--help` need not load what they choose between."""

from __future__ import annotations

import enum


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
