"""Cosines and sines of rotary position embeddings, in numpy.

A frequency that is off by one rounding changes an angle by 5e-4 at position 8192. So all steps are computed in float32
and in the order of transformers 5.24: `modeling_rope_utils.py` and `LlamaRotaryEmbedding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Rotary
from amp_export.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np

    from amp_export.architectures import ModelConfig

    Array = np.ndarray[Any, np.dtype[np.float32]]


COS_CACHE = "rotary.cos_cache"
SIN_CACHE = "rotary.sin_cache"


@dataclass(frozen=True)
class Rope:
    """Rotary embeddings of some or all layers.

    Attributes:
        parameters: `rope_type`, `rope_theta` and the other parameters of the type.
        dimensions: Number of dimensions of a head that are rotated.
        positions: Longest context in tokens.
        cos_cache: Name of the cosines.
        sin_cache: Name of the sines.
    """

    parameters: Mapping[str, Any]
    dimensions: int
    positions: int
    cos_cache: str = COS_CACHE
    sin_cache: str = SIN_CACHE

    @property
    def rope_type(self) -> str:
        """The method that computes frequencies."""
        return str(self.parameters["rope_type"])

    @property
    def switches(self) -> bool:
        """Whether texts beyond the original context use other frequencies, in the second half of the caches."""
        return self.rope_type == "longrope"

    @property
    def rows(self) -> int:
        """Number of rows of the caches."""
        return 2 * self.positions if self.switches else self.positions


def ropes(config: ModelConfig) -> dict[str, Rope]:
    """Return the rotary embeddings that a model's layers use, by their key in `config.layer_ropes`."""
    found = {}
    rotary = config.architecture.computation.positions if config.architecture.computation is not None else None
    counted = rotary.dimensions if isinstance(rotary, Rotary) else None
    for kind in dict.fromkeys(kind for kind in config.layer_ropes if kind is not None):
        parameters = config.ropes[kind]
        partial = int(config.head_dim * parameters.get("partial_rotary_factor", 1.0))
        dimensions = partial if counted is None else int(config.fields[counted])
        caches = [name.replace("rotary.", f"rotary.{kind}.") if kind else name for name in (COS_CACHE, SIN_CACHE)]
        found[kind] = Rope(parameters, dimensions, config.context, *caches)
    return found


def supported_rope_types() -> tuple[str, ...]:
    """Return the values of `rope_type` for which frequencies can be computed."""
    return tuple(_INVERSE_FREQUENCIES)


def check_rope(rope: Rope) -> None:
    """Refuse RoPE parameters for which no frequencies can be computed.

    Raises:
        UnsupportedModelError: The `rope_type` is not supported, or the rotated dimensions are not in pairs.
        ModelError: A parameter that the type needs is missing.
    """
    if rope.rope_type not in _INVERSE_FREQUENCIES:
        raise UnsupportedModelError(
            f"config.json: rope_type {rope.rope_type!r} is not supported.\n"
            f"Supported: {', '.join(supported_rope_types())}."
        )
    if missing := [name for name in _REQUIRED[rope.rope_type] if name not in rope.parameters]:
        raise ModelError(
            f"config.json: rope_type {rope.rope_type!r} needs {', '.join(missing)}, which the config does not have."
        )
    if rope.dimensions % 2 or rope.dimensions == 0:
        raise UnsupportedModelError(
            f"config.json: rotary embeddings would apply to {rope.dimensions} dimensions of a head, but need a "
            "positive even number."
        )


def inverse_frequencies(rope: Rope) -> tuple[Array, float]:
    """Return the rotation per position of each pair of a head's dimensions, and a factor on cosines and sines.

    Returns:
        Radians per position, float32 [dimensions / 2], or [2, dimensions / 2] if they switch; and the attention factor
        (1 for all types except yarn and longrope).

    Raises:
        UnsupportedModelError: The `rope_type` is not supported, or the rotated dimensions are not in pairs.
        ModelError: A parameter that the type needs is missing.
    """
    check_rope(rope)
    return _INVERSE_FREQUENCIES[rope.rope_type](rope)


def rotary_caches(rope: Rope) -> tuple[Array, Array]:
    """Return the inputs `cos_cache` and `sin_cache` of RotaryEmbedding (ONNX operator version 23).

    Returns:
        Two float32 arrays [rows, dimensions / 2].
    """
    import numpy as np

    frequencies, attention_factor = inverse_frequencies(rope)
    positions = np.arange(rope.positions, dtype=np.float32)[:, None]
    angles = np.concatenate([positions * each for each in np.atleast_2d(frequencies)])
    factor = np.float32(attention_factor)
    return np.cos(angles) * factor, np.sin(angles) * factor


def _positions_per_radian(rope: Rope) -> Array:
    """Return `theta ** (2 i / dimensions)` for each pair i of dimensions, float32 [dimensions / 2]."""
    import numpy as np

    exponents = np.arange(0, rope.dimensions, 2, dtype=np.float32) / np.float32(rope.dimensions)
    theta = np.float32(rope.parameters["rope_theta"])
    # in float64, rounded once: at most 1 rounding from torch's power; numpy's float32 power was up to 2 off
    return (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)


def _default(rope: Rope) -> tuple[Array, float]:
    """Return the frequencies of RoFormer (arXiv 2104.09864), section 3.2.2."""
    import numpy as np

    return np.float32(1.0) / _positions_per_radian(rope), 1.0


def _linear(rope: Rope) -> tuple[Array, float]:
    """Interpolate positions (arXiv 2306.15595, section 2.3) by dividing the frequencies by `factor`."""
    import numpy as np

    frequencies, _ = _default(rope)
    return frequencies / np.float32(rope.parameters["factor"]), 1.0


def _llama3(rope: Rope) -> tuple[Array, float]:
    """Return the frequencies of Llama 3.1: slow ones divided by `factor`, fast ones kept, those between blended.

    Source: `_compute_llama3_parameters`, `modeling_rope_utils.py`, transformers 5.23.
    """
    import numpy as np

    parameters = rope.parameters
    factor = np.float32(parameters["factor"])
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    original = parameters["original_max_position_embeddings"]
    frequencies, _ = _default(rope)
    wavelengths = np.float32(2 * math.pi) / frequencies
    slow = np.where(wavelengths > np.float32(original / low), frequencies / factor, frequencies)
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1.0) - smooth) * slow / factor + smooth * slow
    between = (wavelengths >= np.float32(original / high)) & (wavelengths <= np.float32(original / low))
    return np.where(between, blended, slow), 1.0


def _yarn(rope: Rope) -> tuple[Array, float]:
    """Return the frequencies of YaRN (arXiv 2309.00071), sections 3.2 to 3.4: a ramp from kept to divided ones.

    Source: `_compute_yarn_parameters`, `modeling_rope_utils.py`, transformers 5.23.
    """
    import numpy as np

    parameters = rope.parameters
    original: int = parameters["original_max_position_embeddings"]
    factor: float = parameters["factor"] or rope.positions / original
    low = _pair_that_turns(rope, parameters.get("beta_fast") or 32)
    high = _pair_that_turns(rope, parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dimensions - 1)
    if low == high:
        high += 0.001  # the ramp would divide by zero

    per_radian = _positions_per_radian(rope)
    pairs = np.arange(rope.dimensions // 2, dtype=np.float32)
    kept = np.float32(1.0) - np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, 1)
    divided = np.float32(1.0) / (np.float32(factor) * per_radian)
    frequencies = divided * (np.float32(1.0) - kept) + (np.float32(1.0) / per_radian) * kept
    return frequencies, _yarn_attention_factor(parameters, factor)


def _pair_that_turns(rope: Rope, turns: float) -> float:
    """Return the fractional index of the pair with this many turns over the original context (YaRN, eq. 20)."""
    original: int = rope.parameters["original_max_position_embeddings"]
    return rope.dimensions * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.parameters["rope_theta"]))


def _yarn_attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    """Return the factor on cosines and sines: `sqrt(1/t)` of arXiv 2309.00071, equation 22."""
    given: float | None = parameters.get("attention_factor")
    if given is not None:
        return given
    mscale, mscale_all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return _magnitude(factor, mscale) / _magnitude(factor, mscale_all_dim)
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _longrope(rope: Rope) -> tuple[Array, float]:
    """Return the frequencies of LongRoPE (arXiv 2402.13753): a factor per pair within the original context, one beyond.

    Source: `_compute_longrope_parameters`, `modeling_rope_utils.py`, transformers 5.24.
    """
    import numpy as np

    parameters = rope.parameters
    original: int = parameters["original_max_position_embeddings"]
    factor: float = parameters.get("factor") or rope.positions / original
    factors = np.array([parameters["short_factor"], parameters["long_factor"]], dtype=np.float32)
    frequencies = np.float32(1.0) / (factors * _positions_per_radian(rope))
    given: float | None = parameters.get("attention_factor")
    if given is not None:
        return frequencies, given
    return frequencies, 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))


def _ntk_alpha(rope: Rope) -> tuple[Array, float]:
    """Return the frequencies of a base that `alpha` stretches: `compute_ntk_alpha_rope_parameters`.

    Source: `modeling_hunyuan_v1_dense.py`, transformers 5.24.
    """
    stretch = rope.parameters["alpha"] ** (rope.dimensions / (rope.dimensions - 2))
    theta = rope.parameters["rope_theta"] * stretch
    return _default(replace(rope, parameters={**rope.parameters, "rope_theta": theta}))


_INVERSE_FREQUENCIES: Mapping[str, Callable[[Rope], tuple[Array, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "ntk_alpha": _ntk_alpha,
}

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "default": ("rope_theta",),
    "linear": ("rope_theta", "factor"),
    "llama3": ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("rope_theta", "factor"),
    "longrope": ("rope_theta", "short_factor", "long_factor"),
    "ntk_alpha": ("rope_theta", "alpha"),
}
"""Required parameters of each type; `ModelConfig` fills in `original_max_position_embeddings`."""
