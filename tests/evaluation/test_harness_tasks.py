"""Reading tasks of the LM Evaluation Harness: which are its own, and which are refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from amp_export.errors import MissingExtraError, TaskError
from amp_export.evaluation.harness_tasks import is_of_harness, read_harness_tasks
from tests.support.harness_tasks import CHOICE, WRITING, written
from tests.support.questions import CHOICES

BAD: dict[str, tuple[Mapping[str, Any], str]] = {
    "no such data": (
        {"dataset_kwargs": {"data_files": {"test": "absent.jsonl"}}},
        r"a\.yaml: the dataset json cannot be read: .*\nConnect to the network; .*HF_DATASETS_OFFLINE",
    ),
    "no such dataset": (
        {"dataset_path": "nobody/nothing", "dataset_kwargs": None},
        r"a\.yaml: the dataset nobody/nothing cannot be read: ",
    ),
    "an unknown key": ({"colour": "red"}, r"a\.yaml: the harness cannot read this task: TypeError: .*colour"),
    "an unknown kind": ({"output_type": "guess"}, r"cannot read this task: ValueError: .*guess"),
    "no name": ({"task": None}, r"a\.yaml: the harness cannot read this task: KeyError"),
    "an unknown field": ({"doc_to_text": "{{colour}}"}, r"cannot read this task: UndefinedError: .*colour"),
    "another measure": (
        {**WRITING, "metric_list": [{"metric": "bleu"}]},
        r"a: it is measured by bleu\.\nTasks with a mean of acc_norm, acc, exact_match, or with word_perplexity",
    ),
    "sampling": (
        {**WRITING, "generation_kwargs": {"until": ["e"], "do_sample": True, "temperature": 0.7}},
        r'a is not measured: it asks for {"do_sample": true, "temperature": 0\.7}, and texts are written greedily',
    ),
    "temperature": (
        {**WRITING, "generation_kwargs": {"until": ["e"], "temperature": 0.7}},
        r'it asks for {"temperature": 0\.7}, and texts are written greedily',
    ),
    "beams": ({**WRITING, "generation_kwargs": {"num_beams": 4}}, r'it asks for {"num_beams": 4}'),
    "unsafe": ({"unsafe_code": True}, "a is not measured: it runs code that the model writes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_task_that_cannot_be_measured_is_refused(case: str, tmp_path: Path, harness: None) -> None:
    changes, said = BAD[case]
    with pytest.raises(TaskError, match=said):
        read_harness_tasks([written(tmp_path, "a", CHOICES, {**CHOICE, **changes})])


def test_a_file_that_is_no_task_is_refused(tmp_path: Path, harness: None) -> None:
    for text in ("task: [", "- a\n- b", "colour: red"):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(TaskError, match=r"a\.yaml: the harness cannot read this task: "):
            read_harness_tasks([tmp_path / "a.yaml"])
    with pytest.raises(TaskError, match=r"absent\.yaml does not exist"):
        read_harness_tasks([tmp_path / "absent.yaml"])


def test_an_unknown_name_is_refused_with_similar_ones(few_tasks: None) -> None:
    with pytest.raises(TaskError, match=r"--tasks arc_esay: there is no such file, .*\nSimilar names: arc_easy"):
        read_harness_tasks(["arc_esay"])
    with pytest.raises(TaskError, match=r"`lm-eval ls tasks` lists the names\. A file of questions ends in \.jsonl"):
        read_harness_tasks(["q"])


@pytest.mark.parametrize("text", ["group: both\ntask: [piqa]", '{"group": "both", "task": ["piqa"]}'])
def test_a_file_may_group_named_tasks(text: str, few_tasks: None, tmp_path: Path) -> None:
    """It is read as far as the datasets, which are not here."""
    (tmp_path / "both.yaml").write_text(text)
    with pytest.raises(TaskError, match=r"both\.yaml: one of its datasets cannot be read: .*piqa"):
        read_harness_tasks([tmp_path / "both.yaml"])


def test_without_the_harness_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval.tasks", raising=False)
    with pytest.raises(MissingExtraError, match=r'--tasks piqa needs .*\n.*pip install "amp-export\[evaluate\]"'):
        read_harness_tasks(["piqa"])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("piqa", True),
        ("longproc_countdown_0.5k", True),
        ("a.yaml", True),
        ("folder/a.YML", True),
        ("piqa.jsonl", False),
        ("folder/piqa", False),
        ("piqa.json", False),
        ("text.txt", False),
    ],
)
def test_names_and_files_are_told_apart(task: str, expected: bool) -> None:
    assert is_of_harness(task) is expected
    assert is_of_harness(Path(task)) is expected


def test_a_file_without_an_ending_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_of_harness("piqa")
    Path("piqa").mkdir()
    assert is_of_harness("piqa"), "a folder of that name is none"
    Path("questions").write_text("")
    assert not is_of_harness("questions")
