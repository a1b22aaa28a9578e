"""Where the patches of images are, computed from the grids of the images, as nodes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.builder.steps import Steps
from amp_export.options import Dtype

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.nodes import Graph


@dataclass(frozen=True)
class Patches:
    """Names of what is known of each patch, int64 [patches, 1], unless another shape is named.

    Attributes:
        numbers: Its number, [patches].
        images: The number of its image, [patches].
        frames: The number of its frame within the image.
        places: Its number within the frame.
        rows: Its row within the frame.
        columns: Its column within the frame.
        heights: Number of rows of the frame.
        widths: Number of columns of the frame.
    """

    numbers: str
    images: str
    frames: str
    places: str
    rows: str
    columns: str
    heights: str
    widths: str


@dataclass(frozen=True)
class Groups:
    """Names of what is known of groups of patches that attend to one another: frames, or windows in them.

    Attributes:
        size: Number of places of a group, int64 [1]; not all of them need be filled.
        patches: The number of the patch at each place of all groups, int64 [groups x size]; -1 where there is none.
        places: The place of each patch, int64 [patches].
    """

    size: str
    patches: str
    places: str


@dataclass(frozen=True)
class GridPoint:
    """Names of what is known of one of the points of a square grid that surround a patch.

    Attributes:
        places: Its number in the grid, row by row, int64 [patches].
        weights: Its share in the patch, float32 [patches, 1].
    """

    places: str
    weights: str


def add_patches(graph: Graph, pixels: str, grids: str, *, side: int) -> Patches:
    """Add where each patch is.

    Patches are ordered by image, frame and square, squares by row, and patches in a square by row: the order of
    `get_vision_position_ids`, `vision_utils.py`, transformers 5.24.

    Args:
        graph: Graph to add it to.
        pixels: Name of the patches, [patches, values].
        grids: Name of the grids, int64 [images, 3].
        side: Number of rows of a square.
    """
    step = Steps(graph, "patches")
    zero, one, sides = graph.integer(0), graph.integer(1), graph.integer(side)
    count = step("Squeeze", step("Shape", pixels, name="shape", end=1), name="count")
    numbers = step("Range", zero, count, one, name="numbers")
    times, heights, widths = graph.split(grids, [1, 1, 1], outputs=image_facts("times", "heights", "widths"))
    sizes = step("Mul", times, step("Mul", heights, widths, name="image_frame"), name="image_size")
    ends = step("CumSum", sizes, zero, name="image_ends")
    starts = step("Sub", ends, sizes, name="image_starts")
    # the images that end before a patch
    before = graph.to_int64(step("LessOrEqual", ends, numbers, name="after"), output="patches.after_ones")
    images = step("ReduceSum", before, graph.integers(0), name="images", keepdims=0)
    facts = step("Concat", starts, heights, widths, name="image_facts", axis=1)
    named = ("patches.starts", "patches.heights", "patches.widths")
    start, height, width = graph.split(step("Gather", facts, images, name="facts", axis=0), [1, 1, 1], outputs=named)
    number = step("Unsqueeze", numbers, graph.integers(1), name="column_of_numbers")
    in_image = step("Sub", number, start, name="in_image")
    size = step("Mul", height, width, name="frame_size")
    in_frame = step("Mod", in_image, size, name="in_frame")
    square = step("Div", in_frame, graph.integer(side**2), name="square")
    squares = step("Div", width, sides, name="squares_of_row")
    rows, columns = (
        step(
            "Add",
            step("Mul", step(operator, square, squares, name=f"{name}.square"), sides, name=f"{name}.first"),
            step("Mod", inside, sides, name=f"{name}.inside"),
            name=name,
        )
        for name, operator, inside in (
            ("rows", "Div", step("Div", in_frame, sides, name="row_of_squares")),
            ("columns", "Mod", in_frame),
        )
    )
    return Patches(
        numbers=numbers,
        images=images,
        frames=step("Div", in_image, size, name="frames"),
        places=in_frame,
        rows=rows,
        columns=columns,
        heights=height,
        widths=width,
    )


def add_frames(graph: Graph, patches: Patches) -> Groups:
    """Add frames as groups, of which each has places for the largest.

    Source: `get_vision_cu_seqlens`, `vision_utils.py`, transformers 5.24.
    """
    step = Steps(graph, "frames")
    times, sizes = image_facts("times", "frame")
    starts = step("CumSum", times, graph.integer(0), name="image_starts", exclusive=1)
    start = step("Gather", starts, patches.images, name="starts", axis=0)
    largest = step("ReduceMax", sizes, graph.integers(0), name="largest", keepdims=0)
    number = step("Add", start, patches.frames, name="numbers")
    return _add_groups(graph, "frames", patches, number=number, inside=patches.places, size=largest, counts=times)


def add_windows(graph: Graph, patches: Patches, *, side: int) -> Groups:
    """Add windows of so many rows and columns of patches, of which those at the edges of a frame may have less.

    The order of patches in a window matters to no attention. Source of the windows: `get_vision_window_index`,
    `vision_utils.py`, transformers 5.24.
    """
    step = Steps(graph, "windows")

    def count(lengths: str, name: str) -> str:
        return step("Div", step("Add", lengths, graph.integer(side - 1), name=f"{name}.up"), sides, name=name)

    zero, sides = graph.integer(0), graph.integer(side)
    times, heights, widths = image_facts("times", "heights", "widths")
    wide = count(widths, "image_columns")
    of_frame = step("Mul", count(heights, "image_rows"), wide, name="image_frame")
    of_image = step("Mul", times, of_frame, name="image_windows")
    starts = step("CumSum", of_image, zero, name="image_starts", exclusive=1)
    facts = step("Concat", starts, of_frame, wide, name="image_facts", axis=1)
    named = ("windows.starts", "windows.of_frame", "windows.columns")
    found = step("Gather", facts, patches.images, name="facts", axis=0)
    start, per_frame, columns = graph.split(found, [1, 1, 1], outputs=named)
    frame = step("Add", start, step("Mul", patches.frames, per_frame, name="before_frame"), name="frame")
    row = step("Mul", step("Div", patches.rows, sides, name="row"), columns, name="before_row")
    column = step("Div", patches.columns, sides, name="column")
    window = step("Add", step("Add", frame, row, name="in_row"), column, name="window")
    inside_row = step("Mul", step("Mod", patches.rows, sides, name="inside_rows"), sides, name="inside_row")
    inside = step("Add", inside_row, step("Mod", patches.columns, sides, name="inside_column"), name="inside")
    size = graph.integers(side**2)
    return _add_groups(graph, "windows", patches, number=window, inside=inside, size=size, counts=of_image)


def _add_groups(
    graph: Graph, scope: str, patches: Patches, *, number: str, inside: str, size: str, counts: str
) -> Groups:
    """Add the patch at each place of groups.

    Args:
        graph: Graph to add it to.
        scope: First part of the names.
        patches: The patches.
        number: Name of the number of each patch's group, int64 [patches, 1].
        inside: Name of the number of each patch within its group, int64 [patches, 1].
        size: Name of the number of places of a group, int64 [1].
        counts: Name of the number of groups of each image, int64 [images, 1].
    """
    step = Steps(graph, scope)
    place = step("Add", step("Mul", number, size, name="first_places"), inside, name="column_of_places")
    places = step("Squeeze", place, graph.integers(1), name="places")
    total = step("ReduceSum", counts, name="count", keepdims=0)
    nothing = step("Expand", graph.integers(-1), step("Mul", total, size, name="all_places"), name="empty")
    found = step("ScatterElements", nothing, places, patches.numbers, name="patches")
    return Groups(size=size, patches=found, places=places)


def add_grid_points(graph: Graph, patches: Patches, *, side: int) -> list[GridPoint]:
    """Add the four points of a square grid that surround each patch, once its frame is stretched over the grid.

    Corners of the frame are corners of the grid, and shares are bilinear. Source:
    `get_vision_interpolation_indices_and_weights`, `vision_utils.py`, transformers 5.24.

    Args:
        graph: Graph to add them to.
        patches: Where each patch is.
        side: Number of rows and columns of the grid.
    """
    step = Steps(graph, "grid")

    def add_axis(places: str, lengths: str, name: str) -> list[tuple[str, str]]:
        """Return the points before and after each patch on an axis, and their shares."""
        last = graph.to_float32(
            step("Max", step("Sub", lengths, one, name=f"{name}.gaps"), one, name=f"{name}.last"),
            output=f"grid.{name}.last_float32",
        )
        numbers = graph.to_float32(places, output=f"grid.{name}.float32")
        stretched = step("Mul", numbers, graph.number(side - 1, dtype=Dtype.FLOAT32), name=f"{name}.stretched")
        reached = step("Div", stretched, last, name=f"{name}.reached")
        floor = step("Floor", reached, name=f"{name}.floor")
        before = graph.to_int64(floor, output=f"grid.{name}.before")
        after = step(
            "Min", step("Add", before, one, name=f"{name}.next"), graph.integer(side - 1), name=f"{name}.after"
        )
        share = step("Sub", reached, floor, name=f"{name}.share_after")
        rest = step("Sub", graph.number(1.0, dtype=Dtype.FLOAT32), share, name=f"{name}.share_before")
        return [(before, rest), (after, share)]

    one = graph.integer(1)
    rows = add_axis(patches.rows, patches.heights, "rows")
    columns = add_axis(patches.columns, patches.widths, "columns")
    points = []
    for number, ((row, of_row), (column, of_column)) in enumerate(itertools.product(rows, columns)):
        first = step("Mul", row, graph.integer(side), name=f"{number}.first")
        place = step("Add", first, column, name=f"{number}.place")
        places = step("Squeeze", place, graph.integers(1), name=f"{number}.places")
        points.append(GridPoint(places, step("Mul", of_row, of_column, name=f"{number}.weights")))
    return points


def image_facts(*names: str) -> list[str]:
    """Return the names of facts about images."""
    return [f"patches.image_{name}" for name in names]
