"""Task files, and the rules by which they are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import read_config
from amp_export.errors import TaskError
from amp_export.evaluation.decoders import TorchDecoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.scoring import Metric, judge, run_task
from amp_export.evaluation.tasks import Item, Task, read_task, read_tasks

CHOICE = {"context": "Question: is it?\nAnswer:", "choices": [" yes", " not at all", " no"], "answer": 2}
PARTIAL = {"contexts": ["It fell on Ann", "It fell on Bob, "], "continuation": " and broke.", "answer": 1}


def written(file: Path, *rows: Any) -> Path:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> Encoder:
    return Encoder(load_tokenizer(tiny_llama), read_config(tiny_llama)[1])


def test_both_kinds_are_read(tmp_path: Path) -> None:
    (item,) = read_task(written(tmp_path / "a.jsonl", CHOICE)).items
    assert item.options == tuple((CHOICE["context"], choice) for choice in CHOICE["choices"])
    assert (item.answer, item.place) == (2, f"{tmp_path / 'a.jsonl'}, line 1")
    task = read_task(written(tmp_path / "b.jsonl", PARTIAL, "", {**PARTIAL, "answer": 0, "id": 7}, PARTIAL))
    assert task.items[0].options == tuple((context, " and broke.") for context in PARTIAL["contexts"])
    assert [each.place.rpartition(" ")[2] for each in task.items] == ["1", "3", "4"]
    assert (task.name, task.partial, task.floor) == ("b", True, pytest.approx(2 / 3))
    assert len(task.first(2).items) == 2


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    files = [written(folder / "a.jsonl", CHOICE, CHOICE) for folder in (tmp_path, tmp_path / "x")]
    tasks = read_tasks([*files, files[0]], limit=1)
    assert [task.name for task in tasks] == [str(file) for file in files]
    assert [len(task.items) for task in tasks] == [1, 1]


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "deep JSON": ("[" * 100_000, "not valid JSON"),
    "a list": ([1], "found a JSON value of type list"),
    "a key is missing": ({"context": "a", "choices": ["b", "c"]}, "found the keys context, choices."),
    "both kinds": ({**CHOICE, **PARTIAL}, "found the keys"),
    "no keys": ({}, "found the keys none"),
    "instructions": (
        {"instruction": "Sing.", "input": "", "output": "La."},
        "found `instruction`: this is text, no task",
    ),
    "text": ({"text": "La."}, "found `text`: this is text, no task"),
    "one choice": ({**CHOICE, "choices": [" a"]}, "`choices` is no list of two texts"),
    "choices as text": ({**CHOICE, "choices": "ab"}, "`choices` is no list of two texts"),
    "a number as choice": ({**CHOICE, "choices": [" a", 2]}, "`choices[1]` has type int"),
    "an empty choice": ({**CHOICE, "choices": [" a", ""]}, "`choices[1]` is empty"),
    "an empty continuation": ({**PARTIAL, "continuation": ""}, "`continuation` is empty"),
    "context no text": ({**CHOICE, "context": None}, "`context` has type NoneType"),
    "half a character": ({**PARTIAL, "contexts": ["a", "b\ud83d"]}, "`contexts[1]` contains \\ud83d"),
    "answer beyond": ({**CHOICE, "answer": 3}, "`answer` is 3, expected a number from 0 to 2"),
    "answer below": ({**CHOICE, "answer": -1}, "`answer` is -1, expected"),
    "answer as text": ({**CHOICE, "answer": "2"}, '`answer` is "2", expected'),
    "answer as truth": ({**CHOICE, "answer": True}, "`answer` is true, expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_line_is_named(case: str, tmp_path: Path) -> None:
    row, said = BAD[case]
    good = PARTIAL if "contexts" in row and "choices" not in row else CHOICE
    with pytest.raises(TaskError) as refused:
        read_task(written(tmp_path / "a.jsonl", good, "", row))
    assert str(refused.value).startswith(f"{tmp_path / 'a.jsonl'}, line 3: ")
    assert said in str(refused.value)
    assert "\n" in str(refused.value), "it says what is expected"


def test_the_two_kinds_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"line 2: found `contexts`, but .*a\.jsonl, line 1 has `choices`"):
        read_task(written(tmp_path / "a.jsonl", CHOICE, PARTIAL))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"\n \n", "is empty: it has no questions"),
        ("a.jsonl", b'{"context": "\xff"}', "line 1: byte 0xff is not UTF-8"),
        ("a.txt", b"text", "--perplexity "),
        ("a.csv", b"text", "a task is a .jsonl file"),
        ("absent.jsonl", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_task_is_named(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError) as refused:
        read_task(tmp_path / name)
    assert str(refused.value).startswith(str(tmp_path / name))
    assert said in str(refused.value)


def task_of(*options: str, answer: int = 0, partial: bool = False) -> Task:
    return Task("t", (Item(tuple(("c", option) for option in options), answer, "t, line 1"),), partial)


def test_long_answers_are_not_at_a_disadvantage() -> None:
    """-4 over 2 characters is less than -6 over 4, although -4 is more than -6."""
    found = judge(task_of("ab", "abcd", answer=1), [(-4.0, -6.0)])
    assert (found.metric, found.correct) == (Metric.ACC_NORM, (True,))
    assert (found.accuracies[Metric.ACC].value, found.accuracy.value) == (0.0, 1.0)
    partial = judge(task_of("ab", "abcd", answer=1, partial=True), [(-4.0, -6.0)])
    assert (partial.metric, partial.correct, list(partial.accuracies)) == (Metric.ACC, (False,), [Metric.ACC])


def test_the_first_of_equals_is_chosen() -> None:
    assert judge(task_of("ab", "cd", answer=0), [(-1.0, -1.0)]).correct == (True,)
    assert judge(task_of("ab", "cd", answer=1), [(-1.0, -1.0)]).correct == (False,)


def test_characters_count_not_bytes() -> None:
    """Four bytes and one character: -3 over 1 is less than -4 over 2, and would not be over 4 and 2."""
    assert judge(task_of("\N{GRINNING FACE}", "ab", answer=1), [(-3.0, -4.0)]).correct == (True,)


@pytest.mark.parametrize("row", [CHOICE, PARTIAL])
def test_scores_are_those_of_the_logits(
    row: dict[str, Any], tiny_llama: Path, encoder: Encoder, tmp_path: Path
) -> None:
    """By hand: one token per character, so that context and continuation are the texts' characters."""
    model, tokenizer = load_model(tiny_llama), load_tokenizer(tiny_llama)
    task = read_task(written(tmp_path / "a.jsonl", row, row))
    found = run_task(TorchDecoder(model), encoder, task)
    expected = []
    for context, continuation in task.items[0].options:
        ids = torch.tensor(tokenizer(context + continuation).input_ids)
        with torch.inference_mode():
            log_sv = model(ids[None]).logits[0].log_softmax(dim=1)
        # a space at the end of a context is the continuation's
        first = len(context.rstrip())
        expected.append(sum(log_sv[place - 1, ids[place]].item() for place in range(first, len(ids))))
    assert found.log_likelihoods[0] == pytest.approx(expected, rel=1e-5)
    assert found.log_likelihoods[1] == found.log_likelihoods[0]
    lengths = [len(continuation) for _, continuation in task.items[0].options]
    normed = [a / b for a, b in zip(expected, lengths, strict=True)]
    chosen = {"acc": expected.index(max(expected)), "acc_norm": normed.index(max(normed))}
    for metric, accuracy in found.accuracies.items():
        assert accuracy.value == (chosen[metric] == row["answer"])


CHARACTERS = st.text(st.sampled_from("ab \n?"), max_size=8)


@given(CHARACTERS, CHARACTERS.filter(bool))
def test_a_pair_is_cut_where_its_context_ends(encoder: Encoder, context: str, continuation: str) -> None:
    request = encoder.encode_pair(context, continuation, place="here")
    given_text = context.rstrip()
    whole = encoder.encode(context + continuation)
    assert request.scored == len(context + continuation) - len(given_text)
    # <s> begins a text that has no context
    assert request.token_ids == (whole if given_text else [1, *whole])


def test_long_contexts_lose_their_beginning_and_long_continuations_are_refused(encoder: Encoder) -> None:
    """The model takes 128 tokens, and the last of a text is no input."""
    request = encoder.encode_pair("a" * 200 + "b", " cd", place="here")
    assert (len(request.token_ids), request.scored) == (129, 3)
    assert request.token_ids[-4:] == encoder.encode("b cd")
    assert encoder.encode_pair("a", "b" * 128, place="here").scored == 128
    with pytest.raises(TaskError, match="here: a continuation has 129 tokens, but the model takes 128"):
        encoder.encode_pair("a", "b" * 129, place="here")


def test_a_text_that_begins_with_the_first_token_gets_no_other(encoder: Encoder, tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    assert encoder.encode("<s>ab") == tokenizer("<s>ab", add_special_tokens=False).input_ids
    assert encoder.encode_pair("", "<s>ab", place="here").token_ids == encoder.encode("<s>ab")
