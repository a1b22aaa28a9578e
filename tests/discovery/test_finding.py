"""Discovery from end to end: types that nothing describes, wrong facts, files of facts, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from amp_export import (
    ExportOptions,
    InspectOptions,
    PruneOptions,
    ValidateOptions,
    diagnose,
    export,
    inspect,
    prune,
    validate,
)
from amp_export.architectures import Layout, find_architecture, supported_model_types, using_facts
from amp_export.architectures._blocks import Count
from amp_export.architectures._external import VARIABLE, cached_facts, read_facts
from amp_export.discovery.finding import check_facts, discover
from amp_export.discovery.layouts import Heads, count_heads, lay_heads, lay_neurons
from amp_export.discovery.probing import Role, Row
from amp_export.discovery.writing import to_source
from amp_export.errors import OutputError, RequestError, UnsupportedModelError
from amp_export.options import CriterionName
from tests.support.tiny_models import randomize, save_tiny_tokenizer

FIELDS = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def undescribed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a type without a file, and a cache of its own."""
    monkeypatch.setenv("AMP_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert "olmo" not in supported_model_types()
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("olmo", **FIELDS))
    randomize(model)
    model.save_pretrained(tmp_path / "dense")
    save_tiny_tokenizer(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.mark.parametrize("model_type", supported_model_types())
def test_facts_survive_a_file(model_type: str, tmp_path: Path) -> None:
    described = replace(find_architecture(model_type), computation=None, gguf=None)
    (tmp_path / "facts.py").write_text(to_source(described, about="Facts."), encoding="utf-8")
    assert read_facts(tmp_path / "facts.py") == described


@pytest.mark.slow
def test_a_type_that_nothing_describes_is_pruned_exported_and_held(undescribed: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="amp-export inspect"):
        find_architecture("olmo")
    result = prune(undescribed, tmp_path / "out", PruneOptions(ratio=0.2, criterion=CriterionName.MAGNITUDE))
    assert result.folder.is_dir()
    assert cached_facts("olmo").is_file()
    export(tmp_path / "out/pruned", tmp_path / "out", ExportOptions())
    assert validate(tmp_path / "out", ValidateOptions(threads=1)).holds


def test_a_dry_run_finds_out_facts_too(undescribed: Path) -> None:
    found = diagnose(undescribed, 0.2)
    assert found.class_name == "OlmoForCausalLM"
    assert cached_facts("olmo").is_file()


@pytest.mark.slow
def test_facts_may_be_kept_beside_a_project(undescribed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "olmo_facts.py"
    inspection = inspect(undescribed, InspectOptions(facts=facts))
    assert inspection.holds
    assert not inspection.described
    assert inspection.file == facts
    assert not cached_facts("olmo").exists()
    with pytest.raises(OutputError, match="exists already"):
        inspect(undescribed, InspectOptions(facts=facts))
    with using_facts(facts):
        assert find_architecture("olmo") == inspection.architecture
        assert os.environ[VARIABLE] == str(facts)
    assert VARIABLE not in os.environ
    # a fact that is wrong is refuted
    wrong = replace(inspection.architecture.attention, attributes={"num_key_value_groups": Count.QUERY_HEADS})
    changed = replace(inspection.architecture, attention=wrong)
    facts.write_text(to_source(changed, about="Wrong."), encoding="utf-8")
    refuted = inspect(undescribed, InspectOptions(architecture=facts))
    assert not refuted.holds
    assert {case.name for case in refuted.cases if not case.holds} >= {"fewer neurons: pruned equals masked"}


@pytest.mark.slow
def test_a_layout_that_is_wrong_is_refuted() -> None:
    phi3 = find_architecture("phi3")
    (projection,) = phi3.attention.inputs
    wrong = replace(projection, layout=Layout.GROUPS)
    cases = check_facts(replace(phi3, attention=replace(phi3.attention, inputs=(wrong,))), {})
    assert {case.name for case in cases if not case.holds} == {
        "fewer heads: pruned equals masked",
        "layers differ: pruned equals masked",
    }


@pytest.mark.parametrize(
    ("model_type", "class_name", "fields", "said"),
    [
        ("mamba", "MambaForCausalLM", {}, r"does not attend(.|\n)*Tried: backbone\.layers"),
        ("llama", "LlamaForNothing", {}, "has no class LlamaForNothing"),
        ("llama", "LlamaForCausalLM", {"hidden_act": "nothing"}, "does not run|makes no"),
        (
            "llava",
            "LlavaForConditionalGeneration",
            {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}},
            r"several models \(text_config, vision_config\)(.|\n)*Save its language model",
        ),
    ],
)
def test_what_cannot_be_found_out_says_what_was_tried(
    model_type: str, class_name: str, fields: dict[str, object], said: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=said):
        discover(model_type, class_name, fields)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    config = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"code in checkpoints \(modeling_own\.py: auto_map"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ARCHITECTURE = 3", "holds no ARCHITECTURE"),
        ("import nothing_at_all", "cannot be read as facts"),
        (None, "no file"),
    ],
)
def test_a_file_that_holds_no_facts_says_so(content: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RequestError, match=said), using_facts(file):
        pass


def rows_of(heads: Heads, order: list[tuple[Role, int]]) -> list[Row]:
    """Returns rows as probing sees them: what each changes of the heads."""
    found = []
    for role, head in order:
        for entry in range(heads.head_dim):
            group = range(head * heads.query_group, (head + 1) * heads.query_group)
            if role is Role.QUERY:
                columns = range(head * heads.head_dim, (head + 1) * heads.head_dim)
            elif role is Role.KEY:
                columns = range(group.start * heads.head_dim, group.stop * heads.head_dim)
            else:
                columns = range(group.start * heads.head_dim + entry, group.stop * heads.head_dim, heads.head_dim)
            found.append(Row(role, tuple(columns)))
    return found


@pytest.mark.parametrize("heads", [Heads(4, 4, 6), Heads(6, 2, 4), Heads(4, 1, 8)])
def test_layouts_are_told_apart(heads: Heads) -> None:
    queries = [(Role.QUERY, head) for head in range(heads.query_heads)]
    keys, values = ([(role, head) for head in range(heads.key_value_heads)] for role in (Role.KEY, Role.VALUE))
    blocks = rows_of(heads, [*queries, *keys, *values])
    assert count_heads(blocks, heads.query_heads * heads.head_dim) == heads
    laid = lay_heads(blocks, heads)
    assert laid is not None
    assert laid.layout is Layout.BLOCKS
    if heads.key_value_heads > 1:
        groups = [
            place
            for head in range(heads.key_value_heads)
            for place in (
                *queries[head * heads.query_group : (head + 1) * heads.query_group],
                (Role.KEY, head),
                (Role.VALUE, head),
            )
        ]
        found = lay_heads(rows_of(heads, groups), heads)
        assert found is not None
        assert found.layout is Layout.GROUPS
        # the last two heads swapped
        assert lay_heads(rows_of(heads, [*queries, *keys[::-1], *values]), heads) is None
    assert lay_heads(rows_of(heads, [*queries[1:], queries[0]]), heads) is None


def test_neurons_may_be_fused_in_two_ways() -> None:
    plain = [Row(Role.NEURON, (number,)) for number in range(5)]
    doubled = [row for row in plain for _ in range(2)]
    for rows, layout in ((plain * 2, Layout.BLOCKS), (doubled, Layout.INTERLEAVED)):
        laid = lay_neurons(rows, 5)
        assert laid is not None
        assert (len(laid.units), laid.layout) == (2, layout)
    assert lay_neurons([*plain[1:], plain[0]], 5) is None
