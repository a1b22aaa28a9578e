"""The largest shapes that an engine or a program takes, for which its memory is planned."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.errors import RequestError


@dataclass(frozen=True)
class Limits:
    """What an engine or a program has to take.

    Attributes:
        max_batch: The largest batch.
        max_context: The most tokens of a text, past and new ones together.
    """

    max_batch: int = 1
    max_context: int = 2048

    def check(self, context: int | None) -> None:
        """Check the limits against the model's context.

        Args:
            context: In tokens; None where the model takes texts of any length.

        Raises:
            RequestError: One is less than what makes sense, or the model's context is shorter.
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
        context: The model's context, in tokens; None where it takes texts of any length.
        max_batch: The largest batch.
        max_context: The most tokens of a text, or None for the default.
        default_context: The default, where the model's context is not shorter.

    Raises:
        RequestError: They make no sense, or the model's context is shorter.
    """
    if max_context is None:
        max_context = default_context if context is None else min(default_context, context)
    limits = Limits(max_batch, max_context)
    limits.check(context)
    return limits
