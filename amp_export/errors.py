"""Exceptions that a user can meet, in one hierarchy.

The classes::

    AmpExportError                 exit code 2 unless noted
    ├── RequestError (ValueError)  the request cannot be fulfilled
    │   ├── ModelError             the model does not exist, or its files are damaged
    │   ├── UnsupportedModelError  a kind of model that is not supported
    │   ├── CalibrationError       the calibration data is empty or malformed
    │   ├── TaskError              a task or file to evaluate on cannot be read, or does not suit the model
    │   ├── RatioError             an illegal ratio; `nearest` is the nearest legal one
    │   └── PlanError              a plan that does not fit the model
    ├── OutputError (OSError)      the output directory cannot be read or written
    │   └── NewerSchemaError       a file has a newer schema than this version knows
    ├── DeviceError (OSError)      a device cannot be reached, or cannot do what was requested
    ├── ClusterError (OSError)     a Ray cluster cannot be reached, or cannot run a job
    ├── MissingExtraError          an optional dependency is not installed; the message has the install command
    └── VerificationError          exit code 1: an output does not compute what it should
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|failed to map segment|bad_alloc|out of memory|failed to allocate|"
    r"can't start new thread",
    re.IGNORECASE,
)
"""What libraries say: torch's DefaultCPUAllocator and CUDA, glibc's loader, C++, ONNX Runtime's arena, and threads."""


class AmpExportError(Exception):
    """Base class of all errors that a user can resolve.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code = 2


class RequestError(AmpExportError, ValueError):
    """The request cannot be fulfilled."""


class ModelError(RequestError):
    """The model cannot be found, or its files are damaged or contradict each other."""


class UnsupportedModelError(RequestError):
    """The model is of a kind that is not supported."""


class CalibrationError(RequestError):
    """The calibration data is empty or malformed, or does not suit the model."""


class TaskError(RequestError):
    """A task or file to evaluate on cannot be read, is empty or malformed, or does not suit the model."""


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
    """The output directory cannot be read or written, or holds files that must not be overwritten."""


class DeviceError(AmpExportError, OSError):
    """A device cannot be reached, was lost, or cannot do what was requested."""


class ClusterError(AmpExportError, OSError):
    """A Ray cluster cannot be reached, or cannot run a job."""


class NewerSchemaError(OutputError):
    """A file was written by a newer version, with a schema that this version does not know."""


class MissingExtraError(AmpExportError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, *, needed_for: str) -> None:
        super().__init__(f'{needed_for} needs an optional dependency.\nInstall it: pip install "amp-export[{extra}]"')
        self.extra = extra


class VerificationError(AmpExportError):
    """An output was written that does not compute what it should."""

    exit_code = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, torch, ONNX Runtime or the system says that memory ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def command_line(*words: object) -> str:
    """Return a command for the user to copy into a shell: each word is quoted where it has to be."""
    return shlex.join(map(str, words))


def system_error(error: BaseException) -> int | None:
    """Return the number of the system's error that an error stands for, or None: the libraries in Rust only print it.

    Source: `Display` of `std::io::Error`, which ends in `(os error N)`.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return None if found is None else int(found[1])


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
