"""Which rows of instructions are trained on, and which files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import CalibrationError
from amp_export.inputs import instructions
from amp_export.inputs.instructions import MOST_HELD_OUT, MOST_MEASURED, load_instructions
from amp_export.inputs.texts import ALPACA


def write(folder: Path, rows: list[object], name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


@given(st.integers(5, 3000))
def test_each_row_is_trained_on_or_held_out_once(count: int) -> None:
    rows = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(count)]
    sets = instructions._divide(rows, "rows")
    texts = [each.text for each in (*sets.training, *sets.measured)] + list(sets.quality.held_out)
    assert sorted(texts) == sorted(f"Instruction: Say {number}.\nResponse: {number}" for number in range(count))
    assert 1 <= len(sets.measured) <= MOST_MEASURED
    assert len(sets.quality.held_out) <= MOST_HELD_OUT
    assert len(sets.training) >= 0.8 * count


def test_the_prompt_ends_where_the_answer_begins(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": "2 and 3", "output": "5"}] * 5
    sets = load_instructions(write(tmp_path, rows))
    assert sets.training[0].prompt == "Instruction: Add.\nInput: 2 and 3\nResponse:"
    assert sets.training[0].text == f"{sets.training[0].prompt} 5"
    assert sets.quality.source == "rows.jsonl"


ROW = {"instruction": "Say.", "output": "yes"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW] * 4, r"needs 5 instructions or more.*has 4\.\nGive a longer file"),
        ([ROW, {"text": "plain"}, *[ROW] * 4], r"row 2 has a `text`, and so no answer.*\n.*--method distill"),
        ([*[ROW] * 5, {"instruction": "Say."}], r"row 6 has no `output`, and so no answer"),
        ([*[ROW] * 5, {"instruction": "Say.", "output": " "}], r"row 6 has no `output`"),
    ],
)
def test_rows_without_answers_are_refused(rows: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=message):
        load_instructions(write(tmp_path, rows))


def test_plain_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"is not a \.jsonl file.*\n.*leave --text out.*--method distill"):
        load_instructions(tmp_path / "lines.txt")


@pytest.mark.parametrize(("given_file", "option"), [(None, "--method lora without --text"), (ALPACA, "--text alpaca")])
def test_the_dataset_is_replaced_by_nothing(
    given_file: Path | None, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("lost")

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(CalibrationError, match=rf"{option}: yahma/alpaca-cleaned cannot .*: lost\n.* --text FILE"):
        load_instructions(given_file)


def test_all_of_the_dataset_is_read_but_empty_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, revision: str, split: str) -> list[dict[str, str]]:
        assert (name, revision, split) == (instructions.DATASET, instructions.REVISION, "train")
        return [{"instruction": "Say.", "input": "", "output": answer} for answer in ("a", "", "b", "c", "d", "e")]

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", load)
    sets = load_instructions(None)
    assert [each.text[-1] for each in sets.training] == ["a", "b", "c", "d"]
    assert [each.text[-1] for each in sets.measured] == ["e"]
    assert sets.quality.source == "yahma/alpaca-cleaned (revision 12567cab)"
