from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.errors import PlanError
from amp_export.pruning.plan import LayerPlan, Plan

RAW = {
    "vocab_size": 50,
    "hidden_size": 24,
    "head_dim": 4,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}
CONFIG = ModelConfig.read(find_architecture("llama"), RAW)
LAYER = LayerPlan(query_heads=(0, 1, 4, 5), key_value_heads=(0, 2), neurons=(1, 2, 3, 9))


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    file = tmp_path / "plan.json"
    Plan(layers=(LAYER, LAYER), asked=0.3, achieved=0.4, reasons={"heads": "because"}, notes=("note",)).save(file)
    return file


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_plan_survives_a_file_and_its_ratio_is_computed_anew(plan_file: Path) -> None:
    plan = Plan.load(plan_file, CONFIG)
    assert plan.layers == (LAYER, LAYER)
    assert plan.reasons == {"heads": "because"}
    # a layer: query 16 of 24 rows, key and value 8 of 12, output 16 of 24 columns, MLP 4 of 10
    removed = 2 * (8 * 24 + 2 * 4 * 24 + 8 * 24 + 3 * 6 * 24)
    total = 2 * 50 * 24 + 24 + 2 * (2 * 24 * 24 + 2 * 12 * 24 + 3 * 10 * 24 + 2 * 24)
    assert plan.achieved == pytest.approx(removed / total)


def test_every_list_of_a_plan_is_one_line_that_a_person_can_edit(plan_file: Path) -> None:
    lines = [line for line in plan_file.read_text().splitlines() if '"neurons": [' in line]
    assert lines == ['      "neurons": [1, 2, 3, 9]'] * 2


def test_a_plan_made_by_hand_needs_layers_only(tmp_path: Path) -> None:
    layer = {"query_heads": [5, 4], "key_value_heads": [2], "neurons": [0]}
    (tmp_path / "plan.json").write_text(json.dumps({"layers": [layer, layer]}))
    plan = Plan.load(tmp_path / "plan.json", CONFIG)
    assert plan.layers[0].query_heads == (4, 5)
    assert plan.asked is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan["layers"].pop(), "1 layers, but the model has 2"),
        (lambda plan: plan["layers"][1].pop("neurons"), "layer 1, neurons: the list is empty"),
        (
            lambda plan: plan["layers"][1].update(neurons=[0.5]),
            r"layers\[1\]\.neurons\[0\]: expected an integer, found 0.5\.",
        ),
        (
            lambda plan: plan["layers"][1].update(neurons=[True]),
            r"layers\[1\]\.neurons\[0\]: expected an integer, found true\.",
        ),
        (lambda plan: plan["layers"][1].update(neurons=[]), "layer 1, neurons: the list is empty"),
        (lambda plan: plan["layers"][0].update(neurons=[3, 10]), "layer 0, neurons: index 10 is outside 0 to 9"),
        (lambda plan: plan["layers"][0].update(neurons=[3, 3]), "layer 0, neurons: index 3 appears twice"),
        (lambda plan: plan["layers"][0].update(query_heads=[0, 1, 2, 4]), "query head 2 is kept, but its key/value"),
        (lambda plan: plan["layers"][0].update(query_heads=[0, 4, 5]), "same number of query heads"),
        (lambda plan: plan.update(layers=3), "layers: expected array, found 3"),
        (
            lambda plan: plan["layers"][1].update(neuron=[1]),
            r"layers\[1\].neuron is not known\. Expected keys: query_heads",
        ),
        (lambda plan: plan.update(schema=99), "schema 99"),
    ],
)
def test_a_plan_that_does_not_fit_says_where(plan_file: Path, change: Callable[[Any], object], message: str) -> None:
    edit(plan_file, change)
    with pytest.raises(PlanError, match=message):
        Plan.load(plan_file, CONFIG)


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(PlanError):
        Plan.load(tmp_path / "plan.json", CONFIG)
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.load(tmp_path / "absent.json", CONFIG)
