"""Tasks in local files: multiple choice, and partial-context scoring."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_export.documents import decode_json
from amp_export.errors import TaskError
from amp_export.inputs.texts import read_utf8, refuse_lone_surrogates

_EXPECTED = (
    "Expected an object with `context` (text), `choices` (two texts or more) and `answer` (number of the right one, "
    "from 0); or with `contexts` (one text per option), `continuation` (text) and `answer`."
)


@dataclass(frozen=True)
class Item:
    """A question.

    Attributes:
        options: Context and continuation of each answer.
        answer: Number of the right one.
        place: File and line.
    """

    options: tuple[tuple[str, str], ...]
    answer: int
    place: str


@dataclass(frozen=True)
class Task:
    """Questions of one file.

    Attributes:
        name: Name of the file, without its ending.
        items: The questions.
        partial: Whether the options are contexts of one continuation, as in WinoGrande.
    """

    name: str
    items: tuple[Item, ...]
    partial: bool

    @property
    def floor(self) -> float:
        """The largest accuracy of a constant answer."""
        return max(Counter(item.answer for item in self.items).values()) / len(self.items)

    def first(self, limit: int | None) -> Task:
        """Return the task with its first questions only."""
        return replace(self, items=self.items[:limit])


def read_tasks(files: Sequence[Path], *, limit: int | None = None) -> tuple[Task, ...]:
    """Read the tasks of several files; those of the same name are named by their paths.

    Args:
        files: The files; one that is given twice is read once.
        limit: How many questions of each to take, from the first on; by default all.

    Raises:
        TaskError: A file is missing, empty or malformed; the message names the line.
    """
    files = list(dict.fromkeys(files))
    tasks = [read_task(file).first(limit) for file in files]
    names = Counter(task.name for task in tasks)
    return tuple(
        replace(task, name=str(file)) if names[task.name] > 1 else task for file, task in zip(files, tasks, strict=True)
    )


def read_task(file: Path) -> Task:
    """Read a task: one JSON object per line; blank lines are ignored, and so are further keys.

    Args:
        file: A `.jsonl` file.

    Raises:
        TaskError: The file is missing, empty or malformed; the message names the line.
    """
    if file.suffix.lower() != ".jsonl":
        is_text = file.suffix.lower() == ".txt"
        advice = f"To measure perplexity on it: --perplexity {file}" if is_text else f"Each line: {_EXPECTED}"
        raise TaskError(
            f"{file} is no task: a task is a .jsonl file, or the name or a .yaml file of a task of the LM Evaluation "
            f"Harness.\n{advice}"
        )
    text = read_utf8(file, expected="a .jsonl file", error=TaskError)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise TaskError(f"{file} is empty: it has no questions.\n{_EXPECTED}")
    rows = [(f"{file}, line {number}", _parse(line, f"{file}, line {number}")) for number, line in lines]
    partial = "contexts" in rows[0][1]
    for place, row in rows:
        if ("contexts" in row) != partial:
            raise TaskError(
                f"{place}: found `{'choices' if partial else 'contexts'}`, but {rows[0][0]} has "
                f"`{'contexts' if partial else 'choices'}`.\nPut the two kinds of questions into files of their own."
            )
    return Task(file.stem, tuple(_item(row, place) for place, row in rows), partial)


def _parse(line: str, place: str) -> Mapping[str, Any]:
    try:
        row = decode_json(line)
    except ValueError as error:
        raise TaskError(f"{place}: not valid JSON: {error}\n{_EXPECTED}") from error
    if not isinstance(row, dict):
        raise TaskError(f"{place}: found a JSON value of type {type(row).__name__}.\n{_EXPECTED}")
    if "instruction" in row or "text" in row:
        raise TaskError(
            f"{place}: found `{'instruction' if 'instruction' in row else 'text'}`: this is text, no task, since there "
            "is nothing to choose from.\nTo see what the model writes after such prompts, use --generate; to prune on "
            "them, `amp-export prune --calibration`."
        )
    kinds = [names for names in (("context", "choices"), ("contexts", "continuation")) if set(names) <= row.keys()]
    if len(kinds) != 1 or "answer" not in row:
        raise TaskError(f"{place}: found the keys {', '.join(map(str, row)) or 'none'}.\n{_EXPECTED}")
    return row


def _item(row: Mapping[str, Any], place: str) -> Item:
    many, one = ("contexts", "continuation") if "contexts" in row else ("choices", "context")
    options = row[many]
    if not isinstance(options, list) or len(options) < 2:
        raise TaskError(f"{place}: `{many}` is no list of two texts or more.\n{_EXPECTED}")
    texts = [(one, row[one]), *((f"{many}[{number}]", option) for number, option in enumerate(options))]
    for key, text in texts:
        if not isinstance(text, str):
            raise TaskError(f"{place}: `{key}` has type {type(text).__name__}.\n{_EXPECTED}")
        if not text and not key.startswith("context"):
            raise TaskError(f"{place}: `{key}` is empty, so that there is nothing to score.\n{_EXPECTED}")
        refuse_lone_surrogates(text, f"{place}: `{key}`", error=TaskError)
    answer = row["answer"]
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
        raise TaskError(
            f"{place}: `answer` is {json.dumps(answer)[:40]}, expected a number from 0 to {len(options) - 1}.\n"
            f"{_EXPECTED}"
        )
    shared = row[one]
    pairs = ((option, shared) if many == "contexts" else (shared, option) for option in options)
    return Item(tuple(pairs), answer, place)
