"""Tasks of the LM Evaluation Harness: of each kind, and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_target": "answer",
    "doc_to_choice": "choices",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
PARTIAL = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{answer}}",
    "doc_to_target": "continuation",
    "doc_to_choice": "contexts",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "page",
    "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
}
WRITING = {
    "output_type": "generate_until",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["e"], "max_gen_toks": 9, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}


def written(folder: Path, name: str, rows: Sequence[Any], config: Mapping[str, Any], **more: Any) -> Path:
    """Write questions, and a task of the harness that asks them; JSON is YAML."""
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder / "cache")}
    content = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **config, **more}
    (folder / f"{name}.yaml").write_text(json.dumps(content))
    return folder / f"{name}.yaml"
