"""Builds engines with trtexec, with the options of the installed TensorRT.

Options: `trtexec --help` and samples/common/sampleOptions.cpp of NVIDIA/TensorRT, 10.3, 10.15 and 11.1. Up to 10.x a
network keeps the graph's dtypes only with --stronglyTyped; from 11.0 on every network does, and the option has no
effect.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bundle import SUBJECTS, Bundle
from .errors import RunError
from .files import available_memory, free_disk, free_swap, gigabytes, read_json, write_json

TRTEXEC_HOME = "/usr/src/tensorrt/bin/trtexec"
"""Path of trtexec in the package libnvinfer-bin, on Jetson too."""

STRONG_TYPING_IS_ALL = (11, 0)
"""The first TensorRT in which all networks are strongly typed."""

PARSES_OPSET = {20: (10, 0), 23: (10, 15)}
"""The first TensorRT whose parser supports our graphs, by opset (CHANGELOG.md of NVIDIA/TensorRT: Attention in 10.14,
RotaryEmbedding and RMSNormalization in 10.15)."""

ENGINE_COPIES = 2
"""Maximum copies of the weights in an engine: TensorRT-RTX 1.7.1 kept most of them once for each profile."""

WEIGHT_COPIES = 2
"""Minimum copies of the weights in memory during a build: the network's and the engine's ("How TensorRT Works", The
Build Phase, docs.nvidia.com/deeplearning/tensorrt)."""

_VERSION = re.compile(r"\[TensorRT v(\d+)\]")


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        file: Its file.
        seconds: Duration of its build.
        bytes: Its size.
        kept: Whether an earlier run built it.
    """

    file: Path
    seconds: float
    bytes: int
    kept: bool


def build_engines(bundle: Bundle, *, runtime_version: str, device: str) -> dict[str, Engine]:
    """Build the engines that are missing or out of date.

    Args:
        bundle: The bundle.
        runtime_version: Version of the runtime that loads the engines.
        device: Description of the GPU; an engine for another one is built again.

    Raises:
        RunError: trtexec is missing, has another version or fails, or there is too little disk space or memory.
    """
    trtexec = find_trtexec()
    version = trtexec_version(trtexec)
    _check_versions(bundle, trtexec, version, runtime_version)
    return {subject: _build(bundle, subject, trtexec, version, device) for subject in SUBJECTS}


def find_trtexec() -> str:
    """Return the path of trtexec.

    Raises:
        RunError: It is not installed.
    """
    found = shutil.which("trtexec") or (TRTEXEC_HOME if os.access(TRTEXEC_HOME, os.X_OK) else None)
    if found is None:
        raise RunError(
            f"trtexec is neither in PATH nor at {TRTEXEC_HOME}.\n"
            "It comes with TensorRT's package or archive, not with pip: sudo apt install libnvinfer-bin, or add the "
            "archive's bin/ to PATH. Or give --runtime onnxruntime."
        )
    return found


def trtexec_version(trtexec: str) -> tuple[int, int, int]:
    """Return major, minor and patch from trtexec's first line: v100300 means 10.3.0, v110100 means 11.1.0."""
    said = subprocess.run([trtexec, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    found = _VERSION.search(said.stdout.decode(errors="replace"))
    if found is None:
        raise RunError(f"{trtexec} does not say its version.\nTensorRT 10.0 and later are supported.")
    number = int(found.group(1))
    # up to 8.x it has two digits less: v8601
    return (number // 10000, number // 100 % 100, number % 100) if number >= 100000 else (number // 1000, 0, 0)


def trtexec_command(
    bundle: Bundle, subject: str, trtexec: str, version: tuple[int, int, int], engine: Path
) -> list[str]:
    """Return the command that builds an engine.

    Args:
        bundle: The bundle.
        subject: Name of the graph.
        trtexec: Path of trtexec.
        version: Version of trtexec.
        engine: File to write the engine to.
    """
    facts = bundle.manifest["graphs"][subject]
    command = [trtexec, f"--onnx={bundle.graph(subject)}", f"--saveEngine={engine}", "--skipInference"]
    if version[:2] < STRONG_TYPING_IS_ALL:
        command.append("--stronglyTyped")
    if facts["precision"] == "float32":
        # TF32 would round the graph's float32 values
        command.append("--noTF32")
    workspace = bundle.manifest["target"]["workspace_bytes"]
    if workspace is not None:
        command.append(f"--memPoolSize=workspace:{workspace >> 20}M")
    command.append(f"--timingCacheFile={bundle.work / 'timing.cache'}")
    for number, profile in enumerate(facts["profiles"]):
        command.append(f"--profile={number}")
        for option, end in (("--minShapes", 0), ("--optShapes", 1), ("--maxShapes", 2)):
            shapes = ",".join(f"{name}:{_by(ends[end])}" for name, ends in profile["shapes"].items())
            command.append(f"{option}={shapes}")
    return command


def _by(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _check_versions(bundle: Bundle, trtexec: str, version: tuple[int, int, int], runtime_version: str) -> None:
    name = ".".join(map(str, version))
    if tuple(runtime_version.split(".")[:2]) != tuple(map(str, version[:2])):
        raise RunError(
            f"{trtexec} is of TensorRT {name}, but python3's tensorrt is {runtime_version}: an engine runs only with "
            f"the version that built it.\nPut the trtexec of {runtime_version} first in PATH."
        )
    for subject in SUBJECTS:
        opset = bundle.manifest["graphs"][subject]["opset"]
        needed = PARSES_OPSET.get(opset, (99, 0))
        if version[:2] < needed:
            raise RunError(
                f"The {subject} graph has opset {opset}, which needs TensorRT {needed[0]}.{needed[1]} or later; "
                f"installed is {name}.\n"
                "On the machine that made the bundle, export with --opset 20 and bundle again; or give --runtime "
                "onnxruntime."
            )


def _build(bundle: Bundle, subject: str, trtexec: str, version: tuple[int, int, int], device: str) -> Engine:
    engine = bundle.work / f"{subject}.engine"
    record_file = bundle.work / f"{subject}.engine.json"
    partial = bundle.work / f".{subject}.engine.partial"
    command = trtexec_command(bundle, subject, trtexec, version, partial)
    key = _key(bundle, subject, version, device, command)
    record = read_json(record_file) or {}
    if engine.is_file() and record.get("key") == key and record.get("bytes") == engine.stat().st_size:
        print(f"The {subject} engine exists already, built in {record['seconds']:.0f} s.", flush=True)
        return Engine(engine, record["seconds"], record["bytes"], kept=True)
    _check_room(bundle, subject)
    for old in (engine, record_file, partial):
        if old.exists():
            old.unlink()
    print(f"Building the {subject} engine with trtexec; its output goes to work/{subject}.build.log.", flush=True)
    started = time.monotonic()
    _run(command, bundle.work / f"{subject}.build.log", subject)
    seconds = time.monotonic() - started
    if not partial.is_file():
        raise RunError(f"trtexec wrote no {subject} engine: see work/{subject}.build.log.")
    partial.replace(engine)
    write_json(record_file, {"key": key, "seconds": seconds, "bytes": engine.stat().st_size})
    print(f"Built in {seconds:.0f} s: {gigabytes(engine.stat().st_size)}.", flush=True)
    return Engine(engine, seconds, engine.stat().st_size, kept=False)


def _key(
    bundle: Bundle, subject: str, version: tuple[int, int, int], device: str, command: list[str]
) -> dict[str, Any]:
    """Return the key of an engine; an engine with another key is built again."""
    files = {
        name: facts["sha256"] for name, facts in bundle.manifest["files"].items() if name.startswith(subject + "/")
    }
    options = [part for part in command[1:] if not part.startswith(("--onnx=", "--saveEngine=", "--timingCacheFile="))]
    circumstances = json.dumps([files, options], sort_keys=True)
    return {
        "tensorrt": ".".join(map(str, version)),
        "device": device,
        "graph": hashlib.sha256(circumstances.encode()).hexdigest(),
    }


def _check_room(bundle: Bundle, subject: str) -> None:
    weights = bundle.weight_bytes(subject)
    free = free_disk(bundle.work)
    if free < ENGINE_COPIES * weights:
        raise RunError(
            f"The {subject} engine takes up to {gigabytes(ENGINE_COPIES * weights)} of disk space, but "
            f"{gigabytes(free)} are free.\n"
            "Free some disk space."
        )
    memory = available_memory()
    needed = WEIGHT_COPIES * weights
    if memory is not None and memory + free_swap() < needed:
        raise RunError(
            f"Building the {subject} engine holds {WEIGHT_COPIES} copies of {gigabytes(weights)} of weights in "
            f"memory, but {gigabytes(memory + free_swap())} are available.\n"
            "Close other programs (on Jetson the desktop: sudo systemctl isolate multi-user.target), or add swap."
        )


def _run(command: list[str], log: Path, subject: str) -> None:
    with log.open("wb") as stream:
        stream.write(" ".join(command).encode() + b"\n")
        stream.flush()
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in said if "[E]" in line] or said[-1:]
        cause = f"signal {-code}, perhaps out of memory" if code < 0 else f"exit code {code}"
        raise RunError(f"trtexec could not build the {subject} engine ({cause}); see its output in {log}.\n{errors[0]}")
