"""Quantized checkpoints: what each method needs to be turned back into plain weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONFIGS = {
    "fp8": "FineGrainedFP8Config",
    "mxfp8": "FineGrainedFP8Config",
    "mxfp4": "Mxfp4Config",
    "compressed-tensors": "CompressedTensorsConfig",
}
"""Methods that are dequantized while they are loaded, and the config that says so.

Source: `AUTO_QUANTIZER_MAPPING`, `transformers/quantizers/auto.py`, and the quantizers that read `dequantize`, 5.24.
"""


def explain_quantization(quantization: Any, class_name: str) -> str:
    """Says how a quantized checkpoint becomes a plain one.

    Args:
        quantization: The value of `quantization_config` in config.json.
        class_name: The transformers class that loads the checkpoint.
    """
    method = _method(quantization)
    found = f"The checkpoint is quantized ({method}), and plain weights are needed."
    if method in _CONFIGS:
        config = _CONFIGS[method]
        package = f"  # needs pip install {method}" if method == "compressed-tensors" else ""
        load = (
            f"  from transformers import {class_name}, {config}{package}",
            f'  model = {class_name}.from_pretrained("MODEL", quantization_config={config}(dequantize=True))',
        )
    elif method == "bitsandbytes":
        # its quantizers are those that define `_dequantize`: `quantizer_bnb_4bit.py`, `quantizer_bnb_8bit.py`, 5.24
        load = (
            f"  from transformers import {class_name}  # needs pip install bitsandbytes",
            f'  model = {class_name}.from_pretrained("MODEL").dequantize()',
        )
    else:
        return (
            f"{found}\nTransformers cannot dequantize {method}: use the checkpoint that this one was quantized from, "
            "which its model card names."
        )
    lines = (*load, '  model.save_pretrained("plain")')
    return "\n".join((found, "Dequantize it first, copy its tokenizer beside, and use what that saves:", *lines))


def _method(quantization: Any) -> str:
    if not isinstance(quantization, Mapping):
        return "unknown method"
    method = quantization.get("quant_method")
    if method is None and (quantization.get("load_in_4bit") or quantization.get("load_in_8bit")):
        # old configs of bitsandbytes do not name it
        return "bitsandbytes"
    return str(method or "unknown method").lower().replace("_", "-")
