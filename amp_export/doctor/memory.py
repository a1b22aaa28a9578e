"""Whether a decoder and its engine fit on a device, and how fast its memory lets it decode; by the config alone.

Nothing here is measured on the device. What a model needs of its memory lies between two numbers: what is certain, and
what was seen with another TensorRT or is kept by a runtime that fuses nothing. A device that has the larger one has
room, one that lacks the smaller one has none, and in between it has to be tried.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amp_export.architectures import Kind, LayerWidths, ModelConfig, parameter_count
from amp_export.architectures._footprint import activation_numbers, cached_numbers, parameters_read, seen_numbers
from amp_export.errors import RequestError
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx.support import can_build
from amp_export.hardware.target_facts import NumberFormat, Target
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, TargetName

RESERVED_SHARE = 0.07
"""Share of the memory that no program gets. Linux sees 7,620 MiB of an Orin Nano 8GB, 62,841 of an AGX Orin 64GB and
125,772 of a Thor (tegrastats in public logs, and in github.com/NVIDIA-AI-IOT/jetson-device-skills, jetson-diagnostic);
nvidia-smi shows 23,034 MiB of an L4."""

SYSTEM_BYTES = 1.7e9
"""What system and desktop hold where the CPU shares the memory: 850 MB without a desktop on an Orin Nano (tegrastats in
public logs), and up to 865 MB for the desktop (the same repository, jetson-headless-mode)."""

CONTEXT_BYTES = 0.6e9
"""What CUDA and TensorRT's kernels hold on a card: 574 MiB in issue 538 of github.com/NVIDIA/TensorRT-LLM."""

ENGINE_COPIES = (1, 2)
"""How often an engine for prefill and decode holds the weights: tensorrt-rtx 1.7.1 wrote engines of 1.9 times the
weights with both optimization profiles, and of 1.0 times with one (ci/bench/build_memory.py)."""

BUILD_COPIES = (2.0, 6.5)
"""How many times the weights a build holds. At least those of the network and of the engine: The Build Phase, How
TensorRT Works, docs.nvidia.com/deeplearning/tensorrt. At most as measured with tensorrt-rtx 1.7.1: 6.5 times for 135M
parameters, 6.2 for 362M and 4.9 for 1.1B, the mapped file of weights included (ci/bench/build_memory.py)."""


NOT_ESTIMATED = "room and speed are worked out for decoders whose graph is built directly"


class Room(enum.StrEnum):
    """Whether there is memory enough."""

    FITS = "fits"
    MAY_NOT_FIT = "may not fit"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True)
class Need:
    """What something needs of a memory, in bytes.

    Attributes:
        least: What it certainly needs.
        most: What it needs at worst.
        room: Whether the device has it; None where another memory than the device's is needed.
    """

    least: int
    most: int
    room: Room | None


@dataclass(frozen=True)
class Bound:
    """Tokens that can be decoded in a second at most, all texts of a batch together: bandwidth over bytes to be moved.

    It is a bound and no measurement, for models much larger than the GPU's cache and decoding of one token a step.

    Attributes:
        half_context: With half the context behind it.
        full_context: With all of it.
    """

    half_context: float
    full_context: float


@dataclass(frozen=True)
class VariantEstimate:
    """A model in one dtype, held against a device.

    Attributes:
        model: `dense` or `pruned`.
        option: Which of the ways to meet the ratio, counted from 0; None for the dense model.
        dtype: Of weights, activations, keys and values.
        weight_bytes: All weights.
        read_bytes: The weights that one decoding step reads, whatever the batch.
        cache_bytes: Keys and values of the largest batch with full contexts.
        run: What running takes: engine, keys and values before and after a step, logits, activations.
        build: What building the engine takes, on the device where that shares its memory with the CPU.
        bound: The bandwidth bound.
    """

    model: str
    option: int | None
    dtype: Dtype
    weight_bytes: int
    read_bytes: int
    cache_bytes: int
    run: Need
    build: Need
    bound: Bound


@dataclass(frozen=True)
class MemoryEstimate:
    """What a device makes of a model.

    Attributes:
        target: The device.
        limits: The largest batch and context.
        available_bytes: Memory that is left for a model.
        fits: The dense model and pruned ones, in each dtype that the device takes.
    """

    target: TargetName
    limits: Limits
    available_bytes: int
    fits: tuple[VariantEstimate, ...]

    @property
    def facts(self) -> Target:
        """What the device is."""
        return TARGETS[self.target]

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as `doctor --json` prints it."""
        facts = self.facts
        return {
            "target": self.target.value,
            "device": facts.device,
            "compute_capability": facts.compute_capability,
            "memory_bytes": facts.memory_bytes,
            "available_bytes": self.available_bytes,
            "is_unified": facts.is_unified,
            "bandwidth_bytes_per_second": facts.bandwidth,
            "tensorrt": [asdict(each) for each in facts.tensorrt],
            "max_batch": self.limits.max_batch,
            "max_context": self.limits.max_context,
            "bound": "bandwidth over bytes to be moved; not a measurement",
            "fits": [asdict(fit) for fit in self.fits],
        }


@dataclass(frozen=True)
class ModelVariant:
    """A model to be held against a device.

    Attributes:
        model: `dense` or `pruned`.
        option: Which of the ways to meet the ratio, counted from 0; None for the dense model.
        widths: How wide each layer is.
    """

    model: str
    option: int | None
    widths: Sequence[LayerWidths]


def can_estimate(config: ModelConfig, target: TargetName) -> bool:
    """Return whether anything can be said: the device's memory is known, and the model's graph is one of ours."""
    facts = TARGETS[target]
    known = facts.memory_bytes is not None and facts.bandwidth is not None
    return known and config.architecture.kind is Kind.DECODER and can_build(config) is None


def refuse_limits(config: ModelConfig, target: TargetName, *, max_batch: int, max_context: int | None) -> None:
    """Refuse limits where nothing can be said, so that they would go unheard.

    Raises:
        RequestError: There are some, and `can_estimate` does not hold.
    """
    asked = {"--max-batch": max_batch > 1, "--max-context": max_context is not None}
    given = [name for name, is_asked in asked.items() if is_asked]
    if not given or can_estimate(config, target):
        return
    named = f"{' and '.join(given)} {'says' if len(given) == 1 else 'say'} what a device has to take"
    devices = ", ".join(name for name, facts in TARGETS.items() if facts.memory_bytes is not None)
    if TARGETS[target].memory_bytes is None:
        raise RequestError(f"{named}, and --target {target} is none whose memory is known.\nName one of {devices}.")
    raise RequestError(f"{named}, and {NOT_ESTIMATED}.\nLeave {'it' if len(given) == 1 else 'them'} out.")


def estimate_memory(
    config: ModelConfig, variants: Sequence[ModelVariant], target: TargetName, limits: Limits
) -> MemoryEstimate:
    """Estimate the memory that a model, dense and pruned, needs on a device.

    Args:
        config: The dense model's config.
        variants: Widths to be held against it.
        target: The device; `can_estimate` must hold.
        limits: The largest batch and context.
    """
    facts = TARGETS[target]
    assert facts.memory_bytes is not None
    held = SYSTEM_BYTES if facts.is_unified else CONTEXT_BYTES
    available = round(facts.memory_bytes * (1 - RESERVED_SHARE) - held)
    scale = _Scale(facts, available, limits)
    fits = [
        scale.weigh(config, variant, dtype)
        for dtype in Dtype
        if dtype is Dtype.FLOAT32 or NumberFormat(dtype.value) in facts.dtypes
        for variant in variants
    ]
    return MemoryEstimate(target, limits, available, tuple(fits))


@dataclass(frozen=True)
class _Scale:
    """A device, and what it has to take."""

    facts: Target
    available: int
    limits: Limits

    def weigh(self, config: ModelConfig, variant: ModelVariant, dtype: Dtype) -> VariantEstimate:
        weights = dtype.bytes * parameter_count(config, variant.widths)
        read = dtype.bytes * parameters_read(config, variant.widths)
        batch, context = self.limits.max_batch, self.limits.max_context
        cache = batch * context * dtype.bytes * sum(cached_numbers(config, variant.widths))
        # a step is given the past and gives back the past with the new token: both are there at once
        fixed = 2 * cache + dtype.bytes * batch * context * config.vocab_size
        activations = dtype.bytes * batch * activation_numbers(config, variant.widths, context)
        return VariantEstimate(
            model=variant.model,
            option=variant.option,
            dtype=dtype,
            weight_bytes=weights,
            read_bytes=read,
            cache_bytes=cache,
            run=self._need(ENGINE_COPIES[0] * weights + fixed, ENGINE_COPIES[1] * weights + fixed + activations),
            build=self._build(weights),
            bound=Bound(
                half_context=self._bound(read, dtype.bytes * seen_numbers(config, variant.widths, context // 2)),
                full_context=self._bound(read, dtype.bytes * seen_numbers(config, variant.widths, context)),
            ),
        )

    def _build(self, weights: int) -> Need:
        least, most = (round(copies * weights) for copies in BUILD_COPIES)
        return self._need(least, most) if self.facts.is_unified else Need(least, most, room=None)

    def _need(self, least: int, most: int) -> Need:
        if most <= self.available:
            return Need(least, most, Room.FITS)
        return Need(least, most, Room.DOES_NOT_FIT if least > self.available else Room.MAY_NOT_FIT)

    def _bound(self, weights: int, past: int) -> float:
        """Return the tokens per second at which memory delivers these bytes of weights and KV cache."""
        assert self.facts.bandwidth is not None
        batch = self.limits.max_batch
        return batch * self.facts.bandwidth / (weights + batch * past)
