"""Cosines and sines of rotary position embeddings, in numpy.

A frequency that is off by one rounding turns an angle by 5e-4 at position 8192. So the steps here are taken in float32
and in the order in which transformers takes them: `modeling_rope_utils.py` and `LlamaRotaryEmbedding`, 5.23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np

    from amp_export.architectures import ModelConfig

    Array = np.ndarray[Any, np.dtype[np.float32]]


def supported_rope_types() -> tuple[str, ...]:
    """The values of `rope_type` for which frequencies can be computed."""
    return tuple(_INVERSE_FREQUENCIES)


def check_rope(config: ModelConfig) -> None:
    """Refuses RoPE parameters for which no frequencies can be computed.

    Raises:
        UnsupportedModelError: The `rope_type` is not supported.
        ModelError: A parameter that the type needs is missing.
    """
    rope_type = config.rope_parameters["rope_type"]
    if rope_type not in _INVERSE_FREQUENCIES:
        raise UnsupportedModelError(
            f"config.json: rope_type {rope_type!r} is not supported.\nSupported: {', '.join(supported_rope_types())}."
        )
    if missing := [name for name in _REQUIRED[rope_type] if name not in config.rope_parameters]:
        raise ModelError(f"config.json: rope_type {rope_type!r} needs {', '.join(missing)}, which is not given.")


def inverse_frequencies(config: ModelConfig) -> tuple[Array, float]:
    """The angle by which each pair of a head's dimensions turns per position, and a factor on cosines and sines.

    Returns:
        Radians per position, float32 [head_dim / 2], and the attention factor (1 for all types but yarn).

    Raises:
        UnsupportedModelError: The `rope_type` is not supported.
        ModelError: A parameter that the type needs is missing.
    """
    check_rope(config)
    return _INVERSE_FREQUENCIES[config.rope_parameters["rope_type"]](config)


def rotary_caches(config: ModelConfig) -> tuple[Array, Array]:
    """The inputs `cos_cache` and `sin_cache` of RotaryEmbedding (ONNX operator version 23).

    Returns:
        Two float32 arrays [max_position_embeddings, head_dim / 2].
    """
    import numpy as np

    frequencies, attention_factor = inverse_frequencies(config)
    angles = np.arange(config.max_position_embeddings, dtype=np.float32)[:, None] * frequencies
    factor = np.float32(attention_factor)
    return np.cos(angles) * factor, np.sin(angles) * factor


def _positions_per_radian(config: ModelConfig) -> Array:
    """`theta ** (2 i / head_dim)` for each pair i of dimensions, float32 [head_dim / 2]."""
    import numpy as np

    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    theta = np.float32(config.rope_parameters["rope_theta"])
    # in float64, rounded once: at most 1 rounding from torch's power, where numpy's in float32 was up to 2
    return (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)


def _default(config: ModelConfig) -> tuple[Array, float]:
    """RoFormer (arXiv 2104.09864), section 3.2.2."""
    import numpy as np

    return np.float32(1.0) / _positions_per_radian(config), 1.0


def _linear(config: ModelConfig) -> tuple[Array, float]:
    """Position interpolation (arXiv 2306.15595), section 2.3: positions shrink by `factor`, here the frequencies."""
    import numpy as np

    frequencies, _ = _default(config)
    return frequencies / np.float32(config.rope_parameters["factor"]), 1.0


def _llama3(config: ModelConfig) -> tuple[Array, float]:
    """Llama 3.1: slow frequencies are divided by `factor`, fast ones kept, those between are blended.

    Source: `_compute_llama3_parameters`, `modeling_rope_utils.py`, transformers 5.23.
    """
    import numpy as np

    rope = config.rope_parameters
    factor = np.float32(rope["factor"])
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    frequencies, _ = _default(config)
    wavelengths = np.float32(2 * math.pi) / frequencies
    slow = np.where(wavelengths > np.float32(original / low), frequencies / factor, frequencies)
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1.0) - smooth) * slow / factor + smooth * slow
    between = (wavelengths >= np.float32(original / high)) & (wavelengths <= np.float32(original / low))
    return np.where(between, blended, slow), 1.0


def _yarn(config: ModelConfig) -> tuple[Array, float]:
    """YaRN (arXiv 2309.00071), sections 3.2 to 3.4: a ramp between kept and divided frequencies.

    Source: `_compute_yarn_parameters`, `modeling_rope_utils.py`, transformers 5.23.
    """
    import numpy as np

    rope = config.rope_parameters
    original: int = rope["original_max_position_embeddings"]
    factor: float = rope["factor"] or config.max_position_embeddings / original
    low = _pair_that_turns(config, rope.get("beta_fast") or 32)
    high = _pair_that_turns(config, rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    if low == high:
        high += 0.001  # the ramp would divide by zero

    per_radian = _positions_per_radian(config)
    pairs = np.arange(config.head_dim // 2, dtype=np.float32)
    kept = np.float32(1.0) - np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, 1)
    divided = np.float32(1.0) / (np.float32(factor) * per_radian)
    frequencies = divided * (np.float32(1.0) - kept) + (np.float32(1.0) / per_radian) * kept
    return frequencies, _yarn_attention_factor(rope, factor)


def _pair_that_turns(config: ModelConfig, turns: float) -> float:
    """The pair, as a fraction, that makes so many full turns over the original context (arXiv 2309.00071, eq. 20)."""
    rope = config.rope_parameters
    original: int = rope["original_max_position_embeddings"]
    return config.head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))


def _yarn_attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What cosines and sines are multiplied with: `sqrt(1/t)` of arXiv 2309.00071, equation 22."""
    given: float | None = rope.get("attention_factor")
    if given is not None:
        return given
    mscale, mscale_all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and mscale_all_dim:
        return _magnitude(factor, mscale) / _magnitude(factor, mscale_all_dim)
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


_INVERSE_FREQUENCIES: Mapping[str, Callable[[ModelConfig], tuple[Array, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "default": ("rope_theta",),
    "linear": ("rope_theta", "factor"),
    "llama3": ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("rope_theta", "factor"),
}
"""What each type cannot do without; `ModelConfig` fills in `original_max_position_embeddings`."""
