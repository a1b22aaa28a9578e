from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from amp_export.architectures import LayerWidths, flatten_parts, with_fields
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.unsupported import check_known_fields
from amp_export.errors import UnsupportedModelError
from amp_export.pruning.rewriting import rewrite
from tests.support.tiny_models import save_tiny_model


def test_fields_of_parts_are_read_and_written_where_they_are() -> None:
    config = {"encoder": {"layers": 2, "width": 8}, "tied": True}
    assert flatten_parts(config, ("encoder", "decoder")) == {"encoder.layers": 2, "encoder.width": 8, "tied": True}
    assert flatten_parts(config, ()) is config
    changed = with_fields(config, {"encoder.width": 4, "decoder.width": 4, "tied": False})
    assert changed == {"encoder": {"layers": 2, "width": 4}, "decoder": {"width": 4}, "tied": False}
    assert config["encoder"] == {"layers": 2, "width": 8}


@pytest.fixture(scope="module")
def t5gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("t5gemma") / "checkpoint", "t5gemma", num_hidden_layers=1)


def test_both_parts_are_rewritten(t5gemma: Path) -> None:
    checkpoint = open_checkpoint(t5gemma)
    config = checkpoint.config
    written = rewrite(checkpoint.raw_config, config, config.everywhere(LayerWidths(4, 2, 24))).config
    assert [written[part]["intermediate_size"] for part in ("encoder", "decoder")] == [24, 24]
    assert not any("." in name for name in written)


def changed(folder: Path, tmp_path: Path, field: str, value: object) -> Path:
    raw_config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(with_fields(raw_config, {field: value})))
    return tmp_path / "config.json"


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "num_key_value_heads"])
def test_parts_of_different_widths_are_refused(field: str, t5gemma: Path, tmp_path: Path) -> None:
    file = changed(t5gemma, tmp_path, f"decoder.{field}", 16)
    with pytest.raises(
        UnsupportedModelError, match=rf"decoder\.{field} is 16, but encoder\.{field} is .*\nOnly models"
    ):
        open_checkpoint(file.parent)


def test_an_unknown_field_of_a_part_is_refused(t5gemma: Path, tmp_path: Path) -> None:
    config = open_checkpoint(t5gemma).config
    raw_config = json.loads(changed(t5gemma, tmp_path, "decoder.hidden_activation", "relu").read_text())
    check_known_fields(raw_config, config.architecture)
    raw_config["decoder"]["chunk_size_feed_forward"] = 9  # known to make no difference
    check_known_fields(raw_config, config.architecture)
    lacking = config.architecture.defaults.keys() - {"decoder.hidden_activation"}
    facts = replace(config.architecture, defaults={name: config.architecture.defaults[name] for name in lacking})
    with pytest.raises(UnsupportedModelError, match=r"decoder\.hidden_activation = 'relu'"):
        check_known_fields(raw_config, facts)
