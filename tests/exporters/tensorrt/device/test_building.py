from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amp_export.exporters.tensorrt.device import building
from amp_export.exporters.tensorrt.device.building import build_engines, trtexec_command, trtexec_version
from amp_export.exporters.tensorrt.device.bundle import Bundle, open_bundle
from amp_export.exporters.tensorrt.device.errors import RunError
from tests.support.shared import Bundled

Install = Callable[..., Path]

TRTEXEC = r"""#!/bin/sh
echo '&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] [b26] # trtexec'
for option; do
    case "$option" in
    --help) exit 0 ;;
    --saveEngine=*) engine="${{option#--saveEngine=}}" ;;
    esac
done
{action}
echo "$@" >> {calls}
echo engine > "$engine"
"""
"""Says its version as trtexec does (samples/common/logging.h, 10.3 and 11.1), and writes where the engine goes."""


@pytest.fixture
def bundle(bundled: Bundled, tmp_path: Path) -> Bundle:
    opened = open_bundle(bundled.unpack(tmp_path))
    opened.work.mkdir()
    return opened


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a trtexec into PATH, and returns the file in which it notes how it is called."""

    def write(number: str, *, action: str = "") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "trtexec").write_text(TRTEXEC.format(number=number, action=action, calls=tmp_path / "calls"))
        (folder / "trtexec").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return tmp_path / "calls"

    return write


def build(bundle: Bundle, version: str, device: str = "a GPU") -> dict[str, building.Engine]:
    return build_engines(bundle, runtime_version=version, device=device)


@pytest.mark.parametrize(
    ("number", "version", "strongly_typed"),
    [("101500", "10.15.0.1", True), ("101601", "10.16.1.11", True), ("110100", "11.1.0.106", False)],
)
def test_each_version_is_called_in_its_dialect(
    number: str, version: str, strongly_typed: bool, bundle: Bundle, install: Install
) -> None:
    calls = install(number)
    engines = build(bundle, version)
    dense, pruned = calls.read_text().splitlines()
    assert f"--onnx={bundle.graph('dense')} " in dense
    assert f"--onnx={bundle.graph('pruned')} " in pruned
    for call in (dense, pruned):
        assert ("--stronglyTyped" in call) is strongly_typed
        assert "--noTF32" in call, "the graph is float32"
        assert call.index("--profile=0") < call.index("--profile=1")
        prefill, decode = call.partition("--profile=1")[0], call.partition("--profile=1")[2]
        assert "--maxShapes=input_ids:3x128,attention_mask:3x128,position_ids:3x128" in prefill
        assert "past_key_values.0.key:1x2x0x8" in prefill
        assert "--minShapes=input_ids:1x1,attention_mask:1x2,position_ids:1x1,past_key_values.0.key:1x2x1x8" in decode
    assert engines["pruned"].file.read_text() == "engine\n"
    assert not list(bundle.work.glob(".*"))


def test_the_target_limits_the_workspace(bundle: Bundle) -> None:
    def options(workspace: int | None) -> str:
        bundle.manifest["target"]["workspace_bytes"] = workspace
        return " ".join(trtexec_command(bundle, "dense", "trtexec", (10, 15, 0), Path("e")))

    assert "--memPoolSize=workspace:512M" in options(512 << 20)
    assert "--memPoolSize" not in options(None)


def test_engines_are_kept_until_something_that_they_are_tied_to_changes(bundle: Bundle, install: Install) -> None:
    calls = install("101500")
    assert not any(engine.kept for engine in build(bundle, "10.15.0").values())
    kept = build(bundle, "10.15.0")
    assert all(engine.kept for engine in kept.values())
    assert len(calls.read_text().splitlines()) == 2
    build(bundle, "10.15.0", device="another GPU")
    assert len(calls.read_text().splitlines()) == 4
    install("101601")
    build(bundle, "10.16.1", device="another GPU")
    assert len(calls.read_text().splitlines()) == 6
    bundle.manifest["files"]["dense/model.onnx"]["sha256"] = "0" * 64
    build(bundle, "10.16.1", device="another GPU")
    assert len(calls.read_text().splitlines()) == 7
    (bundle.work / "pruned.engine").write_text("cut")
    assert not build(bundle, "10.16.1", device="another GPU")["pruned"].kept


def test_a_version_that_cannot_parse_the_graph_is_told(bundle: Bundle, install: Install) -> None:
    calls = install("100300")
    with pytest.raises(
        RunError,
        match=r"opset 23, which needs TensorRT 10\.15 or later; installed is "
        r"10\.3\.0\.(?s:.*)20",
    ):
        build(bundle, "10.3.0")
    for facts in bundle.manifest["graphs"].values():
        facts["opset"] = 20
    build(bundle, "10.3.0")
    assert "--stronglyTyped" in calls.read_text()


def test_trtexec_and_python_must_be_of_one_version(bundle: Bundle, install: Install) -> None:
    install("101500")
    with pytest.raises(RunError, match=r"is of TensorRT 10\.15\.0, but python3's tensorrt is 10\.16\.1"):
        build(bundle, "10.16.1")


def test_a_build_that_fails_shows_trtexecs_error_and_leaves_no_engine(bundle: Bundle, install: Install) -> None:
    install("101500", action="echo 'hello'; echo '[E] Error[4]: no kernel for Attention_7'; echo 'bye'; exit 1")
    with pytest.raises(RunError, match=r"(?s)exit code 1.*dense\.build\.log.*no kernel for Attention_7"):
        build(bundle, "10.15.0")
    assert not list(bundle.work.glob("*.engine*"))
    install("101500", action="kill -9 $$")
    with pytest.raises(RunError, match="signal 9, perhaps out of memory"):
        build(bundle, "10.15.0")


def test_too_little_room_is_said_before_building(
    bundle: Bundle, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install("101500")
    with monkeypatch.context() as patch:
        patch.setattr(building, "free_disk", lambda _: 1000)
        with pytest.raises(RunError, match=r"engine takes up to .* of disk space, but 0\.0 MB are free"):
            build(bundle, "10.15.0")
    monkeypatch.setattr(building, "available_memory", lambda: 1000)
    monkeypatch.setattr(building, "free_swap", lambda: 0)
    with pytest.raises(RunError, match="holds 2 copies of"):
        build(bundle, "10.15.0")
    assert not calls.exists()


def test_without_trtexec_it_is_said_where_to_get_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "TRTEXEC_HOME", "/no/such/trtexec")
    monkeypatch.setenv("PATH", "/no/such/folder")
    with pytest.raises(RunError, match=r"neither in PATH nor at /no/such/trtexec\.\n.*libnvinfer-bin"):
        build(bundle, "10.15.0")


@pytest.mark.parametrize(("number", "version"), [("8601", (8, 0, 0)), ("100300", (10, 3, 0)), ("110406", (11, 4, 6))])
def test_versions_are_read(number: str, version: tuple[int, ...], install: Install) -> None:
    install(number)
    assert trtexec_version("trtexec") == version
    install("x")
    with pytest.raises(RunError, match="does not say its version"):
        trtexec_version("trtexec")


def test_what_an_engine_is_tied_to_is_on_record(bundle: Bundle, install: Install) -> None:
    install("101500")
    build(bundle, "10.15.0", device="Orin")
    key = json.loads((bundle.work / "dense.engine.json").read_text())["key"]
    assert (key["tensorrt"], key["device"]) == ("10.15.0", "Orin")
