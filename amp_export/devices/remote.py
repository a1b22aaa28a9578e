"""Measures on a device: pushes the bundle, runs it and fetches its report; resumes after interruptions.

The device keeps its state: a partial archive, the unpacked bundle, its engines, and a run that continues when the
connection is lost.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from amp_export.benchmarking.device_results import DeviceReport
from amp_export.devices import remote_commands as commands
from amp_export.devices.archives import MEGABYTE
from amp_export.devices.bundle import BundleResult, bundle, default_file, find_bundle, is_current
from amp_export.devices.reports import read_device_report
from amp_export.devices.ssh import Address, Connection
from amp_export.errors import DeviceError, command_line
from amp_export.options import DeviceRuntime, Format
from amp_export.progress import Advance, Progress, Silent
from amp_export.reporting.files import open_output, update_report
from amp_export.reporting.report import Report
from amp_export.verb_options import BundleOptions, DeviceOptions

OLDEST_PYTHON = (3, 8)

KILOBYTE = 1024

_ROUNDS = re.compile(r"Measured (\d+) of (\d+) rounds")
_WORD, _ERROR = "amp-export ", "Error: "


def benchmark_on_device(
    output: Path, device: str, options: DeviceOptions | None = None, *, progress: Progress | None = None
) -> Report:
    """Compare the dense and the pruned model on a device, and merge the result into the output's report.

    Args:
        output: Output directory of `export` or of a whole run.
        device: `ssh://[user@]host[:port]`.
        options: All other options.
        progress: Shows progress.

    Returns:
        The report, whether or not parity holds on the device.

    Raises:
        RequestError: The address is malformed.
        DeviceError: The device cannot be reached, the connection was lost, or the bundle cannot run. The same call
            resumes.
        OutputError: See `bundle`.
    """
    options = options or DeviceOptions()
    progress = progress or Silent()
    address = Address.parse(device)
    manifest = open_output(output)
    found = _find_or_make(output, options, progress)
    connection = Connection(address, options.ssh_config)
    state = _prepare(connection, found, options)
    if not state.unpacked:
        _push(connection, found, state, progress)
    with tempfile.TemporaryDirectory() as scratch:
        report = _run(connection, found, Path(scratch), progress)
    report = replace(report, judged=manifest.judged(Format.ONNX.value))
    merged = update_report(output, devices={str(address): report}, progress=progress)
    # the report has been fetched; if the device is lost now, it is only fetched again
    with contextlib.suppress(DeviceError):
        connection.run(commands.TAKEN, found.sha256)
    return merged


@dataclass(frozen=True)
class _State:
    """State of the device.

    Attributes:
        unpacked: Whether the bundle is unpacked there.
        partial_bytes: Bytes of its archive that have arrived.
        free_bytes: Free disk space.
    """

    unpacked: bool
    partial_bytes: int
    free_bytes: int


def _find_or_make(output: Path, options: DeviceOptions, progress: Progress) -> BundleResult:
    """Return the output's bundle if it holds the current graphs, or make a new one."""
    file = default_file(output, options.target)
    if file.exists():
        found = find_bundle(file)
        if is_current(found, output, options.against):
            return found
        progress.note(f"{file.name} does not match the current graphs in {output} and is made again.")
    return bundle(
        output,
        BundleOptions(target=options.target, against=options.against),
        overwrite=True,
        progress=progress,
    )


def _quote(python: str) -> str:
    """Return a path for a shell on the device, which replaces `~`."""
    home = "~/" if python.startswith("~/") else ""
    return home + command_line(python.removeprefix(home))


def _prepare(connection: Connection, found: BundleResult, options: DeviceOptions) -> _State:
    if "\n" in options.device_python or not options.device_python:
        raise DeviceError(f"--device-python {options.device_python!r} is not the path of a program.")
    arguments = ["--rounds", str(options.rounds)]
    if options.threads is not None:
        arguments += ["--threads", str(options.threads)]
    if options.device_runtime is not None:
        arguments += ["--runtime", options.device_runtime.value]
    request = json.dumps({"arguments": arguments})
    said = connection.run(commands.PREPARE, found.sha256, data=f"{options.device_python}\n{request}\n")
    # other lines may come from the login shell's startup files
    words = [line[len(_WORD) :].split() for line in said if line.startswith(_WORD)]
    _check_python(connection.address, options, words)
    numbers = {name: int(value[0]) for name, *value in words if name in ("partial", "free")}
    return _State(["unpacked"] in words, numbers.get("partial", 0), numbers["free"] * KILOBYTE)


def _check_python(address: Address, options: DeviceOptions, words: list[list[str]]) -> None:
    python = options.device_python
    another = "To use another Python there, give its path, such as --device-python ~/venv/bin/python."
    if ["no-python"] in words:
        raise DeviceError(f"There is no {python} on {address}.\nInstall Python 3.8 or later there. {another}")
    versions = [tuple(map(int, word)) for word in words if len(word) == 2 and all(part.isdigit() for part in word)]
    if not versions:
        raise DeviceError(f"{python} on {address} is not Python or does not run.\n{another}")
    if versions[0] < OLDEST_PYTHON:
        version = ".".join(map(str, versions[0]))
        raise DeviceError(f"{python} on {address} is Python {version}, but 3.8 or later is needed.\n{another}")
    if ["numpy"] not in words:
        raise DeviceError(
            f"{python} on {address} has no numpy.\nInstall it there: sudo apt install python3-numpy. {another}"
        )
    runtimes = [
        runtime.value for runtime in ([options.device_runtime] if options.device_runtime is not None else DeviceRuntime)
    ]
    if not any([runtime] in words for runtime in runtimes):
        raise DeviceError(
            f"{python} on {address} has no {' and no '.join(runtimes)}.\n"
            "Install JetPack's TensorRT there, sudo apt install python3-libnvinfer, or ONNX Runtime, "
            f"{_quote(python)} -m pip install onnxruntime. {another}"
        )


def _push(connection: Connection, found: BundleResult, state: _State, progress: Progress) -> None:
    # archive and unpacked files are on the disk at the same time
    needed = found.bytes - state.partial_bytes + found.unpacked_bytes
    if state.free_bytes < needed:
        raise DeviceError(
            f"{connection.address} has {state.free_bytes / 1e9:.1f} GB of free disk space in ~/{commands.CACHE}, but "
            f"the bundle needs {needed / 1e9:.1f} GB.\nFree some space there."
        )
    if state.partial_bytes > found.bytes:
        connection.run(commands.EMPTY, found.sha256)
        state = replace(state, partial_bytes=0)
    for _ in range(2):
        with progress.step(f"Pushing {found.bytes / 1e6:.0f} MB to {connection.address}") as advance:
            if state.partial_bytes != found.bytes:
                _copy(connection, found, advance)
        with progress.step("Unpacking on the device"):
            said = connection.run(commands.UNPACK, found.sha256)
        if f"{_WORD}damaged" not in said:
            return
        progress.note("The bundle arrived damaged; it is pushed again from the beginning.")
        connection.run(commands.EMPTY, found.sha256)
        state = replace(state, partial_bytes=0)
    raise DeviceError(
        f"The bundle was pushed to {connection.address} twice, and its SHA-256 was wrong there both times.\n"
        "Check the device's disk and memory, and that the bundle does not change here while it is pushed."
    )


def _copy(connection: Connection, found: BundleResult, advance: Advance) -> None:
    remote = f"{commands.CACHE}/{found.sha256}/{commands.ARCHIVE}"
    with tempfile.TemporaryDirectory() as folder, _watched(connection, found, advance):
        # a fixed name, so that the user's file name needs no quoting for sftp
        (Path(folder) / commands.ARCHIVE).symlink_to(found.file.resolve())
        try:
            connection.copy(f"reput {commands.ARCHIVE} {remote}\n", folder=Path(folder))
        except DeviceError as error:
            raise DeviceError(
                f"{error}\nThe part that arrived is kept: run the same command again to resume."
            ) from error


@contextlib.contextmanager
def _watched(connection: Connection, found: BundleResult, advance: Advance) -> Iterator[None]:
    """Show how much has arrived, as reported over a second connection."""
    total = found.bytes // MEGABYTE

    def show(lines: Iterator[str]) -> None:
        for line in lines:
            if line.strip().isdigit():
                advance(min(int(line) // MEGABYTE, total), total)

    with connection.start(commands.WATCH, found.sha256) as watching:
        thread = threading.Thread(target=show, args=(watching.lines(),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            watching.process.kill()
            thread.join()


def _run(connection: Connection, found: BundleResult, scratch: Path, progress: Progress) -> DeviceReport:
    lines: list[str] = []
    with progress.step(f"Running on {connection.address}") as advance:
        try:
            connection.follow(commands.ATTACH, found.sha256, _listener(lines, advance, progress.note))
        except DeviceError as error:
            raise DeviceError(
                f"{error}\nA run that has started continues there; run the same command again to wait for it and "
                "fetch its report."
            ) from error
    codes = [line.split()[-1] for line in lines if line.startswith(f"{_WORD}exit ")]
    if codes[-1:] not in (["0"], ["1"]):
        raise DeviceError(
            f"The run on {connection.address} failed: {_last_error(lines)}\n"
            f"The pushed files are in ~/{commands.CACHE}/{found.sha256} there; remove them to start from the beginning."
        )
    name = "device-report.json"
    connection.copy(f"get {commands.CACHE}/{found.sha256}/bundle/{name} {name}\n", folder=scratch)
    return read_device_report(scratch / name, identity=found.identity)


def _listener(lines: list[str], advance: Advance, note: Callable[[str], None]) -> Callable[[str], None]:
    def listen(line: str) -> None:
        lines.append(line)
        if measured := _ROUNDS.match(line):
            advance(int(measured[1]), int(measured[2]))
        # errors are shown when the run has ended
        elif not line.startswith(_WORD) and not any(earlier.startswith(_ERROR) for earlier in lines):
            note(line)

    return listen


def _last_error(lines: list[str]) -> str:
    """Return the device's error message, or its last lines if there is none."""
    starts = [number for number, line in enumerate(lines) if line.startswith(_ERROR)]
    said = lines[starts[-1] :] if starts else lines[-3:]
    return "\n".join(line for line in said if not line.startswith(_WORD)).removeprefix(_ERROR)
