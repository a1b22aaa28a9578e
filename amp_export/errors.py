"""Every exception a user can meet.

The tree::

    AmpExportError                 exit code 2 unless noted
    ├── RequestError (ValueError)  the request itself cannot be met
    │   ├── ModelError             no such model, or its files are broken
    │   ├── UnsupportedModelError  a model we know we cannot handle
    │   ├── CalibrationError       the calibration text cannot be used
    │   ├── RatioError             an illegal ratio; carries the nearest legal one
    │   └── PlanError              a plan that does not fit the model
    ├── OutputError (OSError)      the output directory cannot be written
    │   └── NewerSchemaError       a file in it is of a newer version than this one reads
    ├── DeviceError (OSError)      a device cannot be reached, or cannot do what was requested
    ├── MissingExtraError          an optional dependency is absent; carries the install line
    └── VerificationError          exit code 1: what was written does not compute the same thing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


class AmpExportError(Exception):
    """Base of all errors that are the user's to mend.

    Attributes:
        exit_code: What the command line exits with.
    """

    exit_code = 2


class RequestError(AmpExportError, ValueError):
    """The request cannot be fulfilled."""


class ModelError(RequestError):
    """The model cannot be found, or its files are damaged or contradict each other."""


class UnsupportedModelError(RequestError):
    """The model is of a kind that is not supported."""


class CalibrationError(RequestError):
    """The calibration text is empty or malformed."""


class RatioError(RequestError):
    """The ratio is illegal for this model.

    Attributes:
        nearest: The legal ratio nearest to the requested one, or None if there is none.
    """

    def __init__(self, message: str, *, nearest: float | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class PlanError(RequestError):
    """The plan does not fit the model."""


class OutputError(AmpExportError, OSError):
    """The output directory is not ours to overwrite, or could not be written."""


class DeviceError(AmpExportError, OSError):
    """A device cannot be reached, was lost, or cannot do what was requested."""


class NewerSchemaError(OutputError):
    """A file was written by a newer version, in a form that this one does not know."""


class MissingExtraError(AmpExportError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, *, needed_for: str) -> None:
        super().__init__(f'{needed_for} needs an optional dependency.\nInstall it: pip install "amp-export[{extra}]"')
        self.extra = extra


class VerificationError(AmpExportError):
    """Something was written that does not compute what it must."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
