"""Parity of the graphs on this device with PyTorch on the machine that made the bundle."""

from __future__ import annotations

import math
from typing import Any

from .bundle import SUBJECTS, Bundle
from .processes import Setup, start_worker


def verify(setup: Setup) -> dict[str, Any]:
    """Run both graphs on their reference cases, one after the other.

    Returns:
        By subject: the parity of the cases, the worker's `ready`, and the memory of its process.
    """
    return {subject: _verify(setup, subject) for subject in SUBJECTS}


def _verify(setup: Setup, subject: str) -> dict[str, Any]:
    bundle: Bundle = setup.bundle
    reference = bundle.manifest["references"][subject]
    task = {**reference, "references": str(bundle.folder / reference["file"])}
    with start_worker(setup, subject) as worker:
        answer = worker.ask(task)
    cases = answer["cases"]
    result = {
        **{key: value for key, value in reference.items() if key not in ("file", "cases")},
        "cases": cases,
        "holds": all(case["holds"] for case in cases),
    }
    _show(subject, result)
    return {"parity": result, "ready": worker.ready, **{key: answer[key] for key in answer if key != "cases"}}


def _show(subject: str, result: dict[str, Any]) -> None:
    failed = sum(not case["holds"] for case in result["cases"])
    # a NaN compares false with any number, so max alone may pass over it
    worst = max((case["max_error"] for case in result["cases"]), key=lambda error: (math.isnan(error), error))
    print(
        f"Parity of the {subject} graph {'FAILS' if failed else 'holds'} in {failed or len(result['cases'])} of "
        f"{len(result['cases'])} cases: largest error {worst:.2g}, tolerance {result['tolerance']:.2g}.",
        flush=True,
    )
    for case in result["cases"]:
        if not case["holds"]:
            print(
                f"  {case['name']}: largest error {case['max_error']:.3g}, tolerance {result['tolerance']:.3g}; "
                f"mean error {case['mean_error']:.3g}, tolerance {result['mean_tolerance']:.3g}.",
                flush=True,
            )
