"""The largest shapes that an engine or a program supports; its memory is planned for them."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.errors import RequestError


@dataclass(frozen=True)
class Limits:
    """Limits of an engine's or a program's inputs.

    Attributes:
        max_batch: The largest batch.
        max_context: The longest context, cached and new tokens together.
    """

    max_batch: int = 1
    max_context: int = 2048

    def check(self, context: int | None) -> None:
        """Check the limits against the model's context.

        Args:
            context: The model's context in tokens; None if it takes texts of any length.

        Raises:
            RequestError: A limit is too small, or exceeds the model's context.
        """
        if self.max_batch < 1 or self.max_context < 2:
            raise RequestError(
                f"--max-batch {self.max_batch} and --max-context {self.max_context} leave no room for any input.\n"
                "Give --max-batch 1 or more, and --max-context 2 or more: one token in the KV cache and one to decode."
            )
        if context is not None and self.max_context > context:
            raise RequestError(
                f"--max-context is {self.max_context}, but the model's context is {context} tokens long.\n"
                f"Give --max-context {context} or less."
            )


def choose_limits(
    context: int | None,
    *,
    max_batch: int = 1,
    max_context: int | None = None,
    default_context: int = Limits.max_context,
) -> Limits:
    """Return the limits for a model.

    Args:
        context: The model's context in tokens; None if it takes texts of any length.
        max_batch: The largest batch.
        max_context: The longest context, or None for the default.
        default_context: The default, unless the model's context is shorter.

    Raises:
        RequestError: A limit is too small, or exceeds the model's context.
    """
    if max_context is None:
        max_context = default_context if context is None else min(default_context, context)
    limits = Limits(max_batch, max_context)
    limits.check(context)
    return limits
