"""Compare scoring with a bare forward pass: python ci/bench/scoring.py [--model demo] [--rounds 7].

Both run the same batches of the same calibration prompts in one process, alternately. The limit is a ratio of 1.35.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.inputs.batches import batches, text_batch, tokenize
from amp_export.inputs.texts import load_calibration
from amp_export.pruning.scoring import score_tokens

LIMIT = 1.35


def bare_pass(model: Any, token_ids: list[list[int]], config: ModelConfig) -> None:
    """Run the forward pass of scoring, without its hooks."""
    import torch

    base_model = model.get_submodule(config.base_model)
    with torch.inference_mode():
        for input_ids_bs, mask_bs in batches(token_ids):
            base_model(**text_batch(model, config, input_ids_bs, mask_bs).inputs)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> int:
    """Print medians and the ratio; return 1 if the ratio exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    checkpoint = open_checkpoint(resolve_model(arguments.model).path)
    config = checkpoint.config
    model, tokenizer = load_model(checkpoint.path), load_tokenizer(checkpoint.path)
    token_ids = tokenize(tokenizer, load_calibration().prompts, config)

    bare, scored = [], []
    bare_pass(model, token_ids, config)
    for _ in range(arguments.rounds):
        bare.append(seconds(lambda: bare_pass(model, token_ids, config)))
        scored.append(seconds(lambda: score_tokens(model, token_ids, config)))
    ratios = [with_hooks / without for with_hooks, without in zip(scored, bare, strict=True)]
    ratio = statistics.median(ratios)
    print(f"{len(token_ids)} prompts, {sum(map(len, token_ids))} tokens, {arguments.rounds} rounds")
    print(f"bare forward pass: median {statistics.median(bare):.2f} s")
    print(f"scoring:           median {statistics.median(scored):.2f} s")
    print(f"ratio:             median {ratio:.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}), limit {LIMIT}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
