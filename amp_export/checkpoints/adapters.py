"""Adapters (PEFT): they are no models, but can be merged into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amp_export.errors import ModelError, UnsupportedModelError

ADAPTER_CONFIG = "adapter_config.json"

_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""By `task_type`: `TaskType`, `peft/utils/peft_types.py`, PEFT 0.18."""

_PROMPTS = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"}
)
"""Values of `peft_type` whose adapters change the input, not the weights, so that there is nothing to merge."""


def refuse_adapter(path: Path) -> None:
    """Refuses a directory with an adapter; transformers would load the adapter's base model, and put it on top.

    Raises:
        UnsupportedModelError: There is an adapter; the code that merges it is shown.
        ModelError: Its config is damaged.
    """
    file = path / ADAPTER_CONFIG
    if not file.is_file():
        return
    try:
        adapter = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}\nFetch the adapter again.") from error
    if not isinstance(adapter, dict):
        raise ModelError(f"{file} is not the config of an adapter.\nFetch the adapter again.")
    kind = str(adapter.get("peft_type") or "of an unknown kind")
    base = adapter.get("base_model_name_or_path") or "BASE_MODEL"
    found = f"{path} holds an adapter ({kind}) of {base}, not a model: there is an {ADAPTER_CONFIG}."
    if kind in _PROMPTS:
        raise UnsupportedModelError(
            f"{found}\nAdapters of this kind change the input of a model and not its weights, so that they cannot be "
            f"merged.\nPrune {base} itself."
        )
    raise UnsupportedModelError(
        f"{found}\nMerge it first, and use what that saves:\n{_merge_code(path, adapter, base)}\n"
        f"If the weights here are complete without the adapter, remove {ADAPTER_CONFIG}."
    )


def _merge_code(path: Path, adapter: dict[str, Any], base: str) -> str:
    auto_class = _AUTO_CLASSES.get(str(adapter.get("task_type")), "AutoModel")
    # an adapter that added tokens was saved with its tokenizer
    tokenizer = path if (path / "tokenizer_config.json").is_file() else base
    return "\n".join(
        (
            "  from peft import PeftModel",
            f"  from transformers import {auto_class}, AutoTokenizer",
            f'  model = {auto_class}.from_pretrained("{base}", dtype="auto")',
            f'  PeftModel.from_pretrained(model, "{path}").merge_and_unload().save_pretrained("merged")',
            f'  AutoTokenizer.from_pretrained("{tokenizer}").save_pretrained("merged")',
        )
    )
