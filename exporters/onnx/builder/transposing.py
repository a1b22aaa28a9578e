"""Transposes matrices, in tiles that stay in the processor's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_TILE_ROWS, _TILE_COLUMNS = 256, 512
_APART = 32
"""Numbers between the rows of a tile: without them, rows of a length that is a power of two share few sets of the
cache, and each number that is read sends another away: 7,680 columns of bfloat16 take half the time for it."""


def transpose(matrix_rc: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """Return the transpose of a matrix as an array of its own, whose rows are contiguous.

    Args:
        matrix_rc: The matrix, [rows, columns].
        dtype: Dtype of the result, by default that of the matrix.
    """
    import numpy as np

    rows, columns = matrix_rc.shape
    turned_cr = np.empty((columns, rows), dtype or matrix_rc.dtype)
    buffer = np.empty((_TILE_ROWS, _TILE_COLUMNS + _APART), turned_cr.dtype)
    for row in range(0, rows, _TILE_ROWS):
        for column in range(0, columns, _TILE_COLUMNS):
            tile_rc = matrix_rc[row : row + _TILE_ROWS, column : column + _TILE_COLUMNS]
            held_rc = buffer[: tile_rc.shape[0], : tile_rc.shape[1]]
            held_rc[...] = tile_rc
            turned_cr[column : column + _TILE_COLUMNS, row : row + _TILE_ROWS] = held_rc.T
    return turned_cr
