"""Labels cover answers only, and the loss is that of the labelled tokens."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amp_export.inputs.instructions import Instruction
from amp_export.recovery.answers import NO_LABEL, answer_loss, make_example

END = 0


@dataclass(frozen=True)
class Characters:
    """A tokenizer of characters that may join two of them, begin a text with a token, and end it with one."""

    begins: bool = False
    ends: bool = False
    joins: bool = False
    eos_token_id: int | None = END

    def __call__(self, text: str, *, add_special_tokens: bool) -> SimpleNamespace:
        if self.joins:
            text = text.replace(": ", "\u2026")
        ids = [1] * self.begins + [ord(character) for character in text] + [END] * self.ends
        return SimpleNamespace(input_ids=ids)


@given(
    begins=st.booleans(),
    ends=st.booleans(),
    joins=st.booleans(),
    eos=st.sampled_from([END, None]),
    question=st.text("abc", min_size=1, max_size=9),
    answer=st.text("abc", min_size=1, max_size=9),
    length=st.integers(1, 60),
)
def test_labels_cover_the_answer_and_its_end_only(
    begins: bool, ends: bool, joins: bool, eos: int | None, question: str, answer: str, length: int
) -> None:
    tokenizer = Characters(begins, ends, joins, eos)
    prompt = f"Instruction: {question}\nResponse:"
    example = make_example(tokenizer, Instruction(prompt, f"{prompt} {answer}"), length)
    assert len(example.input_ids) == len(example.labels) <= length
    labelled = [label for label in example.labels if label != NO_LABEL]
    assert example.answer_tokens == len(labelled)
    assert labelled == list(example.input_ids[len(example.input_ids) - len(labelled) :]), "they are the text's end"
    whole = make_example(tokenizer, Instruction(prompt, f"{prompt} {answer}"), 100)
    text = "".join(chr(label) for label in whole.labels if label not in (NO_LABEL, END))
    assert text == ("\u2026" if joins else " ") + answer
    assert list(whole.labels).count(END) == (ends or eos == END)
    assert example.labels == whole.labels[:length]


def test_the_loss_is_that_of_the_labelled_tokens() -> None:
    logits_bsv = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
    labels_bs = torch.tensor([[NO_LABEL, NO_LABEL, 3, NO_LABEL, 6]])
    log_sv = logits_bsv[0].log_softmax(dim=1)
    assert answer_loss(logits_bsv, labels_bs).item() == pytest.approx(-(log_sv[1, 3] + log_sv[3, 6]).item())
