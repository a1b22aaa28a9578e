"""The script `ci/bench/gpu.py`, rehearsed on a CPU: its steps, their rows and limits, and the page."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROJECT

BATCHES, PROMPTS = (1, 2), (5,)


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Any:
    sys.path.insert(0, str(PROJECT / "ci"))
    yield
    sys.path.remove(str(PROJECT / "ci"))


def load(name: str) -> Any:
    return importlib.import_module(f"bench.{name}")


@pytest.fixture(scope="module")
def rehearsal(scripts: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns what the steps have in common, with the models of the smallest shape."""
    del scripts
    work = tmp_path_factory.mktemp("gpu")
    task = load("gpu").Task("cpu", work, work / "rows.jsonl", BATCHES, PROMPTS, 0.0)
    (described,) = do("models tiny", task)
    assert "of the parameters removed" in described.value
    return task


def do(step: str, task: Any) -> list[Any]:
    return list(load("gpu").run_step(step, task))


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime, CUDA graph", "pytorch"])
def test_both_models_are_timed_for_each_workload(rehearsal: Any, runtime: str) -> None:
    rows = do(f"time tiny: {runtime}", rehearsal)
    expected = [(batch, prompt, phase) for prompt in PROMPTS for batch in BATCHES for phase in ("prefill", "decode")]
    assert [(row.batch, row.prompt, row.phase) for row in rows] == expected
    for row in rows:
        assert (row.first, row.second, row.runtime, row.rounds) == ("dense", "pruned", runtime, 3)
        assert min(row.milliseconds) > 0
        # about a third of the parameters is removed; the embeddings are not read
        assert row.allowed is None if row.phase == "prefill" else 1.3 < row.allowed < 1.7


@pytest.mark.slow
def test_the_graph_of_the_builder_is_replayed_too(rehearsal: Any) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    rows = do("time tiny: against the builder", rehearsal)
    assert {(row.first, row.second, row.runtime) for row in rows} == {("builder", "dense", "onnxruntime, CUDA graph")}
    name, found, _ = next(load("on_gpu.page")._judge(rows))
    assert "the builder's" in name
    assert float(found) > 0


def test_replayed_steps_and_what_reports_say_are_checked(rehearsal: Any) -> None:
    replayed = do("replay", rehearsal)
    assert len(replayed) == 6
    assert all(row.holds for row in replayed), replayed
    _, *unknown, logits = do("describe", rehearsal)
    assert [(row.name, row.holds, row.found) for row in unknown] == [
        (name, None, "no GPU") for name in ("memory", "bandwidth", "clocks")
    ]
    assert (logits.holds, logits.found) == (True, "they are on cpu")


@pytest.mark.slow
def test_parity_is_checked_of_both_models_in_both_dialects(rehearsal: Any) -> None:
    rows = do("parity float32", rehearsal)
    assert [row.name.split(": ")[1] for row in rows] == [
        f"float32, {model}, {operators}" for model in ("dense", "pruned") for operators in ("standard", "onnxruntime")
    ]
    assert all(row.holds for row in rows), rows


def test_steps_stop_when_the_time_is_over_and_their_rows_stay(
    rehearsal: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu, rows = load("gpu"), load("on_gpu.rows")
    task = replace(rehearsal, rows=tmp_path / "rows.jsonl")
    now = [0.0]
    limits = []

    def run_apart(arguments: Any, limit: float) -> str:
        limits.append(limit)
        rows.write_row(task.rows, rows.Fact("done", arguments[-1]))
        now[0] += 70
        return "" if len(limits) == 1 else f"it was ended after {limit:.0f} s"

    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu, "_run_apart", run_apart)
    steps = ["time tiny: onnxruntime", "time tiny: pytorch", "parity float32"]
    gpu.supervise(steps, task, ["--device", "cpu"], time_limit=100)
    assert limits == [75, 30]
    with task.rows.open("a") as lines:
        lines.write('{"kind": "Fact", "na')  # the process was ended here
    found = rows.read_rows(task.rows)
    assert [row.value for row in found if isinstance(row, rows.Fact)] == steps[:2]
    problems = {row.step: row.problem for row in found if isinstance(row, rows.Done)}
    assert problems == dict(zip(steps, ("", "it was ended after 30 s", "the time was over"), strict=True))
    page = load("on_gpu.page").write_page(found)
    assert "- parity float32: the time was over" in page


def test_a_rehearsal_says_so_and_the_page_can_be_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu, page, rows = load("gpu"), tmp_path / "gpu.md", tmp_path / "gpu.jsonl"
    done: list[str] = []

    def run_apart(arguments: list[str], limit: float) -> str:
        assert limit > 0
        done.append(arguments[-1])
        return ""

    monkeypatch.setattr(gpu, "_run_apart", run_apart)
    command = ["gpu.py", "--device", "cpu", "--shape", "tiny", "--rows", str(rows), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", [*command, "--only", "parity"])
    gpu.main()
    assert done == ["models tiny", "parity float16", "parity bfloat16", "parity float32"]
    written = page.read_text()
    assert "- GPU: none: this rehearses the script" in written
    page.unlink()
    monkeypatch.setattr(sys, "argv", [*command, "--from-rows"])
    gpu.main()
    assert page.read_text() == written
    assert len(done) == 4


def test_a_step_that_fails_says_why(rehearsal: Any) -> None:
    gpu = load("gpu")
    places = ["--device", "cpu", "--work", str(rehearsal.work / "nothing"), "--rows", str(rehearsal.rows)]
    assert "nothing" in gpu._run_apart([*places, "--step", "time tiny: onnxruntime"], 120)
    assert gpu._run_apart(["--help"], 0.001) == "it was ended after 0 s"


def test_every_shape_and_runtime_has_a_step_and_what_matters_most_is_first() -> None:
    gpu = load("gpu")
    steps = list(gpu.list_steps(["1b", "7b"]))
    assert len(steps) == len(set(steps))
    assert {step for step in steps if step.startswith("time")} == {
        f"time {shape}: {runtime}" for shape in ("1b", "7b") for runtime in gpu.RUNTIMES
    }
    assert {step for step in steps if step.startswith("parity")} == {
        f"parity {dtype}" for dtype in ("float16", "bfloat16", "float32")
    }
    for shape in ("1b", "7b"):
        assert steps.index(f"models {shape}") < min(steps.index(f"time {shape}: {each}") for each in gpu.RUNTIMES)
    assert steps.index("time 1b: onnxruntime, CUDA graph") < steps.index("time 7b: onnxruntime, CUDA graph")
    assert {step.split()[0] for step in steps} <= gpu.LIMITS.keys()


@pytest.mark.parametrize(("decode", "verdict"), [((2.0, 2.08), "holds"), ((2.0, 2.2), "**fails**")])
def test_targets_are_judged_by_the_worst_row(decode: tuple[float, float], verdict: str) -> None:
    rows, page = load("on_gpu.rows"), load("on_gpu.page")
    names = "1b", "onnxruntime, CUDA graph", "builder", "dense"
    good = rows.Times(*names, 1, 256, "decode", (2.0, 1.9), 1.05, (1.0, 1.1), 3)
    times = [good, replace(good, batch=8, milliseconds=decode), replace(good, phase="prefill", milliseconds=(1, 9))]
    pruned = replace(good, first="dense", second="pruned", speedup=1.35, allowed=1.5)
    others = replace(pruned, batch=32, speedup=1.0), replace(pruned, runtime="onnxruntime", speedup=1.0)
    text = page.write_page([*times, pruned, *others])
    builder, realised = (line.split(" | ")[1:] for line in text.splitlines() if line.startswith(("| a ", "| at ")))
    assert builder == [f"{decode[1] / decode[0]:.2f}", f"{verdict} |"]
    assert realised == ["0.90", "holds |"]
    assert "90% |" in text
