from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.exporters.onnx.builder import transposing
from amp_export.exporters.onnx.builder.transposing import transpose, transpose_in_stripes


@pytest.fixture(autouse=True, scope="module")
def _small_tiles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transposing, "_TILE_ROWS", 3)
        patch.setattr(transposing, "_TILE_COLUMNS", 4)
        patch.setattr(transposing, "_STRIPE", 3)
        yield


@given(
    rows=st.integers(0, 10),
    columns=st.integers(0, 10),
    dtypes=st.sampled_from(
        [(np.int8, None), (np.float32, np.float16), (ml_dtypes.bfloat16, None), (ml_dtypes.bfloat16, np.float32)]
    ),
    is_turned=st.booleans(),
)
def test_a_transpose_is_that_of_numpy_whatever_tiles_divide(
    rows: int, columns: int, dtypes: tuple[type, type | None], is_turned: bool
) -> None:
    source, wanted = dtypes
    matrix_rc: Any = np.random.default_rng(0).integers(-99, 99, (rows, columns)).astype(source)
    if is_turned:
        matrix_rc = np.asfortranarray(matrix_rc)

    turned_cr = transpose(matrix_rc, None if wanted is None else np.dtype(wanted))

    assert turned_cr.flags.c_contiguous
    assert turned_cr.dtype == (wanted or source)
    np.testing.assert_array_equal(turned_cr.astype(np.float64), matrix_rc.T.astype(np.float64))
    stripes = [stripe.tobytes() for stripe in transpose_in_stripes(matrix_rc, turned_cr.dtype)]
    assert b"".join(stripes) == turned_cr.tobytes()
    assert len(stripes) == -(-columns // 3)
