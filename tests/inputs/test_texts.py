from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.checkpoints.quiet import quiet_datasets
from amp_export.errors import CalibrationError, MissingExtraError
from amp_export.inputs import texts as calibration
from amp_export.inputs.texts import ALPACA, DATASET, REVISION, Calibration, load_calibration


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_instruction_becomes_a_prompt_without_its_output(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}, {"instruction": "Sing.", "input": ""}]
    file = write(tmp_path, "rows.jsonl", "\n".join(map(json.dumps, rows)))
    assert load_calibration(file).prompts == (
        "Instruction: Add.\nInput: 1 and 2\nResponse:",
        "Instruction: Sing.\nResponse:",
    )


def test_held_out_instruction_keeps_its_output(tmp_path: Path) -> None:
    row = json.dumps({"instruction": "Add.", "input": "1 and 2", "output": "3"})
    loaded = load_calibration(write(tmp_path, "rows.jsonl", f"{row}\n" * 5))
    assert loaded.held_out == ("Instruction: Add.\nInput: 1 and 2\nResponse: 3",)
    assert set(loaded.prompts) == {"Instruction: Add.\nInput: 1 and 2\nResponse:"}


def test_text_rows_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": f" line {number}\u2028more", "output": 7} for number in range(6)]
    file = write(tmp_path, "rows.jsonl", "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    loaded = load_calibration(file)
    assert loaded.prompts == tuple(f" line {number}\u2028more" for number in (0, 1, 2, 3, 5))
    assert loaded.held_out == (" line 4\u2028more",)
    assert loaded.origin == "5 prompts of rows.jsonl"


def test_text_file_has_one_prompt_a_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    loaded = load_calibration(write(tmp_path, "my.TXT", "\ufeffone\r\n\n  \n two \nthree"))
    lines = ("one", "two", "three")
    assert loaded == Calibration(lines, (), "3 prompts of my.TXT", lines, "my.TXT", load_calibration().texts)


@given(lines=st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), min_size=1, max_size=40))
def test_every_fifth_row_is_held_out_and_none_is_lost(
    lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    loaded = load_calibration(write(tmp_path_factory.mktemp("t"), "my.txt", "\n".join(lines)))
    assert list(loaded.held_out) == lines[4::5]
    assert list(loaded.prompts) == [line for index, line in enumerate(lines) if index % 5 != 4]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": "fine"}\n\n{"text": ', "line 3: not valid JSON"),
        ("a.jsonl", '{"a":' * 100_000, "line 1: not valid JSON: it is nested too deeply"),
        ("a.jsonl", '["fine"]', "line 1: found a JSON value of type list"),
        ("a.jsonl", '{"text": "fine"}\n{"prompt": "a", "answer": "b"}', "line 2: found the keys prompt, answer"),
        ("a.jsonl", "{}", "line 1: found the keys none"),
        ("a.jsonl", '{"text": 3}', "line 1: `text` has type int"),
        ("a.jsonl", '{"instruction": "a", "output": ["b"]}', "line 1: `output` has type list"),
        ("a.jsonl", '{"instruction": null}', "line 1: `instruction` has type NoneType"),
        ("a.jsonl", '{"text": " "}', "line 1: `text` is empty"),
        ("a.jsonl", "\n \n", "is empty: it has no prompts"),
        ("a.txt", "", "is empty: it has no prompts"),
        ("a.txt", b"fine\nfine\nna\xefve\n", "line 3: byte 0xef is not UTF-8"),
        ("a.csv", "fine", "neither a .jsonl nor a .txt"),
    ],
)
def test_malformed_files_are_refused_by_name_and_line(
    name: str, content: str | bytes, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError) as caught:
        load_calibration(write(tmp_path, name, content))
    assert expected in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"missing\.txt cannot be read: No such file"):
        load_calibration(tmp_path / "missing.txt")


def test_shipped_text_is_used_whole_and_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dataset(monkeypatch, failure=AssertionError("asked the hub"))
    loaded = load_calibration(prompts=3)
    assert loaded.origin == "64 prompts of the text shipped with amp-export"
    assert (len(loaded.prompts), len(loaded.held_out)) == (64, 16)


def test_shipped_prompts_are_all_different_and_all_answered() -> None:
    file = Path(calibration.__file__).parent / "data" / "calibration.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len({row["instruction"] for row in rows}) == len(rows) == 80
    assert all(row["output"].strip() for row in rows)


def test_shipped_texts_to_fit_on_are_broad_and_their_origin_is_told() -> None:
    folder = Path(calibration.__file__).parent / "data"
    loaded = load_calibration()
    assert len(set(loaded.texts)) == len(loaded.texts)
    assert not set(loaded.texts) & {*loaded.prompts, *loaded.held_out}
    # a token is four bytes or fewer
    assert sum(len(text.encode()) for text in loaded.texts) / 4 > 60_000
    told = dict(re.findall(r"^\| `(\w+)\.jsonl` \| (\d+) \|", (folder / "README.md").read_text(), flags=re.MULTILINE))
    rows = {file.stem: len(file.read_text(encoding="utf-8").splitlines()) for file in folder.glob("*.jsonl")}
    assert {name: int(count) for name, count in told.items()} == rows


def fake_dataset(monkeypatch: pytest.MonkeyPatch, *, failure: Exception | None = None) -> None:
    """Stands in for the package `datasets`, as far as it is used."""

    def load_dataset(name: str, *, revision: str, split: str) -> list[dict[str, str]]:
        if failure is not None:
            raise failure
        assert (name, revision) == (DATASET, REVISION)
        count = int(split.removeprefix("train[:").removesuffix("]"))
        return [{"instruction": f"Say {number}.", "input": "", "output": str(number)} for number in range(count)]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(calibration, "quiet_datasets", contextlib.nullcontext)
    monkeypatch.setattr(calibration.importlib.util, "find_spec", lambda _: object())


@pytest.mark.parametrize("prompts", [1, 4, 5, 50])
def test_dataset_gives_as_many_prompts_as_are_asked_for(prompts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dataset(monkeypatch)
    loaded = load_calibration(ALPACA, prompts=prompts)
    assert len(loaded.prompts) == prompts
    assert loaded.origin == f"{prompts} prompts of yahma/alpaca-cleaned (revision 12567cab)"


def test_dataset_that_fails_to_download_is_replaced_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dataset(monkeypatch, failure=ConnectionError("lost"))
    with pytest.raises(CalibrationError, match=r"alpaca-cleaned cannot be downloaded: lost\n.*leave --calibration out"):
        load_calibration(ALPACA)
    monkeypatch.setattr(calibration.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"amp-export\[datasets\]"):
        load_calibration(ALPACA)


@given(
    text=st.text(st.characters(exclude_categories=[]), min_size=1),
    key=st.sampled_from(["text", "instruction", "input", "output"]),
)
def test_a_row_is_refused_by_line_or_can_be_encoded(
    text: str, key: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    row = {"text": text} if key == "text" else {"instruction": "Say.", key: text}
    file = write(tmp_path_factory.mktemp("rows"), "rows.jsonl", '{"text": "plain"}\n' * 4 + json.dumps(row))
    is_cut = any("\ud800" <= character <= "\udfff" for character in text)
    if is_cut or (key in {"text", "instruction"} and not text.strip()):
        with pytest.raises(CalibrationError, match=r"rows\.jsonl, line 5: ") as caught:
            load_calibration(file)
        str(caught.value).encode()
    else:
        loaded = load_calibration(file)
        "".join((*loaded.prompts, *loaded.held_out)).encode()


def test_silencing_datasets_is_undone(capfd: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    before = datasets.utils.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()
    with quiet_datasets():
        list(datasets.utils.tqdm(range(2)))
        assert datasets.utils.logging.get_verbosity() == datasets.utils.logging.ERROR
    assert (datasets.utils.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()) == before
    assert capfd.readouterr() == ("", "")
