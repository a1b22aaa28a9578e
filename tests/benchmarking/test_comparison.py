from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from amp_export.architectures import parameter_count
from amp_export.benchmarking import rounds as benchmark_rounds
from amp_export.benchmarking.comparison import benchmark_models
from amp_export.benchmarking.processes import start_worker
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.roofline import step_bytes, weight_bytes_per_token
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.statistics import Conclusion
from amp_export.benchmarking.timing import Round, draw_inputs
from amp_export.benchmarking.workloads import Sweep, Workload
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.documents import convert
from amp_export.errors import AmpExportError, ModelError, RequestError
from amp_export.exporters.onnx import export
from amp_export.hardware import machine
from amp_export.options import Dtype, Provider, Runtime
from tests.support import PROJECT
from tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

TASK = Round(Workload(batch_size=2, prompt_tokens=8, decode_tokens=3), vocab_size=101, seed=0)
ONE = Setup(threads=1)
ONE_ROUND = Sampling(rounds=1, launches=1)


def export_tiny(folder: Path, **overrides: object) -> Path:
    checkpoint = open_checkpoint(save_tiny_model(folder / "checkpoint", "llama", **overrides))
    return export(checkpoint, folder / "onnx").folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("pruned"), intermediate_size=16)


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        benchmark_rounds, "read_bandwidth", lambda threads: machine.read_bandwidth(threads, buffer_bytes=1 << 20)
    )


def test_two_graphs_are_compared(dense: Path, pruned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    progress: list[tuple[int, int]] = []
    capfd.readouterr()
    report = benchmark_models(
        dense,
        pruned,
        setup=ONE,
        sweep=Sweep((1, 3), (8,), (4,)),
        sampling=Sampling(rounds=3, launches=2),
        on_progress=lambda *done: progress.append(done),
    )
    assert capfd.readouterr() == ("", "")
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for timing in (report.phases["prefill"].dense, report.phases["prefill"].pruned):
        assert [len(samples) for samples in timing.samples] == [1] * 4
    for timing in (report.phases["decode"].dense, report.phases["decode"].pruned):
        assert [len(samples) for samples in timing.samples] == [4] * 4
        assert min(sample for samples in timing.samples for sample in samples) > 0
    assert report.dense.bytes_on_disk > report.pruned.bytes_on_disk
    assert (report.rounds, report.launches, report.threads) == (4, 2, 1)
    assert (report.prompt_tokens, report.decode_tokens) == (8, 4)
    assert report.runtime.startswith("ONNX Runtime 1.")
    assert report.dense.peak_memory_bytes > 10e6
    for subject, phase in (
        (report.dense, report.phases["decode"].dense),
        (report.pruned, report.phases["decode"].pruned),
    ):
        read = phase.median * report.bandwidth_bytes_per_second * subject.bandwidth_share
        assert read == pytest.approx(subject.weight_bytes_per_token + subject.cache_bytes_per_token)
    assert [(point.batch_size, point.prompt_tokens) for point in report.sweep] == [(3, 8)]
    assert report.sweep[0].phases["decode"].dense.tokens_per_second == pytest.approx(
        3 / report.sweep[0].phases["decode"].dense.median
    )
    content = json.loads(json.dumps(asdict(report)))
    assert content["phases"]["decode"]["conclusion"] in list(Conclusion)
    assert repr(convert(content, BenchmarkReport, source="report")) == repr(report), "enumerations are no strings"


@pytest.mark.parametrize(
    ("model_type", "overrides", "expected"),
    [
        ("llama", {}, (112, 16)),
        ("bert", {}, (128, 0)),
        ("roberta", {"pad_token_id": 1}, (126, 0)),
        ("vit", {}, (0, 0)),
        ("t5", {}, (128, 16)),
        ("whisper", {}, (0, 16)),
    ],
)
def test_a_round_reads_and_writes_what_the_model_does(
    model_type: str, overrides: dict[str, int], expected: tuple[int, int], tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, **overrides)
    (folder / "model.onnx").touch()
    (workload,) = Sweep().workloads([read_config(folder)[1]])
    assert (workload.prompt_tokens, workload.decode_tokens) == expected


def test_what_is_written_must_fit_too(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "whisper", max_position_embeddings=16)
    (folder / "model.onnx").touch()
    with pytest.raises(RequestError, match="do not fit into a context of 16"):
        Sweep().workloads([read_config(folder)[1]])


def test_an_encoder_generates_nothing(tmp_path: Path) -> None:
    config = read_config(save_tiny_model(tmp_path / "checkpoint", "bert"))[1]
    with pytest.raises(RequestError, match="--generate does not apply"):
        Sweep(decode_lengths=(8,)).workloads([config])


def test_inputs_are_drawn_in_the_shapes_that_a_graph_takes() -> None:
    tokens = ("batch_size", "sequence_length")
    drawn = draw_inputs({"input_ids": tokens, "attention_mask": tokens, "token_type_ids": tokens}, TASK)
    assert {name: array.shape for name, array in drawn.items()} == dict.fromkeys(drawn, (2, 8))
    assert drawn["attention_mask"].all()
    assert not drawn["token_type_ids"].any()
    assert draw_inputs({"pixel_values": ("batch_size", 3, 4, 5)}, TASK)["pixel_values"].shape == (2, 3, 4, 5)
    raw = draw_inputs({"input_values": tokens, "attention_mask": tokens}, TASK)
    assert [array.shape for array in raw.values()] == [(2, 160_000), (2, 160_000)]
    assert raw["attention_mask"].all()
    patches = ("batch_size", "num_patches")
    axes = {"pixel_values": (*patches, 48), "pixel_attention_mask": patches, "spatial_shapes": ("batch_size", 2)}
    rows = draw_inputs(axes, TASK)
    assert {name: array.shape for name, array in rows.items()} == {
        "pixel_values": (2, 256, 48),
        "pixel_attention_mask": (2, 256),
        "spatial_shapes": (2, 2),
    }
    assert rows["pixel_attention_mask"].all()
    assert (rows["spatial_shapes"] == 16).all()


def test_prompt_is_cut_to_the_context(dense: Path, pruned: Path) -> None:
    report = benchmark_models(dense, pruned, setup=ONE, sweep=Sweep(decode_lengths=(2,)), sampling=ONE_ROUND)
    assert report.prompt_tokens == 126


def test_works_from_a_script_without_a_main_guard(dense: Path, pruned: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
        "from pathlib import Path\nfrom amp_export.benchmarking.processes import start_worker\n"
        "from amp_export.benchmarking.runners import Setup\n"
        f"with start_worker(Path({str(dense)!r}), Setup(threads=1)) as worker:\n    print(worker.ready.threads)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr) == ("1\n", "")


@pytest.mark.parametrize("tied", [True, False])
def test_weights_read_for_a_token_leave_out_what_is_only_looked_up(tied: bool, tmp_path: Path) -> None:
    folder = export_tiny(tmp_path, tie_word_embeddings=tied)
    config = open_checkpoint(tmp_path / "checkpoint").config
    looked_up = 0 if tied else config.vocab_size * config.hidden_size
    found = weight_bytes_per_token(folder / "model.onnx")
    constants = found - 4 * (parameter_count(config) - looked_up)
    assert 0 <= constants < 1024


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (Sweep(batch_sizes=(0,)), "at least one"),
        (Sweep(prompt_lengths=(0,)), "at least one"),
        (Sweep(prompt_lengths=()), "at least one"),
        (Sweep(decode_lengths=(0,)), "at least one"),
        (Sweep(decode_lengths=(128,)), "do not fit into a context of 128"),
        (Sweep(prompt_lengths=(8, 120)), "The longest that does has 112"),
    ],
)
def test_what_cannot_be_measured_is_refused(sweep: Sweep, message: str, dense: Path, pruned: Path) -> None:
    with pytest.raises(RequestError, match=message):
        benchmark_models(dense, pruned, sweep=sweep)


def as_openvino(graph: Path) -> Path:
    pytest.importorskip("openvino", reason="openvino is not installed")
    from amp_export.exporters import openvino

    return openvino.export(graph, graph.parent / "openvino").folder


@pytest.mark.parametrize("runtime", [Runtime.GENAI, Runtime.OPENVINO, Runtime.PYTORCH])
def test_other_runtimes_run_the_same_workloads(runtime: Runtime, dense: Path, pruned: Path) -> None:
    folders = [dense, pruned]
    if runtime is Runtime.OPENVINO:
        folders = [as_openvino(folder) for folder in folders]
    elif runtime is Runtime.PYTORCH:
        folders = [folder.parent / "checkpoint" for folder in folders]
    report = benchmark_models(
        *folders, setup=Setup(runtime, threads=1), sweep=Sweep((2,), (8,), (3,)), sampling=ONE_ROUND
    )
    assert report.name == runtime
    assert [len(samples) for samples in report.phases["decode"].pruned.samples] == [3]
    assert report.roofline is not None
    assert report.roofline.allowed_gain > 1


def test_folder_without_a_graph_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        benchmark_models(dense, tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        benchmark_models(dense, tmp_path)


def test_graph_that_does_not_load_is_refused_with_the_reason(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((dense / "config.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        benchmark_models(dense, tmp_path)


def test_worker_that_is_killed_gives_an_error_that_names_the_signal(dense: Path) -> None:
    with start_worker(dense, ONE) as worker:
        worker.time(TASK)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(AmpExportError, match=r"died \(SIGKILL\)(?s:.)*run out of memory") as caught:
            worker.time(TASK)
    assert str(dense) in str(caught.value)


def test_worker_that_dies_during_a_round_is_no_hang(dense: Path) -> None:
    with start_worker(dense, ONE) as worker:
        os.kill(worker._process.pid, signal.SIGSTOP)
        threading.Timer(0.1, worker._process.kill).start()
        with pytest.raises(AmpExportError, match=r"died \(SIGKILL\)"):
            worker.time(TASK)


def test_worker_that_fails_says_its_last_words(dense: Path) -> None:
    with (
        pytest.raises(AmpExportError, match=r"(?s)died \(exit code 1\).*out of data bounds"),
        start_worker(dense, ONE) as worker,
    ):
        worker.time(Round(TASK.workload, vocab_size=10**6, seed=0))


def test_idle_worker_takes_no_processor_time(dense: Path) -> None:
    def processor_seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with start_worker(dense, Setup(threads=2)) as worker:
        worker.time(TASK)
        time.sleep(0.1)
        before = processor_seconds(worker._process.pid)
        time.sleep(0.5)
        assert processor_seconds(worker._process.pid) - before <= 0.05


def test_no_process_is_left(dense: Path) -> None:
    with start_worker(dense, ONE) as worker:
        process = worker._process
        assert process.poll() is None
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("setup", "on_gpu", "name"),
    [
        (Setup(), False, "onnxruntime"),
        (Setup(provider=Provider.CUDA), True, "onnxruntime-cuda"),
        (Setup(Runtime.TENSORRT), True, "tensorrt"),
        (Setup(Runtime.PYTORCH), False, "pytorch"),
        (Setup(Runtime.PYTORCH, gpu=True), True, "pytorch-cuda"),
    ],
)
def test_runtime_and_provider_say_whether_a_gpu_computes(setup: Setup, on_gpu: bool, name: str) -> None:
    assert (setup.on_gpu, setup.name) == (on_gpu, name)


def test_weights_are_counted_once_for_all_workloads(dense: Path) -> None:
    graph = dense / "model.onnx"
    works = [Workload(1, 8, 4), Workload(3, 8, 4), Workload(3, 18, 4)]
    one, three, longer = step_bytes(dense, works, dtype=Dtype.FLOAT32, graph=graph)
    assert one is not None
    assert three is not None
    assert longer is not None
    assert {each.weights for each in (one, three, longer)} == {weight_bytes_per_token(graph)}
    # the past in the middle of what is written: 8 and 2 tokens, 18 and 2
    assert (three.cache, longer.cache) == (3 * one.cache, 6 * one.cache)
