from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from amp_export.exporters.tensorrt.device.facts import (
    clock_rates,
    device_facts,
    device_model,
    run_quietly,
    temperatures,
)
from amp_export.exporters.tensorrt.device.files import available_memory, free_swap, total_memory
from amp_export.exporters.tensorrt.device.power import Power, parse_tegrastats, read_hwmon, total_watts

TEGRASTATS = (
    "11-14-2024 22:28:01 RAM 3041/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB) CPU [2%@729,0%@729] GR3D_FREQ 0% "
    "cpu@45.5C tj@46.2C VDD_IN 4567mW/4400mW VDD_CPU_GPU_CV 567mW/500mW VDD_SOC 1300mW/1200mW"
)
"""As an Orin Nano with JetPack 6 prints it."""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def monitor(number: int, labels: tuple[str, str, str], name: str = "ina3221") -> dict[str, str]:
    folder = f"sys/class/hwmon/hwmon{number}"
    files = {f"{folder}/name": name}
    for channel, label in enumerate(labels, start=1):
        files[f"{folder}/in{channel}_label"] = label
        files[f"{folder}/in{channel}_input"] = "5000"
        files[f"{folder}/curr{channel}_input"] = str(1000 * channel)
    return files


@pytest.fixture
def orin_nano(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            **monitor(1, ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")),
            "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0",
            "proc/meminfo": "MemTotal:  8000 kB\nMemFree: 10 kB\nMemAvailable:  4000 kB\nSwapFree: 100 kB",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "45500",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400",
            "sys/devices/system/cpu/cpufreq/nothing": "",
            "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
        },
    )


def test_power_is_the_rail_that_feeds_the_module(orin_nano: Path) -> None:
    watts = read_hwmon(orin_nano)
    assert watts == {"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 10.0, "VDD_SOC": 15.0}
    assert total_watts(watts) == 5.0


def test_without_such_a_rail_all_are_added_but_those_not_connected(tmp_path: Path) -> None:
    files = monitor(0, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")) | monitor(1, ("NC", "VDDQ_VDD2_1V8AO", "NC"))
    watts = read_hwmon(write(tmp_path, files | monitor(2, ("A", "B", "C"), name="other")))
    assert sorted(watts) == ["VDDQ_VDD2_1V8AO", "VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"]
    assert total_watts(watts) == pytest.approx(5 + 10 + 15 + 10)


def test_tegrastats_gives_what_is_drawn_now() -> None:
    assert parse_tegrastats(TEGRASTATS) == {"VDD_IN": 4.567, "VDD_CPU_GPU_CV": 0.567, "VDD_SOC": 1.3}
    assert parse_tegrastats("RAM 3041/7620MB") == {}


def test_power_is_the_mean_of_the_samples_inside_the_spans(orin_nano: Path) -> None:
    power = Power.open(orin_nano)
    assert power is not None
    assert (power.source, power.rails) == ("ina3221, hwmon", ["VDD_IN"])
    began = time.monotonic()
    time.sleep(0.3)
    ended = time.monotonic()
    (orin_nano / "sys/class/hwmon/hwmon1/curr1_input").write_text("3000\n")
    time.sleep(0.3)
    power.close()
    assert power.mean_watts([(began, ended)]) == pytest.approx(5.0)
    assert power.mean_watts([(ended + 0.1, time.monotonic())]) == pytest.approx(15.0)
    assert power.mean_watts([(began - 2, began - 1)]) is None, "no sample, nothing to say"


def test_tegrastats_is_asked_where_there_is_no_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/tegrastats"
    tool.write_text(f"#!/bin/sh\nwhile echo '{TEGRASTATS}'; do sleep 0.02; done\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    power = Power.open(tmp_path)
    assert power is not None
    began = time.monotonic()
    time.sleep(0.3)
    power.close()
    assert power.source == "tegrastats"
    assert power.mean_watts([(began, time.monotonic())]) == pytest.approx(4.567)


def test_a_device_that_does_not_tell_its_power_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")
    assert Power.open(tmp_path) is None


def test_facts_and_state_of_a_device(orin_nano: Path) -> None:
    assert device_model(orin_nano) == "NVIDIA Jetson Orin Nano Developer Kit"
    facts = device_facts(orin_nano)
    assert facts["l4t"] == "# R36 (release), REVISION: 4.0"
    assert facts["memory_bytes"] == total_memory(orin_nano) == 8000 * 1024
    assert (available_memory(orin_nano), free_swap(orin_nano)) == (4000 * 1024, 100 * 1024)
    assert temperatures(orin_nano) == {"cpu-thermal": 45.5}
    assert clock_rates(orin_nano) == {"cpu0": 1_510_400_000, "17000000.gpu": 624_750_000}


def test_what_is_not_told_is_none(tmp_path: Path) -> None:
    facts = device_facts(tmp_path)
    assert (facts["model"], facts["l4t"], facts["memory_bytes"]) == (None, None, None)
    assert (temperatures(tmp_path), clock_rates(tmp_path), available_memory(tmp_path)) == ({}, {}, None)
    assert run_quietly(["/no/such/command"]) is None
    assert run_quietly(["sh", "-c", "echo said; exit 1"]) is None
    assert run_quietly(["sh", "-c", "echo said"]) == "said"
