"""A vision-language model that runs three graphs: vision encoder, token embedding, and decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amp_export.architectures._grid_encoders import GRIDS
from amp_export.architectures._position_axes import NUM_AXES
from amp_export.errors import RequestError
from amp_export.exporters.models.decoder import GraphDecoder, Past
from amp_export.exporters.models.ports import EMBEDDINGS, FEATURES, GRID_INPUTS, PIXELS, TYPES

if TYPE_CHECKING:
    import numpy as np

    from amp_export.exporters.models.session import Floats, Integers, Session

    Flags = np.ndarray[Any, np.dtype[np.bool_]]


class GraphVisionLanguage(GraphDecoder):
    """A loaded vision-language model, which is a decoder to those who give it text alone.

    Args:
        vision: The vision encoder.
        embedding: The token embedding.
        decoder: The decoder.

    Attributes:
        tokens_per_image: Number of tokens that an image, or a tile of one, takes the places of; None if it depends on
            the size of the image.
        position_axes: Number of positions that a token has: 3 in time, height and width, or 1.
        vision_inputs: Inputs of the vision encoder by name.
    """

    def __init__(self, vision: Session, embedding: Session, decoder: Session) -> None:
        super().__init__(decoder)
        self._vision, self._embedding = vision, embedding
        _, *counted, _ = vision.outputs[FEATURES].axes
        self.tokens_per_image = counted[0] if counted and isinstance(counted[0], int) else None
        positions = decoder.inputs.get("position_ids")
        self.position_axes = NUM_AXES if positions is not None and len(positions.axes) == 3 else 1
        self.vision_inputs = vision.inputs

    @property
    def has_grids(self) -> bool:
        """Whether the vision encoder takes patches of images of any size, and their grids."""
        return any(name in self.vision_inputs for name in GRID_INPUTS)

    @property
    def values_per_patch(self) -> int:
        """Number of values of a patch, where the vision encoder takes patches of images of any size."""
        *_, values = self.vision_inputs[PIXELS].axes
        assert isinstance(values, int), "patches have one size"
        return values

    def _enter(self, input_ids: Integers, position_ids: Integers) -> tuple[Mapping[str, Any], Integers]:
        """See `GraphDecoder`: text alone, whose positions in time, height and width are the same."""
        import numpy as np

        session = self._open()
        new = {EMBEDDINGS: self._embed(input_ids)}
        if TYPES in session.inputs:
            new[TYPES] = session.to_value(np.zeros_like(input_ids))
        return new, np.stack([position_ids] * self.position_axes) if self.position_axes > 1 else position_ids

    def encode_images(self, inputs: Mapping[str, Any]) -> Floats:
        """Return the features of images, float32 [images, tokens of an image, hidden_size], or [tokens, hidden_size].

        Args:
            inputs: Arrays by name, as the model's processor makes them: `pixel_values`, and `pixel_attention_mask` or
                `image_grid_thw` if the vision encoder takes it.

        Raises:
            RequestError: An input is missing, or the grids are not of the patches.
        """
        vision = self._vision
        if self.has_grids and GRIDS in inputs and PIXELS in inputs:
            _check_grids(inputs[GRIDS], len(inputs[PIXELS]))
        named = {name: inputs[GRIDS] for name in GRID_INPUTS if name in vision.inputs and GRIDS in inputs}
        (features,) = vision.run([FEATURES], vision.choose_inputs({**inputs, **named}))
        return vision.to_float32(features)

    def read(
        self,
        input_ids: Integers,
        features: Floats,
        is_image_bs: Flags,
        attention_mask: Integers,
        position_ids: Integers,
        *,
        logits_to_keep: int = 0,
    ) -> tuple[Floats, Past]:
        """Compute the logits of a text with images in it, as the first call.

        Args:
            input_ids: The tokens, int64 [batch_size, sequence_length].
            features: What `encode_images` returned, in the order of the text and its batch.
            is_image_bs: Which tokens stand for images, [batch_size, sequence_length].
            attention_mask: See `Decoder.forward`.
            position_ids: See `Decoder.forward`; or, where `position_axes` is 3, [3, batch_size, sequence_length], as
                `get_rope_index` of transformers' model computes them.
            logits_to_keep: See `Decoder.forward`.

        Returns:
            See `Decoder.forward`.

        Raises:
            RequestError: There are more tokens for images than features, or less.
        """
        import numpy as np

        session = self._open()
        rows = features.reshape(-1, features.shape[-1])
        if len(rows) != int(is_image_bs.sum()):
            raise RequestError(
                f"The text has {int(is_image_bs.sum())} tokens for images, and the images have {len(rows)} features.\n"
                "Give text and images as the model's processor makes them together."
            )
        embeddings_bsh = self._embedding.to_float32(self._embed(input_ids)).copy()
        embeddings_bsh[is_image_bs] = rows
        new = {EMBEDDINGS: session.to_value(embeddings_bsh, session.inputs[EMBEDDINGS].float_dtype)}
        if TYPES in session.inputs:
            new[TYPES] = session.to_value(is_image_bs.astype(np.int64))
        logits, past = self._step(new, attention_mask, position_ids, None, logits_to_keep=logits_to_keep)
        return session.to_float32(logits)[:, -logits_to_keep:], past

    def close(self) -> None:
        """Free the weights."""
        super().close()
        del self._vision, self._embedding

    def _embed(self, input_ids: Integers) -> Any:
        given = {"input_ids": self._embedding.to_value(input_ids)}
        (embeddings,) = self._embedding.run([EMBEDDINGS], given, keep=[EMBEDDINGS])
        return embeddings


def _check_grids(grids: Integers, patches: int) -> None:
    """Check that grids are of so many patches; the graph would look up an image that is not there, or leave one out.

    Raises:
        RequestError: They are of more, or less.
    """
    if (counted := int(grids.prod(axis=1).sum())) != patches:
        raise RequestError(
            f"{PIXELS} has {patches} patches, and the grids in {GRIDS} are of {counted}.\nGive both as the model's "
            "processor makes them together."
        )
