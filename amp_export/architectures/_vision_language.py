"""Facts about vision-language models: which decoder their language model is, when it reads text alone.

Source: the modeling files of these types, transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class LanguageModel:
    """The language model of a type of vision-language models.

    Attributes:
        model_type: Type of the decoder that computes the same on text; None if `text_config` names its type itself.
        rope_fields: Fields of `rope_parameters` that matter to images alone: on text, positions in time, height and
            width are one and the same.
        heads_stay: Why no heads can be removed; None if they can.
    """

    model_type: str | None = None
    rope_fields: tuple[str, ...] = ()
    heads_stay: str | None = None


_DIVIDES = "its attention takes the width of a head from the number of heads"

VISION_LANGUAGE: Mapping[str, LanguageModel] = MappingProxyType(
    {
        "gemma3": LanguageModel(),
        "idefics3": LanguageModel(),
        "internvl": LanguageModel(),
        "llava_onevision": LanguageModel(),
        "qwen2_5_vl": LanguageModel("qwen2", ("mrope_section",), _DIVIDES),
        "qwen2_vl": LanguageModel("qwen2", ("mrope_section",), _DIVIDES),
        "qwen3_vl": LanguageModel("qwen3", ("mrope_section", "mrope_interleaved")),
        "smolvlm": LanguageModel(),
    }
)
"""By the `model_type` of the whole."""
