"""Estimates whether a decoder and its engine fit on a device, and how fast it can decode, from the config alone.

Nothing is measured on the device. The memory that a model needs is given as a range: the lower end is certain; the
upper end was measured with another TensorRT, or assumes a runtime without fusion. A model fits if the device has the
upper end, does not fit if it lacks the lower end, and otherwise may not fit and has to be tried.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amp_export.architectures import Kind, LayerWidths, ModelConfig, parameter_count
from amp_export.architectures._footprint import (
    activation_numbers,
    cached_numbers,
    parameters_read,
    seen_bytes,
    state_bytes,
)
from amp_export.errors import RequestError
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx.support import can_build
from amp_export.hardware.target_facts import NumberFormat, Target
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, TargetName

RESERVED_SHARE = 0.07
"""Share of the memory that is not available to programs. Linux sees 7,620 MiB of an Orin Nano 8GB, 62,841 of an AGX
Orin 64GB and 125,772 of a Thor (tegrastats in public logs, and in github.com/NVIDIA-AI-IOT/jetson-device-skills,
jetson-diagnostic); nvidia-smi shows 23,034 MiB of an L4."""

SYSTEM_BYTES = 1.7e9
"""Memory used by system and desktop if CPU and GPU share it: 850 MB without a desktop on an Orin Nano (tegrastats in
public logs), and up to 865 MB for the desktop (the same repository, jetson-headless-mode)."""

CONTEXT_BYTES = 0.6e9
"""Memory used by the CUDA context and TensorRT's kernels on a discrete GPU: 574 MiB in issue 538 of
github.com/NVIDIA/TensorRT-LLM."""

ENGINE_COPIES = (1, 2)
"""Copies of the weights in an engine for prefill and decode: tensorrt-rtx 1.7.1 wrote engines of 1.9 times the
weights with both optimization profiles, and of 1.0 times with one (ci/bench/build_memory.py)."""

BUILD_COPIES = (2.0, 6.5)
"""Copies of the weights in memory during a build. Lower end: those of the network and of the engine (The Build Phase,
How TensorRT Works, docs.nvidia.com/deeplearning/tensorrt). Upper end: measured with tensorrt-rtx 1.7.1, 6.5 times for
135M parameters, 6.2 for 362M and 4.9 for 1.1B, the mapped file of weights included (ci/bench/build_memory.py)."""


NOT_ESTIMATED = "memory and speed are estimated only for decoders whose graph is built directly"


class Room(enum.StrEnum):
    """Whether the device has enough memory."""

    FITS = "fits"
    MAY_NOT_FIT = "may not fit"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True)
class Need:
    """A memory requirement in bytes.

    Attributes:
        least: Lower end of the range, certainly needed.
        most: Upper end of the range.
        room: Whether the device has enough; None if it is needed in the host's memory instead.
    """

    least: int
    most: int
    room: Room | None


@dataclass(frozen=True)
class Bound:
    """Upper bound of tokens decoded per second, summed over the batch: memory bandwidth divided by bytes to be moved.

    It is a bound, not a measurement, and holds for models much larger than the GPU's cache that decode one token per
    step.

    Attributes:
        half_context: With a KV cache of half the context.
        full_context: With a KV cache of the full context.
    """

    half_context: float
    full_context: float


@dataclass(frozen=True)
class VariantEstimate:
    """Memory estimate of a model in one dtype on a device.

    Attributes:
        model: `dense` or `pruned`.
        option: Index of the option to meet the ratio, from 0; None for the dense model.
        dtype: Dtype of weights, activations and KV cache.
        weight_bytes: Size of all weights.
        read_bytes: Size of the weights that one decode step reads, at any batch size.
        cache_bytes: Size of the KV cache of the largest batch at full context.
        run: Memory to run: engine, KV cache before and after a step, logits, activations.
        build: Memory to build the engine, on the device if it shares its memory with the CPU.
        bound: Bandwidth bound of decoding.
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
    """Memory estimates of a model on a device.

    Attributes:
        target: The device.
        limits: The largest batch and context.
        available_bytes: Memory available to a model.
        fits: Estimates of the dense and the pruned models, in each dtype that the device supports.
    """

    target: TargetName
    limits: Limits
    available_bytes: int
    fits: tuple[VariantEstimate, ...]

    @property
    def facts(self) -> Target:
        """Facts of the device."""
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
            "bound": "memory bandwidth divided by bytes to be moved; not a measurement",
            "fits": [asdict(fit) for fit in self.fits],
        }


@dataclass(frozen=True)
class ModelVariant:
    """A model whose memory is to be estimated.

    Attributes:
        model: `dense` or `pruned`.
        option: Index of the option to meet the ratio, from 0; None for the dense model.
        widths: Widths of each layer.
    """

    model: str
    option: int | None
    widths: Sequence[LayerWidths]


def can_estimate(config: ModelConfig, target: TargetName) -> bool:
    """Return whether an estimate is possible: the device's memory is known, and the model's graph is built directly."""
    facts = TARGETS[target]
    known = facts.memory_bytes is not None and facts.bandwidth is not None
    return known and config.architecture.kind is Kind.DECODER and can_build(config) is None


def refuse_limits(config: ModelConfig, target: TargetName, *, max_batch: int, max_context: int | None) -> None:
    """Raise RequestError for limits if no estimate is possible, since they would be ignored.

    Raises:
        RequestError: Limits are given, but `can_estimate` does not hold.
    """
    asked = {"--max-batch": max_batch > 1, "--max-context": max_context is not None}
    given = [name for name, is_asked in asked.items() if is_asked]
    if not given or can_estimate(config, target):
        return
    named = f"{' and '.join(given)} {'sets' if len(given) == 1 else 'set'} limits for the memory estimate"
    devices = ", ".join(name for name, facts in TARGETS.items() if facts.memory_bytes is not None)
    if TARGETS[target].memory_bytes is None:
        raise RequestError(f"{named}, but the memory of --target {target} is not known.\nGive one of {devices}.")
    raise RequestError(f"{named}, but {NOT_ESTIMATED}.\nLeave {'it' if len(given) == 1 else 'them'} out.")


def estimate_memory(
    config: ModelConfig, variants: Sequence[ModelVariant], target: TargetName, limits: Limits
) -> MemoryEstimate:
    """Estimate the memory that a model, dense and pruned, needs on a device.

    Args:
        config: The dense model's config.
        variants: The models to estimate.
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
    """A device, and the limits of what it runs."""

    facts: Target
    available: int
    limits: Limits

    def weigh(self, config: ModelConfig, variant: ModelVariant, dtype: Dtype) -> VariantEstimate:
        weights = dtype.bytes * parameter_count(config, variant.widths)
        read = dtype.bytes * parameters_read(config, variant.widths)
        batch, context = self.limits.max_batch, self.limits.max_context
        growing = dtype.bytes * context * sum(cached_numbers(config, variant.widths))
        cache = batch * (growing + state_bytes(config, variant.widths, dtype.bytes))
        # a step takes the KV cache and returns it with the new token added: both are in memory at once
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
                half_context=self._bound(read, seen_bytes(config, variant.widths, context // 2, dtype.bytes)),
                full_context=self._bound(read, seen_bytes(config, variant.widths, context, dtype.bytes)),
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
        """Return how many tokens per second the memory bandwidth allows for these bytes of weights and KV cache."""
        assert self.facts.bandwidth is not None
        batch = self.limits.max_batch
        return batch * self.facts.bandwidth / (weights + batch * past)
