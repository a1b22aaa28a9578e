"""Parity of vision-language models in parts fails where graphs see other images, or see them otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amp_export.checkpoints.sources import resolve_model
from amp_export.exporters.models.vision_language import TYPES, GraphVisionLanguage
from amp_export.parity.comparison import compare
from amp_export.progress import Silent
from tests.exporters.onnx.conftest import ExportedParts
from tests.support.vision_language_models import TEXT, WITH_GRIDS

pytestmark = pytest.mark.usefixtures("parts_cache", "few_texts")


def reversed_images(features: Any) -> Any:
    return features[::-1]


FAULTS = {"images are left out": np.zeros_like, "images change places": reversed_images}


def find_wrong_cases(whole: Path, output: Path) -> set[str]:
    report = compare(resolve_model(whole).path, output / "onnx", whole=whole, progress=Silent())
    assert not report.holds
    return {case.name for case in report.cases if not case.holds}


@pytest.mark.parametrize("fault", FAULTS)
def test_parity_fails_with_other_images(
    fault: str, exported_parts: ExportedParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = GraphVisionLanguage.encode_images
    monkeypatch.setattr(GraphVisionLanguage, "encode_images", lambda self, inputs: FAULTS[fault](encode(self, inputs)))
    wrong = find_wrong_cases(*exported_parts("gemma3"))
    assert wrong
    assert all("2 images" in name for name in wrong)


def test_parity_fails_where_a_gemma_3_reads_images_causally(
    exported_parts: ExportedParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = GraphVisionLanguage._step

    def without_types(self: GraphVisionLanguage, new: Any, *rest: Any, **named: Any) -> Any:
        types = self._open().to_value(np.zeros(new[TYPES].shape(), np.int64))
        return step(self, {**new, TYPES: types}, *rest, **named)

    monkeypatch.setattr(GraphVisionLanguage, "_step", without_types)
    wrong = find_wrong_cases(*exported_parts("gemma3"))
    assert wrong
    assert all("image" in name for name in wrong)


def in_text_order(step: Callable[..., Any]) -> Callable[..., Any]:
    """Positions as if the tokens of images were text."""

    def read(self: GraphVisionLanguage, *given: Any, **named: Any) -> Any:
        *others, mask, positions = given
        counted = np.maximum(mask.cumsum(axis=1) - 1, 0)
        return step(self, *others, mask, np.broadcast_to(counted, positions.shape).copy(), **named)

    return read


def with_rows_as_columns(step: Callable[..., Any]) -> Callable[..., Any]:
    """Images whose grids have rows for columns."""

    def encode(self: GraphVisionLanguage, inputs: Any) -> Any:
        return step(self, {**inputs, "image_grid_thw": inputs["image_grid_thw"][:, [0, 2, 1]]})

    return encode


@pytest.mark.parametrize(("method", "fault"), [("read", in_text_order), ("encode_images", with_rows_as_columns)])
@pytest.mark.parametrize("model_type", WITH_GRIDS)
def test_parity_fails_where_positions_or_grids_are_others(
    model_type: str,
    method: str,
    fault: Callable[..., Any],
    exported_parts: ExportedParts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GraphVisionLanguage, method, fault(getattr(GraphVisionLanguage, method)))
    wrong = find_wrong_cases(*exported_parts(model_type))
    assert wrong
    assert all("image" in name for name in wrong)


def test_parity_fails_without_the_features_of_further_layers(
    exported_parts: ExportedParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = GraphVisionLanguage.encode_images

    def first_alone(self: GraphVisionLanguage, inputs: Any) -> Any:
        features = encode(self, inputs).copy()
        features[:, TEXT["hidden_size"] :] = 0
        return features

    monkeypatch.setattr(GraphVisionLanguage, "encode_images", first_alone)
    wrong = find_wrong_cases(*exported_parts("qwen3_vl"))
    assert wrong
    assert all("image" in name for name in wrong)
