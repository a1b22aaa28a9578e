"""Tasks of the LM Evaluation Harness, judged by it: its numbers are ours, and those of its own model class."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from amp_export import EvaluateOptions, evaluate
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import read_config
from amp_export.cli import app
from amp_export.errors import RequestError, TaskError
from amp_export.evaluation.decoders import TorchDecoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.harness import Answers, run_harness_task
from amp_export.evaluation.harness_tasks import read_harness_tasks
from amp_export.evaluation.scoring import Metric, TaskResult, run_task
from amp_export.evaluation.tasks import read_task
from amp_export.options import Format
from amp_export.progress import Advance, Silent
from amp_export.reporting.report import Report
from tests.support.harness_tasks import CHOICE, PARTIAL, ROLLING, WRITING, written
from tests.support.questions import CHOICES, CONTEXTS
from tests.support.tiny_models import save_tiny_output

TEXTS = [{"page": f"It is {number} miles to the sea, and longer back. " * (number + 1)} for number in range(4)]


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> tuple[TorchDecoder, Encoder]:
    decoder = TorchDecoder(load_model(tiny_llama, dtype=torch.float32))
    return decoder, Encoder(load_tokenizer(tiny_llama), read_config(tiny_llama)[1])


@pytest.mark.parametrize(("rows", "config"), [(CHOICES, CHOICE), (CONTEXTS, PARTIAL)], ids=["choices", "contexts"])
def test_a_task_gives_the_numbers_of_a_file_with_its_questions(
    rows: Any, config: Any, tmp_path: Path, harness: None, llama: tuple[TorchDecoder, Encoder]
) -> None:
    (task,) = read_harness_tasks([written(tmp_path, "a", rows, config)], limit=6)
    found = run_harness_task(*llama, task)
    ours = run_task(*llama, read_task(tmp_path / "a.jsonl").first(6))
    assert isinstance(found, TaskResult)
    assert found.few_shot == 0
    for name in ("metric", "accuracies", "floor", "log_likelihoods", "correct"):
        assert getattr(found, name) == getattr(ours, name), name


class Asked:
    """A request of the harness."""

    doc_id = 0

    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.mark.filterwarnings("ignore")
def test_answers_are_those_of_the_harness_own_model(
    harness: None, llama: tuple[TorchDecoder, Encoder], tiny_llama: Path
) -> None:
    """Among them are texts longer than what the model takes, and those that it would write by itself."""
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=llama[0].model, tokenizer=load_tokenizer(tiny_llama), batch_size=1)
    ours = Answers(*llama, "a")
    contexts = ["Is 3 even?", "", "It ends in spaces  ", "It is long. " * 40]
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    prompts = ("Is 3 even?", "Say one.\nSay two.", "It is long. " * 40)
    free = ours.generate_until([Asked(prompt, settings) for prompt in prompts])
    assert free == theirs.generate_until([Asked(prompt, settings) for prompt in prompts], disable_tqdm=True)
    end = free[0][4:6]
    stopped = [Asked(prompt, {**settings, "until": ["no such text", end]}) for prompt in prompts]
    texts = ours.generate_until(stopped)
    assert texts == theirs.generate_until(stopped, disable_tqdm=True) == [text.partition(end)[0] for text in free]
    assert len(texts[0]) < len(free[0])
    pairs = [Asked(context, end) for context in contexts for end in (" yes", "no, it is not")]
    pairs.append(Asked("Is 3 even?", free[0]))
    found = ours.loglikelihood(pairs)
    for (value, greedy), (expected, is_greedy) in zip(
        found, theirs.loglikelihood(pairs, disable_tqdm=True), strict=True
    ):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == bool(is_greedy)
    assert [greedy for _, greedy in found] == [False] * 8 + [True]
    rolling = [Asked(row["page"]) for row in TEXTS] + [Asked("It is long. " * 40), Asked("")]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling, disable_tqdm=True), abs=1e-3
    )


PAPER = {
    "piqa": [{"goal": f"Open {n}", "sol1": f"Pull {n}", "sol2": "Push it hard", "label": n % 2} for n in range(6)],
    "hellaswag": [
        {
            "ctx_a": f"He took {n} steps",
            "ctx_b": "and then he",
            "activity_label": "Dancing",
            "endings": ["fell.", "danced on", f"took {n} more [title] steps", "slept"],
            "label": str(n % 4),
        }
        for n in range(6)
    ],
    "winogrande": [
        {"sentence": f"Ann gave Bob {n} as _ had asked.", "option1": "Ann", "option2": "Bob", "answer": str(1 + n % 2)}
        for n in range(6)
    ],
    "arc_easy": [
        {
            "question": f"What is {n} and one?",
            "choices": {"text": [str(n), str(n + 1), "all of it"], "label": ["A", "B", "C"]},
            "answerKey": "ABC"[n % 3],
        }
        for n in range(6)
    ],
    "wikitext": [{"page": f" = Title {n} = \n It is , in @-@ deed , {n} miles . \n" * (n + 1)} for n in range(4)],
}
PAPER["arc_challenge"] = PAPER["arc_easy"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tasks_of_the_paper_have_the_numbers_that_the_harness_reports(
    few_tasks: None, monkeypatch: pytest.MonkeyPatch, llama: tuple[TorchDecoder, Encoder], tiny_llama: Path
) -> None:
    """Their definitions are the harness' own; the questions are made up, in the form of the datasets."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    forms = {"baber/piqa": "piqa", "Rowan/hellaswag": "hellaswag", "allenai/winogrande": "winogrande"}
    forms |= {"allenai/ai2_arc": "arc_easy", "EleutherAI/wikitext_document_level": "wikitext"}

    def load(path: str, name: str | None = None, **_: Any) -> datasets.DatasetDict:
        rows = datasets.Dataset.from_list(PAPER[forms[path]])
        return datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))

    monkeypatch.setattr(datasets, "load_dataset", load)
    theirs = HFLM(pretrained=llama[0].model, tokenizer=load_tokenizer(tiny_llama), batch_size=1)
    names = list(PAPER)
    state = random.getstate()
    for few_shot in (None, 2):
        expected = simple_evaluate(
            model=theirs, tasks=names, num_fewshot=few_shot, bootstrap_iters=10, task_manager=TaskManager()
        )["results"]
        random.setstate(state)
        tasks = read_harness_tasks(names, few_shot=few_shot)
        assert [task.name for task in tasks] == names
        for task in tasks:
            found, reported = run_harness_task(*llama, task), expected[task.name]
            if not isinstance(found, TaskResult):
                assert found.perplexity == pytest.approx(reported["word_perplexity,none"], rel=1e-4)
                assert len(found.words) == len(PAPER[task.name])
                continue
            assert found.few_shot == (few_shot or 0)
            assert found.metric == (Metric.ACC if task.name == "winogrande" else Metric.ACC_NORM)
            for metric, accuracy in found.accuracies.items():
                assert accuracy.value == reported[f"{metric},none"]
                assert accuracy.stderr == pytest.approx(reported[f"{metric}_stderr,none"])
        assert random.getstate() == state, "what follows draws as if the harness had not run"


def test_examples_are_the_same_each_time(tmp_path: Path, harness: None, llama: tuple[TorchDecoder, Encoder]) -> None:
    file = written(tmp_path, "a", CHOICES, CHOICE, fewshot_split="test")
    hashes = set()
    for few_shot in (None, 2, 2, 3):
        (task,) = read_harness_tasks([file], few_shot=few_shot)
        contexts = [each.args[0] for each in task.task.instances]
        assert {context.count("even?") for context in contexts} == {1 + (few_shot or 0)}
        hashes.add(task.asked_sha256)
        if few_shot == 3:
            once, again = (run_harness_task(*llama, task) for _ in range(2))
            assert once == again
            assert once.few_shot == 3
    assert len(hashes) == 3
    kept = written(tmp_path, "b", CHOICES, CHOICE, num_fewshot=0)
    assert read_harness_tasks([kept], few_shot=4)[0].few_shot == 0
    with pytest.raises(TaskError, match=r"a: the harness cannot build its questions: .*\n.*fewer with --few-shot"):
        read_harness_tasks([file], few_shot=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a graph, beside its dense checkpoint, and a task of each kind; not to be changed."""
    folder = tmp_path_factory.mktemp("harness")
    save_tiny_output(folder)
    for name, rows, config in (
        ("choices", CHOICES, CHOICE),
        ("contexts", CONTEXTS, PARTIAL),
        ("pages", TEXTS, ROLLING),
        ("written", CHOICES[:3], WRITING),
    ):
        written(folder, name, rows, config)
    return folder


KINDS = ("choices", "contexts", "pages", "written")


def test_a_graph_is_judged_as_its_checkpoint(made: Path, harness: None) -> None:
    options = EvaluateOptions(tasks=tuple(made / f"{name}.yaml" for name in KINDS), to=Format.ONNX)
    found = evaluate(made / "out", EvaluateOptions(**{**vars(options), "against": str(made / "out")}))
    graph, checkpoint = found.model, found.against
    assert checkpoint is not None
    for name in ("choices", "contexts"):
        for ours, theirs in zip(graph.tasks[name].log_likelihoods, checkpoint.tasks[name].log_likelihoods, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    assert graph.tasks["written"] == checkpoint.tasks["written"]
    pages, expected = graph.word_perplexities["pages"], checkpoint.word_perplexities["pages"]
    assert pages.losses == pytest.approx(expected.losses, rel=1e-4)
    assert pages.words == tuple(len(row["page"].split()) + 1 for row in TEXTS), "the end of a page counts as a word"
    assert found.differences.word_perplexities["pages"].ratio == pytest.approx(1, rel=1e-3)


class Stopping(Silent):
    """Is interrupted at a step."""

    def __init__(self, at: str | None) -> None:
        self.at = at

    def step(self, description: str) -> Any:
        if self.at is not None and self.at in description:
            raise KeyboardInterrupt
        return super().step(description)


def test_an_output_is_compared_and_its_report_has_the_numbers(made: Path, harness: None, tmp_path: Path) -> None:
    output = Path(shutil.copytree(made / "out", tmp_path / "out"))
    names = [option for name in KINDS for option in ("--tasks", str(made / f"{name}.yaml"))]
    arguments = ["evaluate", str(output), *names, "--limit", "5"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "180"})
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    shown = " ".join(result.stderr.split())
    assert "it/s" not in shown, "bars of other libraries are not shown"
    for words in (
        "Reading tasks of the LM Evaluation Harness",
        "choices, acc_norm, 5 questions",
        "contexts, acc, 5 questions",
        "written, exact_match, 3 questions",
        "pages, perplexity per word, 4 documents",
        "Average of the tasks",
    ):
        assert words in shown
    (stored,) = (Report.load(output).evaluations or {}).values()
    assert set(stored.files) == set(KINDS)
    assert stored.model.tasks["written"].floor is None
    assert stored.model.tasks["contexts"].floor == 1
    assert stored.model.word_perplexities["pages"].documents == 4
    assert set(stored.packages) >= {"lm-eval", "torch"}
    assert stored.differences.word_perplexities["pages"].ratio > 0
    tables = CliRunner().invoke(app, ["report", str(output)], env={"COLUMNS": "180"})
    assert "pages, perplexity per word, 4 documents" in tables.stderr


def test_tasks_that_were_finished_are_not_repeated(made: Path, harness: None, tmp_path: Path) -> None:
    output = Path(shutil.copytree(made / "out", tmp_path / "out"))
    options = EvaluateOptions(tasks=(made / "choices.yaml", made / "pages.yaml"))
    expected = evaluate(output, options)
    with pytest.raises(KeyboardInterrupt):
        evaluate(output, options, progress=Stopping("pages with tiny"))
    with pytest.MonkeyPatch.context() as patch:
        asked: list[str] = []
        run = run_harness_task

        def counted(*given: Any, on_progress: Advance | None = None) -> Any:
            asked.append(given[2].name)
            return run(*given, on_progress=on_progress)

        patch.setattr("amp_export.evaluation.measuring.run_harness_task", counted)
        assert evaluate(output, options, resume=True) == expected
    assert asked == ["pages"]


def test_an_answer_that_is_read_in_several_ways_counts_once(
    tmp_path: Path, harness: None, llama: tuple[TorchDecoder, Encoder]
) -> None:
    """By the first way, which is the one that a task's authors report."""
    keep = [{"function": "take_first"}]
    none = [{"function": "regex", "regex_pattern": "(no such text)", "fallback": "nothing"}, *keep]
    found = []
    for ways in (("keep", "none"), ("none", "keep")):
        filters = [{"name": name, "filter": keep if name == "keep" else none} for name in ways]
        config = {**WRITING, "doc_to_target": "nothing", "filter_list": filters}
        (task,) = read_harness_tasks([written(tmp_path, "a", CHOICES[:3], config)])
        found.append(run_harness_task(*llama, task))
    assert [each.correct for each in found] == [(False,) * 3, (True,) * 3]
    assert [each.accuracy.count for each in found] == [3, 3]


def test_a_task_that_draws_gets_the_same_numbers_each_time(
    tmp_path: Path, harness: None, llama: tuple[TorchDecoder, Encoder]
) -> None:
    (tmp_path / "drawing.py").write_text(
        "import random\nimport numpy\n\n\ndef give(doc, results):\n"
        "    return {'acc': (random.random() + numpy.random.rand()) / 2}\n"
    )
    file = written(tmp_path, "a", CHOICES, {**CHOICE, "metric_list": [{"metric": "acc", "aggregation": "mean"}]})
    file.write_text(file.read_text()[:-1] + ", process_results: !function drawing.give}")
    (task,) = read_harness_tasks([file])
    found = []
    for seed in (1, 2):
        # tasks draw from the global generators
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        found.append(run_harness_task(*llama, task))
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    once, again = found
    assert once == again
    assert len(set(once.correct)) == len(CHOICES)


def test_points_between_none_and_all_are_compared(made: Path, harness: None, tmp_path: Path) -> None:
    """A task may give points for an answer, as TruthfulQA does for the share of probability on true ones."""
    (tmp_path / "points.py").write_text("def give(doc, results):\n    return {'acc': doc['answer'] / 4 + 0.25}\n")
    config = json.dumps({**CHOICE, "metric_list": [{"metric": "acc", "aggregation": "mean"}]})
    file = written(tmp_path, "a", CHOICES, json.loads(config))
    # a function is a tag of YAML, which JSON cannot hold
    file.write_text(file.read_text()[:-1] + ", process_results: !function points.give}")
    found = evaluate(made / "checkpoint", EvaluateOptions(tasks=(file,), against=str(made / "out")))
    assert set(found.model.tasks["a"].correct) == {0.25, 0.5}
    assert found.model.tasks["a"].floor is None
    difference = found.differences.tasks["a"]
    assert (difference.difference.value, difference.gained, difference.lost) == (0.0, 0, 0)


def test_without_a_network_the_dataset_is_named(few_tasks: None, made: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(made / "checkpoint"), "--tasks", "piqa"])
    assert result.exit_code == 2
    assert "--tasks piqa: the dataset baber/piqa cannot be read: " in result.stderr
    assert "Traceback" not in result.output


def test_a_file_and_a_task_of_one_name_are_refused(made: Path, harness: None) -> None:
    options = EvaluateOptions(tasks=(made / "choices.jsonl", made / "choices.yaml"))
    with pytest.raises(RequestError, match=r"names two tasks choices: .*\nRename the file"):
        evaluate(made / "checkpoint", options)


def test_a_task_that_keeps_its_examples_says_so(made: Path, harness: None) -> None:
    options = EvaluateOptions(tasks=(made / "pages.yaml",), few_shot=3)
    assert evaluate(made / "checkpoint", options).notes == (
        "pages has 0 examples before each question, not 3: it takes no others.",
    )


def test_examples_are_refused_for_files(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(CHOICES[0]))
    (tmp_path / "a.txt").write_text("It is a long way.")
    for tasks, said in (((tmp_path / "a.jsonl", "piqa"), r"a\.jsonl is a file"), ((), "--tasks names none")):
        with pytest.raises(RequestError, match=f"--few-shot is for tasks of the LM Evaluation Harness; .*{said}"):
            evaluate(tiny_llama, EvaluateOptions(tasks=tasks, perplexity=tmp_path / "a.txt", few_shot=1))
