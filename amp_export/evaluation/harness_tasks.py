"""Tasks of the LM Evaluation Harness: which there are, what they ask, and which of them can be measured here."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import random
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amp_export.checkpoints.quiet import quiet_harness
from amp_export.errors import TaskError, first_line
from amp_export.evaluation.scoring import Metric
from amp_export.extras import require_extra

WORD_PERPLEXITY = "word_perplexity"
"""The harness' name of the perplexity per word."""

PACKAGE = "lm_eval"

_YAML = (".yaml", ".yml")

_FILES = (".jsonl", ".json", ".txt", ".csv", ".tsv")
"""Endings of what is meant as a file, whether it exists or not; names of the harness' tasks have none of them."""


@dataclass(frozen=True)
class HarnessTask:
    """A task of the harness, with its questions.

    Attributes:
        name: Its name.
        task: The harness' object.
        few_shot: Number of examples before each question.
        metrics: The accuracies that it reports, the first of which counts; empty if it measures perplexity.
        asked_sha256: Hash of its questions, examples and answers.
        limit: How many questions are taken, from the first on; None for all.
    """

    name: str
    task: Any
    few_shot: int
    metrics: tuple[Metric, ...]
    asked_sha256: str
    limit: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """All that its result depends on besides the model."""
        return {"task": self.name, "asked": self.asked_sha256, "lm-eval": version(PACKAGE)}


def is_of_harness(task: str | Path) -> bool:
    """Return whether what `--tasks` names is a task of the harness, or its `.yaml` file, rather than questions."""
    path = Path(task)
    if path.suffix.lower() in _YAML:
        return True
    return not (path.suffix.lower() in _FILES or os.sep in str(task) or path.is_file())


def read_harness_tasks(
    names: Sequence[str | Path], *, few_shot: int | None = None, limit: int | None = None
) -> tuple[HarnessTask, ...]:
    """Read tasks with their questions, which may download datasets.

    Args:
        names: Names of tasks, groups or tags of the harness, or `.yaml` files; of groups and tags, each task is read.
        few_shot: Number of examples before each question; by default what the task says, or none. As in the harness,
            a task that says none keeps none.
        limit: How many questions of each to take, from the first on; by default all.

    Raises:
        TaskError: There is no such task, its dataset or its file cannot be read, or it cannot be measured here.
        MissingExtraError: The harness is not installed.
    """
    if not names:
        return ()
    require_extra(PACKAGE, "evaluate", needed_for=f"--tasks {names[0]}")
    from lm_eval.tasks import TaskManager

    with quiet_harness():
        # reading its many thousand names takes seconds
        manager = TaskManager(include_defaults=any(map(_needs_names, names)))
        found = {name: task for given in dict.fromkeys(map(str, names)) for name, task in _load(manager, given).items()}
        return tuple(_prepare(name, task, few_shot, limit) for name, task in found.items())


@contextmanager
def seeded() -> Iterator[None]:
    """Give the code of tasks the harness' random numbers, and the rest of this process its own.

    Source: `simple_evaluate` in evaluator.py of lm-eval 0.4.13.
    """
    import numpy as np
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    # tasks draw from the global generators
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002


def draw_examples_anew(task: Any) -> None:
    """Let a task draw the same examples as before; to be called before its questions are built."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _needs_names(task: str | Path) -> bool:
    """Return whether reading a task takes the names of others: it is one of them, or a file with a group of them."""
    path = Path(task).expanduser()
    if path.suffix.lower() not in _YAML:
        return True
    return path.is_file() and re.search(rb"""^[\s{"']*group["']?\s*:""", path.read_bytes(), re.MULTILINE) is not None


def _load(manager: Any, name: str) -> dict[str, Any]:
    """Return the harness' tasks of a name or a file, by their names."""
    is_file = Path(name).suffix.lower() in _YAML
    if is_file and not Path(name).expanduser().is_file():
        raise TaskError(f"{name} does not exist.\nName a .yaml file of a task of the LM Evaluation Harness.")
    if not is_file and name not in manager.task_index:
        raise _unknown(name, manager.all_tasks)
    try:
        with seeded():
            tasks: dict[str, Any] = manager.load(name)["tasks"]
    except Exception as error:  # the hub, the disk, and the code of tasks can fail in any way
        raise _unreadable(name, manager, error) from error
    return tasks


def _unknown(name: str, known: Sequence[str]) -> TaskError:
    similar = difflib.get_close_matches(name, known, n=5)
    names = f"Similar names: {', '.join(similar)}" if similar else "`lm-eval ls tasks` lists the names"
    return TaskError(
        f"--tasks {name}: there is no such file, and no such task in lm-eval {version(PACKAGE)}.\n{names}. A file of "
        "questions ends in .jsonl, a task file of the harness in .yaml."
    )


def _unreadable(name: str, manager: Any, error: Exception) -> TaskError:
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    if not any(module.partition(".")[0] == "datasets" for module in frames):
        return TaskError(
            f"--tasks {name}: the harness cannot read this task: {type(error).__name__}: {first_line(error)}\n"
            "Correct the file, or install what the task needs."
        )
    return TaskError(
        f"--tasks {name}: {_dataset(name, manager)} cannot be read: {first_line(error)}\nConnect to the network; or, "
        "if it was read here before, set HF_DATASETS_OFFLINE=1 to take it from the cache; or give local questions: "
        "--tasks FILE.jsonl, or FILE.yaml with `dataset_path: json` and `data_files`, which are found from the working "
        "directory."
    )


def _dataset(name: str, manager: Any) -> str:
    """Return the dataset of a task in words."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index.get(name)
    config = load_yaml(name, resolve_func=False) if entry is None else entry.cfg or {}
    named = [str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key) is not None]
    return f"the dataset {', '.join(named)}" if named else "one of its datasets"


def _prepare(name: str, task: Any, few_shot: int | None, limit: int | None) -> HarnessTask:
    """Build a task's questions, so that what is wrong with them is known before a model is loaded."""
    metrics = _metrics(name, task)
    _refuse_unfit(name, task)
    asked = task.get_config("num_fewshot")
    # a text whose every token is scored has no room for examples
    if not metrics:
        task.set_config(key="num_fewshot", value=0)
    elif asked is None or (few_shot is not None and asked != 0):
        task.set_config(key="num_fewshot", value=few_shot or 0)
    draw_examples_anew(task)
    try:
        with seeded():
            task.build_all_requests(limit=limit)
    except Exception as error:  # see above
        raise TaskError(
            f"--tasks {name}: the harness cannot build its questions: {type(error).__name__}: {first_line(error)}\n"
            "If there are too few examples, give fewer with --few-shot."
        ) from error
    content = [(each.request_type, each.arguments, each.doc) for each in task.instances]
    digest = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
    return HarnessTask(name, task, int(task.get_config("num_fewshot")), metrics, digest, limit)


def _metrics(name: str, task: Any) -> tuple[Metric, ...]:
    """Return the accuracies of a task, none if it measures perplexity.

    Raises:
        TaskError: It has neither.
    """
    from lm_eval.api.metrics import mean, weighted_perplexity

    computed = task.aggregation()
    found = tuple(metric for metric in Metric if computed.get(metric) is mean)
    if found or computed.get(WORD_PERPLEXITY) is weighted_perplexity:
        return found
    raise TaskError(
        f"--tasks {name}: it is measured by {', '.join(map(str, computed)) or 'nothing'}.\nTasks with a mean of "
        f"{', '.join(Metric)}, or with {WORD_PERPLEXITY}, are measured."
    )


def _refuse_unfit(name: str, task: Any) -> None:
    """Raise an error for what no text written greedily can answer, and for what is not safe to run."""
    from lm_eval.models.utils import normalize_gen_kwargs

    reason = None
    if getattr(task, "UNSAFE_CODE", False):
        reason = "it runs code that the model writes"
    elif getattr(task, "MULTIMODAL", False):
        reason = "it shows more than text"
    elif task.OUTPUT_TYPE == "generate_until":
        settings = task.get_config("generation_kwargs") or {}
        used = normalize_gen_kwargs(settings)
        if used.get("do_sample") or used.get("num_beams", 1) > 1:
            asked = {key: value for key, value in settings.items() if key != "until"}
            reason = f"it asks for {json.dumps(asked, default=str)}, and texts are written greedily here"
    if reason is not None:
        raise TaskError(f"--tasks {name} is not measured: {reason}.\nChoose another task.")
