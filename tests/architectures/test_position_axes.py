from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from amp_export.architectures._vision_language import VISION_LANGUAGE
from amp_export.errors import ModelError

CLASSES: dict[str, Any] = {
    "qwen2_5_vl": Qwen2_5_VLRotaryEmbedding,
    "qwen2_vl": Qwen2VLRotaryEmbedding,
    "qwen3_vl": Qwen3VLTextRotaryEmbedding,
}


@given(name=st.sampled_from(sorted(CLASSES)), sections=st.tuples(*[st.integers(1, 9)] * 3))
def test_pairs_turn_by_the_axes_of_transformers(name: str, sections: tuple[int, int, int]) -> None:
    axes, pairs = VISION_LANGUAGE[name].axes, sum(sections)
    assert axes is not None
    by_axis = torch.arange(3.0).reshape(3, 1, 1, 1).repeat(1, 1, 1, pairs)
    expected = CLASSES[name].recomposition_frequencies(SimpleNamespace(mrope_section=list(sections)), by_axis)
    assert axes.of_pairs(pairs, sections) == tuple(expected.flatten()[:pairs].int().tolist())


@pytest.mark.parametrize(("name", "sections"), [("qwen2_5_vl", [2, 1]), ("qwen2_vl", [1, 1, 1]), ("qwen3_vl", [2, 2])])
def test_sections_that_are_not_of_a_head_are_refused(name: str, sections: list[int]) -> None:
    axes = VISION_LANGUAGE[name].axes
    assert axes is not None
    with pytest.raises(ModelError, match=r"mrope_section is .* a head has 4 pairs"):
        axes.of_pairs(4, sections)
