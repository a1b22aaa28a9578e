"""Config fields that follow from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amp_export.architectures._computation import Conditions


@dataclass(frozen=True)
class TwoThirds:
    """Two thirds of a field's value, times a factor, up to the next multiple: `LlamaMLP` as Meta first wrote it.

    Attributes:
        of: The field.
        factor: The field with the factor.
        multiple: The field with the multiple.
    """

    of: str
    factor: str
    multiple: str

    def value(self, fields: Mapping[str, Any]) -> int:
        """Return the value under a config."""
        width, multiple = int(fields[self.factor] * int(2 * fields[self.of] / 3)), fields[self.multiple]
        return int(-(-width // multiple) * multiple)


@dataclass(frozen=True)
class Share:
    """A product of fields, divided by another one, if that is named."""

    of: tuple[str, ...]
    by: str | None = None

    def value(self, fields: Mapping[str, Any]) -> int:
        """Return the value under a config."""
        product = math.prod(int(fields[name]) for name in self.of)
        return product if self.by is None else product // int(fields[self.by])


@dataclass(frozen=True)
class Derived:
    """A config field derived from others.

    Attributes:
        field: The field.
        value: A number, the name of the field that it equals, a name and a multiplier, or a rule.
        when: Conditions under which it is derived; by default, if the config does not set it.
    """

    field: str
    value: int | str | tuple[str, int] | Share | TwoThirds
    when: Conditions | None = None

    def of(self, fields: Mapping[str, Any]) -> Any:
        """Return the value under a config."""
        if isinstance(self.value, Share | TwoThirds):
            return self.value.value(fields)
        if isinstance(self.value, tuple):
            name, factor = self.value
            return fields[name] * factor
        return fields[self.value] if isinstance(self.value, str) else self.value
