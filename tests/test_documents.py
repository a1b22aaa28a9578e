"""Files of ours: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import contextlib
import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amp_export.documents import convert, parse_json, read_json, read_toml, to_builtins, to_json
from amp_export.errors import NewerSchemaError, OutputError, PlanError


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    count: int
    share: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Document:
    name: str
    value: float
    colour: Colour = Colour.RED
    items: tuple[Inner, ...] = ()
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    anything: Mapping[str, Any] = field(default_factory=dict)
    schema: int = 1


# file names that are not UTF-8 are text with lone surrogates
TEXTS = st.text(st.characters())
NUMBERS = st.floats(allow_nan=False)
INNER = st.builds(Inner, st.integers(-(2**60), 2**60), st.none() | NUMBERS, st.none() | st.tuples(NUMBERS, NUMBERS))
DOCUMENTS = st.builds(
    Document,
    TEXTS,
    NUMBERS,
    st.sampled_from(Colour),
    st.lists(INNER, max_size=3).map(tuple),
    st.dictionaries(TEXTS, INNER, max_size=3),
    st.dictionaries(TEXTS, st.none() | st.booleans() | st.integers(-9, 9), max_size=2),
)


@given(DOCUMENTS)
def test_what_is_written_is_read_again(document: Document) -> None:
    text = to_json(document)
    assert "Infinity" not in text.replace('"Infinity"', "").replace('"-Infinity"', "") or "Infinity" in document.name
    assert convert(parse_json(text, source="f"), Document, source="f") == document
    assert to_json(convert(parse_json(text, source="f"), Document, source="f")) == text


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_texts_and_read_back(value: float) -> None:
    text = to_json(Document("a", value, items=(Inner(1, value),)))
    json.loads(text, parse_constant=refuse_constant)
    read = convert(parse_json(text, source="f"), Document, source="f")
    for found in (read.value, read.items[0].share):
        assert found == value or (found is not None and math.isnan(found) and math.isnan(value))
    # version 0.1 and devices write them bare
    bare = convert(parse_json(f'{{"name": "a", "value": {json.dumps(value)}}}', source="f"), Document, source="f")
    assert bare.value == value or math.isnan(value)


@given(DOCUMENTS, st.sampled_from(["", "items", "by_name"]), st.text(st.characters(categories=["L"]), min_size=1))
def test_a_key_that_is_not_known_is_named(document: Document, place: str, key: str) -> None:
    content = to_builtins(document)
    where = ""
    target = content
    if place == "items" and content["items"]:
        target, where = content["items"][-1], f"items[{len(content['items']) - 1}]."
    target[f"{key}?"] = 1
    with pytest.raises(OutputError) as refused:
        convert(content, Document, source="file.json")
    assert str(refused.value).startswith(f"file.json: {where}{key}? is not known. Expected keys: ")
    assert convert(content, Document, source="file.json", ignore_unknown=True) == document


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"value": 1.0}, "f: name is missing."),
        ({"name": 3, "value": 1.0}, "f: name: expected str, found 3."),
        ({"name": "a", "value": "much"}, 'f: value: expected float, found "much".'),
        ({"name": "a", "value": 1, "colour": "green"}, 'f: colour: expected "red" or "blue", found "green".'),
        (
            {"name": "a", "value": 1, "items": [{"count": 1}, {"count": 0.5}]},
            "f: items[1].count: expected an integer, ",
        ),
        ({"name": "a", "value": 1, "items": [{}]}, "f: items[0].count is missing."),
        ({"name": "a", "value": 1, "items": {}}, "f: items: expected array, found {}."),
        (
            {"name": "a", "value": 1, "by_name": {"w": {"count": 1}, "x": {"count": "1"}}},
            ': by_name.x.count: expected an integer, found "1"',
        ),
        ([], "f: expected object, found []."),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected_and_found(content: Any, said: str) -> None:
    with pytest.raises(PlanError) as refused:
        convert(content, Document, source="f", error=PlanError)
    assert said in str(refused.value)


@dataclass(frozen=True)
class Nested:
    rows: tuple[tuple[float, ...], ...]
    named: Mapping[str, tuple[Inner, ...]]
    by_colour: Mapping[Colour, Mapping[str, tuple[tuple[int, int], ...]]]


@given(st.data())
def test_a_wrong_value_is_named_however_deep_it_is(data: st.DataObject) -> None:
    rows = [[0.5, 1.5], [2.5]]
    content: Any = {
        "rows": rows,
        "named": {"a": [{"count": 1}, {"count": 2}]},
        "by_colour": {"red": {"x": [[1, 2]]}, "blue": {"y": [[3, 4], [5, 6]]}},
    }
    convert(content, Nested, source="nested.json")
    places = [(holder, key) for holder in _holders(content) for key in _keys(holder)]
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(
        st.sampled_from(["x", None, True, {"": 1}, [[]], 2.5, ""]).filter(lambda new: new != holder[key])
    )
    with contextlib.suppress(OutputError):
        convert(content, Nested, source="nested.json")
        return
    with pytest.raises(
        OutputError,
        match=r"nested\.json: .+expected |nested\.json: .+is missing|nested\.json: .+ is not known|invalid enum value",
    ):
        convert(content, Nested, source="nested.json")


def _holders(content: Any) -> list[Any]:
    members = content.values() if isinstance(content, dict) else content if isinstance(content, list) else None
    return [] if members is None else [content, *(each for member in members for each in _holders(member))]


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


@given(
    text=st.text(st.characters(exclude_categories=[])).filter(lambda text: text not in {"NaN", "Infinity", "-Infinity"})
)
@example("\ud83d")
def test_a_text_in_the_place_of_a_number_or_a_choice_is_refused(text: str) -> None:
    for content in ({"name": "a", "value": text}, {"name": "a", "value": 1, "colour": f"{text}?"}):
        with pytest.raises(OutputError, match="report") as refused:
            convert(content, Document, source="report")
        str(refused.value).encode()


def test_a_long_value_is_cut() -> None:
    with pytest.raises(OutputError) as refused:
        convert({"name": "a", "value": "x" * 1000}, Document, source="f")
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"{", OutputError, "is not valid JSON: "),
        (b"\xff", OutputError, "is not text in UTF-8: "),
        (b"[" * 100_000, OutputError, "is not valid JSON: "),
        (b"1" * 5000, OutputError, "is not valid JSON: "),
        (b"[]", OutputError, "expected an object with a number schema, but it holds a list."),
        (b'{"schema": true}', OutputError, "but schema is True."),
        (b'{"schema": 2}', NewerSchemaError, "has schema 2, this version knows up to 1.\nUpdate amp-export."),
        (b'{"schema": 1, "name": "a"}', OutputError, "value is missing."),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    content: bytes, error: type[OutputError], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "document.json"
    file.write_bytes(content)
    with pytest.raises(error) as refused:
        read_json(file, Document, newest=1)
    assert str(refused.value).startswith(str(file))
    assert said in str(refused.value)


def test_a_newer_file_raises_what_the_reader_asks_for(tmp_path: Path) -> None:
    (tmp_path / "document.json").write_text('{"schema": 2}')
    with pytest.raises(PlanError, match="Update amp-export"):
        read_json(tmp_path / "document.json", Document, newest=1, error=PlanError)


def test_a_toml_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent\.toml cannot be read: No such file"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "a.toml").write_text("[")
    with pytest.raises(OutputError, match=r"a\.toml is not valid TOML: "):
        read_toml(tmp_path / "a.toml")
