"""The table of devices: complete, each fact with its source, and without contradictions."""

from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

from amp_export.cli import app
from amp_export.hardware.target_facts import NumberFormat, Target, TensorRt
from amp_export.hardware.targets import GB_PER_SECOND, GIB, TARGETS
from amp_export.options import Opset, TargetName
from tests.support import PROJECT

PAGE = PROJECT / "docs" / "targets.md"

GPUS = [name for name in TargetName if name is not TargetName.CPU]


def test_every_name_has_its_device() -> None:
    assert list(TARGETS) == list(TargetName)
    assert len({facts.device for facts in TARGETS.values()}) == len(TARGETS)


@pytest.mark.parametrize("name", TargetName)
def test_every_fact_says_where_it_is_from(name: TargetName) -> None:
    facts = TARGETS[name]
    given = {
        field.name
        for field in dataclasses.fields(Target)
        if field.name not in ("device", "sources") and getattr(facts, field.name) not in (None, (), frozenset())
    }
    if name is TargetName.CPU:
        given.remove("is_unified")
    assert facts.sources.keys() == given
    assert all(facts.sources.values())


@pytest.mark.parametrize("name", GPUS)
def test_what_tensor_cores_take_follows_from_the_compute_capability(name: TargetName) -> None:
    facts = TARGETS[name]
    assert facts.compute_capability is not None
    generation = tuple(map(int, facts.compute_capability.split(".")))
    assert {NumberFormat.FLOAT16, NumberFormat.BFLOAT16, NumberFormat.INT8} <= facts.dtypes
    assert (NumberFormat.FLOAT8 in facts.dtypes) == (generation >= (8, 9))
    assert (NumberFormat.FLOAT4 in facts.dtypes) == (generation >= (10, 0))
    assert facts.neuron_multiple == 64


@pytest.mark.parametrize("name", GPUS)
def test_a_device_is_named_by_its_memory(name: TargetName) -> None:
    facts = TARGETS[name]
    assert facts.memory_bytes is not None
    assert f"{facts.memory_bytes // GIB}GB" in facts.device
    assert facts.is_unified == facts.device.startswith("Jetson")


@pytest.mark.parametrize("name", GPUS)
def test_operators_follow_from_the_version(name: TargetName) -> None:
    for tensorrt in TARGETS[name].tensorrt:
        if tensorrt.version is not None:
            new = tuple(map(int, tensorrt.version.split("."))) >= (10, 15)
            assert tensorrt.opset is (Opset.OPSET_23 if new else Opset.OPSET_20)
    jetson = TARGETS[name].is_unified
    assert TARGETS[name].opset is (Opset.OPSET_20 if jetson else Opset.OPSET_23)


def test_the_oldest_tensorrt_decides_which_operators_all_take() -> None:
    both = (TensorRt("10.16", "new", Opset.OPSET_23), TensorRt("10.3", "old", Opset.OPSET_20))
    assert Target("a device", 64, {}, tensorrt=both).opset is Opset.OPSET_20
    assert Target("a device", 64, {}, tensorrt=both[:1]).opset is Opset.OPSET_23
    assert Target("a device", 64, {}).opset is Opset.OPSET_23


def test_an_unknown_target_is_told_which_there_are() -> None:
    result = CliRunner().invoke(app, ["doctor", "--target", "gpu"])
    assert result.exit_code == 2
    for name in TargetName:
        assert f"'{name}'" in result.stderr


@pytest.mark.parametrize("name", GPUS)
def test_the_page_on_targets_has_every_device_as_it_is(name: TargetName) -> None:
    facts = TARGETS[name]
    assert facts.memory_bytes is not None
    assert facts.bandwidth is not None
    formats = ", ".join(each for each in NumberFormat if each in facts.dtypes)
    versions = ", ".join(each.comes_with if each.version is None else each.version for each in facts.tensorrt)
    cells = (
        f"`{name}`",
        facts.device,
        facts.compute_capability,
        f"{facts.memory_bytes // GIB} GiB",
        f"{facts.bandwidth / GB_PER_SECOND:g} GB/s",
        formats,
        versions,
        facts.opset,
    )
    row = f"| {' | '.join(map(str, cells))} |"
    assert row in PAGE.read_text(encoding="utf-8").splitlines(), f"docs/targets.md lacks this row:\n{row}"
