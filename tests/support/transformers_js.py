"""Text and numbers of models in transformers.js, in a process of Node or in Chromium."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import mimetypes
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.chromium import find_chromium
from tests.support.vision_language_models import VISION_START

ANY_SIDE = 56
"""Height and width of images that may have any."""

GRID_SIZES = np.array([[1, 4, 6], [1, 10, 4]])
"""Time, rows and columns of patches of images with grids."""

MODULES = "AMP_EXPORT_NODE_MODULES"
"""Environment variable: the folder `node_modules` that has @huggingface/transformers 4.3 or later."""


def find_modules() -> Path | None:
    """Return the folder of modules; None if Node or transformers.js is not there."""
    folder = Path(os.environ.get(MODULES, "node_modules")).resolve()
    return folder if shutil.which("node") and (folder / "@huggingface" / "transformers").is_dir() else None


def ask(modules: Path, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the answers to requests, one for each: see generate.mjs."""
    command = ["node", str(Path(__file__).with_name("generate.mjs")), str(modules)]
    answered = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=False)
    assert answered.returncode == 0, answered.stderr
    answers: list[Any] = json.loads(answered.stdout)
    return answers


def ask_browser(modules: Path, request: Mapping[str, Any], *, timeout: float = 400) -> Any:
    """Return the answer of a page in Chromium to one request of texts, which it computes in WebAssembly.

    Raises:
        TimeoutError: There was none in time, in seconds.
    """
    chromium = find_chromium()
    assert chromium is not None, "Chromium is not installed"
    page = Path(__file__).with_name("browser.html")
    answers: queue.Queue[Any] = queue.Queue()
    serve = functools.partial(
        _Handler, request, {"/modules/": modules, "/model/": Path(request["folder"])}, page, answers
    )
    with contextlib.ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
        command = [chromium, *flags, f"http://127.0.0.1:{server.server_port}/"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        try:
            return answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"The page gave no answer in {timeout:g} s.") from None


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page, its request and the files in folders, and takes the page's answer."""

    def __init__(
        self, asked: Mapping[str, Any], folders: Mapping[str, Path], page: Path, answers: queue.Queue[Any], *rest: Any
    ) -> None:
        self._asked, self._folders, self._page, self._answers = asked, folders, page, answers
        super().__init__(*rest)

    def do_GET(self) -> None:
        self._send()

    def do_HEAD(self) -> None:
        self._send()

    def do_POST(self) -> None:
        self._answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _file(self) -> Path:
        path = self.path.split("?")[0]
        start = next((each for each in self._folders if path.startswith(each)), None)
        return self._page if start is None else self._folders[start] / path.removeprefix(start)

    def _send(self) -> None:
        is_request, file = self.path == "/request", self._file()
        is_there = is_request or file.is_file()
        content = json.dumps(self._asked).encode() if is_request else file.read_bytes() if is_there else b""
        kind = "text/javascript" if file.suffix == ".mjs" else mimetypes.guess_type(file)[0]
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        # threads of WebAssembly need an isolated page
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def generated_here(folder: Path, prompts: Sequence[Sequence[int]], *, new_tokens: int, ends: set[int]) -> list[Any]:
    """Return what an export generates greedily in ONNX Runtime here; a token that ends a text is part of it."""
    from amp_export.exporters.dispatch import run
    from amp_export.exporters.models.generation import generate

    decoder = run(folder)
    texts = []
    for prompt in prompts:
        text: list[int] = []
        # an ending token is not yielded, so nothing ends a text here
        for step in generate(decoder, [prompt], new_tokens=new_tokens):  # type: ignore[arg-type]
            text.append(step[0])
            if text[-1] in ends:
                break
        texts.append(text)
    decoder.close()
    return texts


def text_with_images(model: Any, image_token: int) -> tuple[list[int], dict[str, Any]]:
    """Token ids of a text with two images, and random inputs of a vision encoder.

    Half of the second image is masked where there are masks; where images have grids, they have sizes of their own.
    """
    if model.has_grids:
        return _text_with_grids(model, image_token)
    _, *axes = model.vision_inputs["pixel_values"].axes[-4:]
    tile = [axis if isinstance(axis, int) else ANY_SIDE for axis in axes]
    pixels = np.random.default_rng(0).standard_normal((2, *tile), np.float32)
    vision = {"pixel_values": pixels}
    if "pixel_attention_mask" in model.vision_inputs:
        mask = np.ones((1, 2, *tile[1:]), bool)
        mask[0, 1, tile[1] // 2 :] = False
        vision = {"pixel_values": pixels[None] * mask[:, :, None], "pixel_attention_mask": mask}
    image = [image_token] * model.encode_images(vision).shape[1]
    return [5, 6, *image, 7, 8, *image, 9, 10], vision


def _text_with_grids(model: Any, image_token: int) -> tuple[list[int], dict[str, Any]]:
    sizes = GRID_SIZES.prod(axis=1)
    pixels = np.random.default_rng(0).standard_normal((sizes.sum(), model.values_per_patch), np.float32)
    vision = {"pixel_values": pixels, "image_grid_thw": GRID_SIZES}
    first, second = sizes * len(model.encode_images(vision)) // sizes.sum()
    # transformers.js finds images by the token before them
    images = ([VISION_START, *[image_token] * count] for count in (first, second))
    return [5, 6, *next(images), 7, 8, *next(images), 9, 10], vision


def positions_of(folder: Path, ids: Sequence[int], vision: Mapping[str, Any], *, image_token: int) -> Any:
    """Return the positions of a text's tokens, as transformers computes them, for a vision-language model in parts."""
    import torch

    from amp_export.checkpoints.loading import build_whole

    tokens = torch.tensor([ids])
    core: Any = build_whole(folder).base_model
    grids = torch.from_numpy(vision["image_grid_thw"])
    return core.get_rope_index(tokens, (tokens == image_token).int(), image_grid_thw=grids)[0].numpy()


def as_json(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a vision encoder as generate.mjs takes them."""
    return {
        name: {"type": str(array.dtype), "dims": array.shape, "data": array.ravel().astype(float).tolist()}
        for name, array in vision.items()
    }


def generated_after_images(
    model: Any,
    folder: Path,
    ids: Sequence[int],
    vision: Mapping[str, Any],
    *,
    image_token: int,
    new_tokens: int,
    ends: set[int],
) -> list[int]:
    """Return what a vision-language model in parts generates greedily here, with a token that ends the text."""
    tokens_bs = np.array([ids])
    features = model.encode_images(vision)
    has_axes = model.position_axes > 1
    places = positions_of(folder, ids, vision, image_token=image_token) if has_axes else np.arange(len(ids))[None]
    logits_bsv, past = model.read(tokens_bs, features, tokens_bs == image_token, np.ones_like(tokens_bs), places)
    text: list[int] = []
    while True:
        text.append(int(logits_bsv[0, -1].argmax()))
        if len(text) == new_tokens or text[-1] in ends:
            return text
        length, place = len(ids) + len(text), int(places.max()) + len(text)
        new = np.array([text[-1:]])
        logits_bsv, past = model.forward(new, np.ones((1, length), np.int64), np.array([[place]]), past)
