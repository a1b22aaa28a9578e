from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def drawn(pictures: None) -> None:
    """Draws every page: these tests are about them."""
