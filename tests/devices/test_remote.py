from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from amp_export.benchmarking.statistics import Conclusion
from amp_export.checkpoints.hashing import hash_file
from amp_export.cli import app
from amp_export.devices import remote
from amp_export.devices import remote_commands as device_commands
from amp_export.devices.bundle import find_bundle
from amp_export.devices.remote import benchmark_on_device
from amp_export.devices.reports import read_device_report
from amp_export.devices.ssh import Address, Connection
from amp_export.documents import to_builtins
from amp_export.errors import DeviceError, RequestError
from amp_export.options import DeviceRuntime
from amp_export.outputs.manifest import Manifest
from amp_export.progress import Silent
from amp_export.reporting.report import Report
from amp_export.verb_options import DeviceOptions
from tests.support.loopback import SFTP_SERVER, SSHD, Loopback
from tests.support.shared import Bundled

pytestmark = pytest.mark.slow

needs_sshd = pytest.mark.skipif(
    SSHD is None or SFTP_SERVER is None or shutil.which("sftp") is None,
    reason="no sshd or sftp here: sudo apt install openssh-server openssh-client",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    made = Loopback.make(tmp_path_factory.mktemp("loopback") / "device")
    yield made
    made.stop()


@pytest.fixture
def device(server: Loopback) -> Iterator[Loopback]:
    """The device, up, with nothing on it."""
    yield server
    if server.process is None:
        server.start()
    shutil.rmtree(server.home / ".cache", ignore_errors=True)


@pytest.fixture
def output(bundled: Bundled, tmp_path: Path) -> Path:
    return bundled.copy(tmp_path / "out")


def options(device: Loopback, **changes: Any) -> DeviceOptions:
    chosen = DeviceOptions(rounds=2, threads=1, device_python=sys.executable, ssh_config=device.config)
    return replace(chosen, **changes)


def remote_folder(device: Loopback) -> Path:
    (folder,) = (device.home / ".cache/amp-export").iterdir()
    return folder


class Watching(Silent):
    """Does something as soon as something is said."""

    def __init__(self, word: str, action: Callable[[], None]) -> None:
        self.said: list[str] = []
        self._word = word
        self._action = action

    def note(self, message: str) -> None:
        self.said.append(message)
        if self._word in message:
            self._action()


@needs_sshd
def test_a_device_is_measured_and_its_report_merged(device: Loopback, output: Path) -> None:
    command = ["benchmark", output, "--device", device.address, "--ssh-config", device.config]
    command += ["--device-python", sys.executable, "--rounds", "2", "--threads", "1", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_commands, "TAKEN", device_commands._ENTER + ":")
        result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.stderr
    assert "Pushing" in result.stderr
    report = json.loads(result.stdout)
    ((name, section),) = report["devices"].items()
    assert name == f"127.0.0.1:{device.port}"
    assert section["holds"]
    assert section["runtime"].startswith("ONNX Runtime")
    decode = section["benchmark"]["phases"]["decode"]
    assert decode["interval"][0] <= decode["speedup"] <= decode["interval"][1]
    assert decode["conclusion"] in list(Conclusion)

    assert json.loads((output / "report.json").read_text()) == report
    manifest = json.loads((output / "amp_export.json").read_text())
    assert manifest["verdicts"]["devices"][name]["holds"]
    markdown = (output / "report.md").read_text()
    assert f"| On {name} |" in markdown
    assert "parity of the pruned graph holds in 4 of 4 cases" in markdown

    # as if the connection had been lost before the report was taken: it is brought home again, once
    assert (remote_folder(device) / "bundle/work/state.json").exists()
    again = benchmark_on_device(output, device.address, options(device))
    assert to_builtins(again.devices) == report["devices"]
    assert not (remote_folder(device) / "bundle/work/state.json").exists()
    assert not (remote_folder(device) / "bundle.tar.gz").exists()


@needs_sshd
def test_a_transfer_goes_on_where_it_was_cut(device: Loopback, output: Path, bundled: Bundled) -> None:
    found = find_bundle(output / "bundle-cpu.tar.gz")
    folder = device.home / ".cache/amp-export" / found.sha256
    folder.mkdir(parents=True)
    content = bytearray(bundled.file.read_bytes())
    half = len(content) // 2
    # a byte that did not come as it was sent shows that what is there is kept, and that its hash is checked
    content[100] ^= 1
    (folder / "bundle.tar.gz").write_bytes(content[:half])
    connection = Connection(Address.parse(device.address), device.config)
    state = remote._prepare(connection, found, options(device))
    assert (state.unpacked, state.partial_bytes) == (False, half)
    progress = Watching("nothing", lambda: None)
    remote._push(connection, found, state, progress)
    assert progress.said == ["The bundle arrived damaged; it is pushed again from the beginning."]
    assert (folder / "bundle/run.sh").is_file()

    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "bundle.tar.gz").write_bytes(bundled.file.read_bytes()[:half])
    progress.said.clear()
    remote._push(connection, found, replace(state, partial_bytes=half), progress)
    assert progress.said == []
    assert remote._prepare(connection, found, options(device)).unpacked


@needs_sshd
def test_a_device_that_vanishes_while_it_is_pushed_to_keeps_what_came(device: Loopback, output: Path) -> None:
    found = find_bundle(output / "bundle-cpu.tar.gz")
    connection = Connection(Address.parse(device.address), device.config)
    state = remote._prepare(connection, found, options(device))
    device.stop()
    with pytest.raises(DeviceError, match=r"(?s)refuses the connection.*run the same command again to resume"):
        remote._push(connection, found, state, Silent())


@needs_sshd
def test_a_run_goes_on_when_the_device_vanishes_and_is_picked_up(device: Loopback, output: Path) -> None:
    before = {file: file.read_bytes() for file in output.glob("*.json")}
    vanishing = Watching("Parity of the dense", device.stop)
    with pytest.raises(DeviceError, match=r"(?s)lost|closed.*run the same command again to wait for it"):
        benchmark_on_device(output, device.address, options(device), progress=vanishing)
    assert {file: file.read_bytes() for file in output.glob("*.json")} == before
    assert not (output / "report.json").exists()

    device.start()
    log = remote_folder(device) / "bundle/work/run.log"
    # written anew by each run that is begun
    request = remote_folder(device) / "bundle/work/request.json"
    begun = request.stat().st_mtime_ns
    report = benchmark_on_device(output, device.address, options(device), progress=Silent())
    assert request.stat().st_mtime_ns == begun, "the run that was begun was waited for"
    assert log.read_text().count("Parity of the dense") == 1
    assert report.holds


@needs_sshd
def test_damage_on_the_device_is_named(device: Loopback, output: Path) -> None:
    found = find_bundle(output / "bundle-cpu.tar.gz")
    connection = Connection(Address.parse(device.address), device.config)
    remote._push(connection, found, remote._prepare(connection, found, options(device)), Silent())
    os.truncate(remote_folder(device) / "bundle/pruned/model.onnx_data", 64)
    with pytest.raises(DeviceError, match=rf"(?s)pruned/model\.onnx_data is damaged: it has 64 bytes.*{found.sha256}"):
        benchmark_on_device(output, device.address, options(device))
    manifest = remote_folder(device) / "bundle/manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(DeviceError, match="This bundle has schema 2, but its scripts support up to 1"):
        benchmark_on_device(output, device.address, options(device))
    assert not (output / "report.json").exists()


@needs_sshd
def test_parity_that_fails_there_is_exit_code_1_here(device: Loopback, output: Path) -> None:
    weights = output / "onnx/model.onnx_data"
    content = np.fromfile(weights, np.float32)
    content[: len(content) // 2] *= 1.01
    weights.unlink()
    content.tofile(weights)
    # the graph's hash is right, and what it computes is not
    Manifest.load(output).save(output)
    command = ["benchmark", output, "--device", device.address, "--ssh-config", device.config]
    command += ["--device-python", sys.executable, "--threads", "1"]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 1, result.stderr
    assert "does not match the current graphs" in result.stderr
    bundle = output / "bundle-cpu.tar.gz"
    assert Manifest.load(output).files[bundle.name].sha256 == hash_file(bundle), "of the one that was made now"
    assert "parity of the pruned graph FAILS in 3 of 3 cases" in result.stderr
    section = next(iter((Report.load(output).devices or {}).values()))
    assert not section.holds
    assert section.benchmark is None


@needs_sshd
@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/no/such/python", r"There is no /no/such/python on .*\n.*--device-python"),
        ("/bin/false", "is not Python or does not run"),
        ('"; touch pwned; "', 'There is no "; touch pwned; " on'),
        ("$(touch pwned)", r"There is no \$\(touch pwned\) on"),
        ("two\nlines", "is not the path of a program"),
        ("~/bare", "has no numpy"),
    ],
)
def test_a_python_that_will_not_do_is_named_before_anything_is_pushed(
    python: str, message: str, device: Loopback, output: Path
) -> None:
    bare = device.home / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(DeviceError, match=message):
        benchmark_on_device(output, device.address, options(device, device_python=python))
    assert not list(device.home.rglob("pwned"))


@needs_sshd
def test_a_runtime_that_is_not_there_is_told_before_anything_is_pushed(device: Loopback, output: Path) -> None:
    with pytest.raises(DeviceError, match=r"has no tensorrt\.\n.*python3-libnvinfer"):
        benchmark_on_device(output, device.address, options(device, device_runtime=DeviceRuntime.TENSORRT))


@needs_sshd
def test_too_little_room_is_told_before_anything_is_pushed(device: Loopback, output: Path) -> None:
    found = find_bundle(output / "bundle-cpu.tar.gz")
    connection = Connection(Address.parse(device.address), device.config)
    state = replace(remote._prepare(connection, found, options(device)), free_bytes=1000)
    with pytest.raises(DeviceError, match=r"has 0\.0 GB of free disk space(?s:.*)Free some space there"):
        remote._push(connection, found, state, Silent())


@needs_sshd
def test_a_key_that_is_not_known_or_not_accepted_is_told(device: Loopback, output: Path, tmp_path: Path) -> None:
    text = device.config.read_text()

    def attempt(config: str) -> None:
        file = tmp_path / "config"
        file.write_text(config)
        benchmark_on_device(output, device.address, options(device, ssh_config=file))

    known = str(device.folder / "known_hosts")
    # even where the user's configuration would not ask
    with pytest.raises(DeviceError, match=r"has a host key that is not in known_hosts\.\nConnect once manually"):
        attempt(text.replace(known, str(tmp_path / "none")) + "StrictHostKeyChecking no\n")
    (tmp_path / "changed").write_text(
        (device.folder / "known_hosts").read_text().rpartition(" ")[0]
        + " AAAAC3NzaC1lZDI1NTE5AAAAIC6yXg6qgLOBTfTqPzDMGSWbcKYpFU1kSk5VDGyCSwMm\n"
    )
    with pytest.raises(DeviceError, match=r"has another host key than before(?s:.*)ssh-keygen -R \[127\.0\.0\.1\]:"):
        attempt(text.replace(known, str(tmp_path / "changed")))
    with pytest.raises(DeviceError, match=r"denied the login(?s:.*)ssh-agent"):
        attempt(text.replace(str(device.folder / "user_key"), str(device.folder / "host_key")))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here: sudo apt install openssh-client")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ssh://nobody.invalid", "nobody.invalid cannot be resolved"),
        ("ssh://127.0.0.1:1", "127.0.0.1:1 refuses the connection"),
        ("ssh://[::1]:1", r"\[::1\]:1 "),
    ],
)
def test_a_host_that_is_not_there_is_told(address: str, message: str, output: Path) -> None:
    with pytest.raises(DeviceError, match=message):
        benchmark_on_device(output, address)


def test_without_ssh_it_is_said_what_to_install(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")
    with pytest.raises(DeviceError, match=r"ssh is not installed here\.\n.*openssh-client"):
        benchmark_on_device(output, "ssh://orin.local")


@pytest.mark.parametrize(
    "text",
    [
        "orin.local",
        "ssh://",
        "ssh://user:secret@host",
        "ssh://-oProxyCommand=touch",
        "ssh://user@-host",
        "ssh://host:0",
        "ssh://host:65536",
        "ssh://host/path",
        "ssh://ho st",
        "ssh://host\n",
        "ssh://$(touch pwned)",
    ],
)
def test_what_is_no_address_is_refused(text: str, output: Path) -> None:
    with pytest.raises(RequestError, match=r"is not the address of a device\.\nGive ssh://\[user@\]host\[:port\]"):
        benchmark_on_device(output, text)


@pytest.mark.parametrize(
    ("text", "address", "name"),
    [
        ("ssh://orin.local", Address("orin.local"), "orin.local"),
        ("ssh://me@Orin:2222/", Address("Orin", "me", 2222), "Orin:2222"),
        ("ssh://[fe80::1]:22", Address("fe80::1", None, 22), "[fe80::1]:22"),
    ],
)
def test_addresses_are_read(text: str, address: Address, name: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == name


def test_commands_pass_through_any_login_shell() -> None:
    for name in ("PREPARE", "EMPTY", "WATCH", "UNPACK", "ATTACH", "TAKEN"):
        command = getattr(device_commands, name)
        assert "'" not in command
        assert "\n" not in command


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema": 2}, r"schema 2, this version knows up to 1\.\nUpdate"),
        ({"schema": 1, "bundle": "other"}, "is of another bundle"),
        ({"schema": 1, "bundle": "mine"}, "parity is missing"),
        ({"schema": 1, "bundle": "mine", "parity": []}, r"parity: expected object, found \[\]"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_report_that_will_not_do_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DeviceError, match=message):
        read_device_report(tmp_path / "r.json", identity="mine")


def test_options_of_devices_need_a_device(output: Path) -> None:
    result = CliRunner().invoke(app, ["benchmark", str(output), "--device-python", "python3.10"])
    assert result.exit_code == 2
    assert "Name it with --device" in result.stderr
    result = CliRunner().invoke(app, ["benchmark", str(output), "--device", "ssh://h", "--provider", "cuda"])
    assert result.exit_code == 2
    assert "--cuda-graph are for this machine" in result.stderr


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 64 + "\n", "$(reboot)", "'; reboot; '" + "0" * 52])
def test_what_is_no_sha256_never_reaches_the_devices_shell(text: str) -> None:
    connection = Connection(Address("device"), None)
    with pytest.raises(DeviceError, match="is not the SHA-256 of a bundle"), connection.start("true", text):
        pass


def test_the_command_to_try_by_hand_quotes_the_path_of_the_configuration() -> None:
    connection = Connection(Address("device"), Path("my config; reboot"))
    assert "Try: ssh -F 'my config; reboot' device" in str(connection._explain("lost"))
