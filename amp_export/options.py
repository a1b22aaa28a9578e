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
    """A kind of device; its facts are in `amp_export.targets`."""

    CPU = "cpu"
    GPU = "gpu"
