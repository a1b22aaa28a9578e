"""What the tests share: quiet libraries and small checkpoints with a tokenizer."""

from __future__ import annotations

import functools
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# tests run side by side, and tiny models gain nothing from threads: set before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from filelock import FileLock
from hypothesis import settings

from amp_export.benchmarking import sampling
from amp_export.pruning import reload_check as proving
from amp_export.reporting import files
from tests.support.reload_server import ReloadServer
from tests.support.shared import OVERRIDES, Bundled, Converted, shared_folder
from tests.support.tiny_models import save_tiny_model, save_tiny_output, save_tiny_samples, save_tiny_tokenizer

# how long an example takes says nothing where tests run side by side
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders tests for two processes: what takes long comes first, and what waits for a shared result comes last."""

    def turn(item: pytest.Item) -> int:
        if item.get_closest_marker("slow") is not None:
            return 0
        shares = not {"converted", "bundled"}.isdisjoint(getattr(item, "fixturenames", ()))
        return 1 + shares

    items.sort(key=turn)


def pytest_collection_finish() -> None:
    """Lets the garbage collector look for cycles less often, and not among the libraries that stay anyway.

    Tracing makes so many objects that it took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


RUN_PROBE = proving.run_probe
TO_HTML = files.to_html


@pytest.fixture(scope="session", autouse=True)
def reload_server() -> Iterator[None]:
    """Lets one process prove all reloads of this one, since importing transformers takes most of a proof."""
    with ReloadServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(proving, "run_probe", server.run_probe)
        yield


@pytest.fixture(autouse=True)
def few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts the processes of benchmarks twice: times of tiny models are noise that more launches do not resolve."""
    monkeypatch.setattr(sampling, "PILOT_LAUNCHES", 2)
    monkeypatch.setattr(sampling, "MOST_LAUNCHES", 2)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the page of a report empty: drawing it takes as long as pruning a tiny model."""
    monkeypatch.setattr(files, "to_html", lambda *_: "a page")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    """Writes pages as users get them."""
    monkeypatch.setattr(files, "to_html", TO_HTML)


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each proof a process of its own, as users get it."""
    monkeypatch.setattr(proving, "run_probe", RUN_PROBE)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grouped-query Llama with a tokenizer; nothing may change it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("llama") / "checkpoint", "llama")
    save_tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def shallow_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one layer, for what takes longer with each; nothing may change it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("llama") / "checkpoint", "llama", num_hidden_layers=1)
    save_tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Converted]:
    """Takes a tiny model of a family the whole way, once for all tests; nothing may change what it wrote."""
    from typer.testing import CliRunner

    from amp_export.benchmarking import rounds as benchmark_rounds
    from amp_export.cli import app
    from amp_export.hardware import machine

    shared = shared_folder(tmp_path_factory)

    def write(folder: Path, model_type: str) -> None:
        overrides = {"num_hidden_layers": 1, **OVERRIDES.get(model_type, {})}
        checkpoint = save_tiny_model(folder / "checkpoint", model_type, **overrides)
        command = ["--to", "onnx", "--model", checkpoint, "--ratio", "0.1", "--snap", "1", "--one-width"]
        # starting processes takes most of a tiny model's benchmark
        command += ["--threads", "1", "--rounds", "2", "--time-limit", "0"]
        command += ["--calibration", save_tiny_samples(checkpoint), "--output", folder / "out", "--json"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(benchmark_rounds, "read_bandwidth", lambda _: machine.read_bandwidth(1, buffer_bytes=1 << 20))
            patch.setattr(files, "to_html", TO_HTML)
            result = CliRunner().invoke(app, [str(part) for part in command])
        assert result.exit_code == 0, result.stderr
        (folder / "stderr").write_text(result.stderr)
        (folder / "stdout").write_text(result.stdout)

    @functools.cache
    def convert(model_type: str) -> Converted:
        folder = shared / f"converted-{model_type}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "stdout").is_file():
                write(folder, model_type)
        report = json.loads((folder / "stdout").read_text())
        return Converted(folder / "checkpoint", folder / "out", report, (folder / "stderr").read_text())

    return convert


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Bundled:
    """A bundle of a tiny Llama; nothing may change what it wrote."""
    from typer.testing import CliRunner

    from amp_export.cli import app

    folder = shared_folder(tmp_path_factory) / "bundled"
    with FileLock(f"{folder}.lock"):
        if not (folder / "stderr").is_file():
            result = CliRunner().invoke(app, ["bundle", str(save_tiny_output(folder)), "--max-batch", "3"])
            assert result.exit_code == 0, result.stderr
            (folder / "stderr").write_text(result.stderr)
    return Bundled(folder / "out", folder / "out/bundle-cpu.tar.gz", (folder / "stderr").read_text())
