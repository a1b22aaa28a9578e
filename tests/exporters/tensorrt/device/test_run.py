from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amp_export.exporters.tensorrt.device import runtimes
from amp_export.exporters.tensorrt.device.errors import RunError
from amp_export.exporters.tensorrt.device.files import write_json
from tests.support.shared import Bundled


def run(folder: Path, *arguments: str, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AMP_EXPORT_PYTHON": str(python)}
    # nothing of this project is on a device
    environment.pop("PYTHONPATH", None)
    command = ["bash", folder / "run.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", timeout=120, check=False)


@pytest.fixture
def device(bundled: Bundled, tmp_path: Path) -> Path:
    return bundled.unpack(tmp_path)


def change_manifest(folder: Path, **changes: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_run_verifies_measures_and_reports(device: Path) -> None:
    done = run(device, "--runtime", "onnxruntime", "--threads", "1", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    assert "Parity of the pruned graph holds in 4 of 4 cases" in done.stdout
    report = json.loads((device / "device-report.json").read_text())
    assert report["bundle"] == hashlib.sha256((device / "manifest.json").read_bytes()).hexdigest()
    assert (report["schema"], report["target"], report["build"]) == (1, "cpu", None)
    assert report["runtime"].startswith("ONNX Runtime 1.")
    assert report["facts"]["python"] == ".".join(map(str, sys.version_info[:3]))
    for parity in report["parity"].values():
        assert parity["holds"]
        assert [case["positions"] for case in parity["cases"]] == [1, 1, 5, 9]
    benchmark = report["benchmark"]
    assert (benchmark["rounds"], benchmark["launches"], benchmark["interleaved"]) == (2, 2, "by round")
    for name, samples_of_round in (("prefill", 1), ("decode", 16)):
        for subject in ("dense", "pruned"):
            times = benchmark["phases"][name][subject]
            assert [len(samples) for samples in times["samples"]] == [samples_of_round] * 2
            assert min(map(min, times["samples"])) <= times["median"] <= times["p90"] <= times["p99"]
    decode = benchmark["phases"]["decode"]["dense"]
    assert decode["tokens_per_second"] == pytest.approx(1 / decode["median"])
    assert benchmark["dense"]["peak_memory_bytes"] > 10e6
    # this machine does not tell its power, and nothing is made up
    if report["power"] is None:
        assert benchmark["dense"]["joules_per_decoded_token"] is None


def test_parity_that_fails_is_exit_code_1_and_is_not_measured(device: Path) -> None:
    weights = device / "pruned/model.onnx_data"
    content = np.fromfile(weights, np.float32)
    content[: len(content) // 2] *= 1.01
    content.tofile(weights)
    files = json.loads((device / "manifest.json").read_text())["files"]
    files["pruned/model.onnx_data"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    change_manifest(device, files=files)
    done = run(device)
    assert done.returncode == 1, done.stderr
    assert "Parity of the dense graph holds in 4 of 4 cases" in done.stdout
    assert "Parity of the pruned graph FAILS in 4 of 4 cases" in done.stdout
    report = json.loads((device / "device-report.json").read_text())
    assert not report["parity"]["pruned"]["holds"]
    assert report["benchmark"] is None


def corrupt(folder: Path) -> None:
    file = folder / "dense/model.onnx_data"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a changed byte": (corrupt, "dense/model.onnx_data is damaged: its SHA-256 begins with"),
    "a cut file": (
        lambda folder: os.truncate(folder / "pruned/model.onnx", 100),
        "pruned/model.onnx is damaged: it has 100 bytes",
    ),
    "a missing file": (lambda folder: (folder / "README.md").unlink(), "README.md is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    "a broken manifest": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
    "a newer schema": (
        lambda folder: change_manifest(folder, schema=2),
        "This bundle has schema 2, but its scripts support up to 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_is_exit_code_2(damage: str, device: Path) -> None:
    spoil, message = DAMAGES[damage]
    spoil(device)
    done = run(device)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (device / "device-report.json").exists()


def test_a_second_run_does_not_disturb_the_first(device: Path) -> None:
    (device / "work").mkdir()
    with (device / "work/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(device)
    assert done.returncode == 2
    assert "Another run of" in done.stderr


def test_one_step_alone_writes_no_report(device: Path) -> None:
    done = run(device, "verify", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert not (device / "device-report.json").exists()
    assert run(device, "polish").returncode == 2


def test_a_python_that_will_not_do_is_named(device: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    for python, message in (("/no/such/python", "there is no /no/such/python here"), (bare, "has no numpy")):
        done = run(device, python=python)
        assert done.returncode == 2
        assert message in done.stderr


def test_what_does_not_run_here_is_said(device: Path) -> None:
    done = run(device, "--runtime", "tensorrt")
    assert done.returncode == 2
    assert "This python3 cannot import tensorrt" in done.stderr
    done = run(device, "--provider", "ToasterExecutionProvider")
    assert done.returncode == 2
    assert "has no ToasterExecutionProvider." in done.stderr
    assert "CPUExecutionProvider" in done.stderr


def test_a_graph_of_newer_operators_names_the_runtime_that_has_them(device: Path) -> None:
    (device / "pruned/model.onnx").write_bytes(b"no graph")

    class OldRuntime:
        __version__ = "1.19.2"

        def __getattr__(self, name: str) -> object:
            import onnxruntime

            return getattr(onnxruntime, name)

    with pytest.raises(
        RunError,
        match=r"(?s)onnxruntime 1\.19\.2 cannot load .* opset 23, which needs onnxruntime "
        r"1\.23",
    ):
        runtimes._open_session(
            OldRuntime(), str(device / "pruned/model.onnx"), "CPUExecutionProvider", "float32", 23, 1
        )


def test_a_device_without_a_runtime_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_imports", lambda name: f"No module named {name!r}")
    with pytest.raises(RunError, match=r"neither tensorrt nor onnxruntime\.\n.*pip install onnxruntime"):
        runtimes.choose_runtime(None)


def test_a_process_that_dies_is_named_with_its_signal(device: Path) -> None:
    worker = device / "device/worker.py"
    text = worker.read_text().replace(
        "        decoder = load(", "        os.kill(os.getpid(), 9)\n        decoder = load("
    )
    worker.write_text(text)
    files = json.loads((device / "manifest.json").read_text())["files"]
    facts = {"sha256": hashlib.sha256(worker.read_bytes()).hexdigest(), "bytes": worker.stat().st_size}
    change_manifest(device, files={**files, "device/worker.py": facts})
    done = run(device)
    assert done.returncode == 2
    assert "The process that ran the dense graph died (SIGKILL)" in done.stderr
    assert "out of memory" in done.stderr


def test_what_cannot_be_written_is_said_with_the_room_there_is(tmp_path: Path) -> None:
    (tmp_path / "report.json/in-the-way").mkdir(parents=True)
    with pytest.raises(RunError, match=r"report\.json cannot be written: .* of disk space are free\.\nFree some space"):
        write_json(tmp_path / "report.json", {})
