"""Suppress log messages and progress bars of libraries temporarily."""

from __future__ import annotations

import functools
import importlib.util
import io
import logging as python_logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any


@contextmanager
def _quiet(
    logging: Any, *, are_bars_shown: Callable[[], bool], hide: Callable[[], object], show: Callable[[], object]
) -> Iterator[None]:
    verbosity, bars = logging.get_verbosity(), are_bars_shown()
    logging.set_verbosity(python_logging.ERROR)
    hide()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            show()


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence huggingface_hub."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    with _quiet(
        logging,
        are_bars_shown=lambda: not are_progress_bars_disabled(),
        hide=disable_progress_bars,
        show=enable_progress_bars,
    ):
        yield


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers."""
    import_quietly()
    from transformers.utils import logging

    with _quiet(
        logging,
        are_bars_shown=logging.is_progress_bar_enabled,
        hide=logging.disable_progress_bar,
        show=logging.enable_progress_bar,
    ):
        yield


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silence datasets."""
    from datasets import utils

    with _quiet(
        utils.logging,
        are_bars_shown=lambda: not utils.are_progress_bars_disabled(),
        hide=utils.disable_progress_bars,
        show=utils.enable_progress_bars,
    ):
        yield


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Silence the LM Evaluation Harness, of which each task has code of its own that may print, warn and show bars."""
    with quiet_hub(), quiet_datasets(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield


@functools.cache
def import_quietly() -> None:
    """Import transformers' models without the messages that an installed torchao logs about missing libraries."""
    if importlib.util.find_spec("torchao") is None:
        return
    disabled = python_logging.root.manager.disable
    python_logging.disable(python_logging.CRITICAL)
    try:
        import transformers.modeling_utils  # noqa: F401
    finally:
        python_logging.disable(disabled)
