"""Commands made from functions: options, errors and exit codes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import traceback
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export.cli.options import FLAGS, READERS
from amp_export.errors import AmpExportError, first_line, is_out_of_memory

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""

DEBUG = "AMP_EXPORT_DEBUG"
"""Environment variable: if it is 1, errors show their stack trace."""

INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: an internal error, which CI must not take for failed parity."""

_LESS_MEMORY = (
    "Close other programs, use a smaller model or shorter --calibration texts, or a machine with more memory."
)


def examples(*commands: str) -> str:
    """Return the end of a help page; the mark at its start prevents rewrapping."""
    return "\n".join(("\b", "Examples:" if len(commands) > 1 else "Example:", *(f"  {each}" for each in commands)))


@dataclasses.dataclass(frozen=True)
class Without:
    """Mark in `Annotated` on an options dataclass: the command has no options for these fields.

    Attributes:
        names: Names of the fields.
    """

    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Group:
    """A parameter that stands for several options.

    Attributes:
        kind: Its dataclass.
        flags: The flag of each option, by field.
    """

    kind: type[Any]
    flags: Mapping[str, Any]

    @classmethod
    def of(cls, hint: Any) -> _Group | None:
        """Return the group that a type hint asks for, or None."""
        kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        if not dataclasses.is_dataclass(kind):
            return None
        left_out = {name for mark in marks if isinstance(mark, Without) for name in mark.names}
        assert isinstance(kind, type)
        return cls(kind, {name: flag for name, flag in FLAGS[kind].items() if name not in left_out})

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the dataclass; options that are not given keep the defaults of the fields."""
        given = {name: values[name] for name in self.flags if values[name] is not None}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return self.kind(**{name: READERS[name](value) if name in READERS else value for name, value in given.items()})


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command from a function.

    A parameter whose type is an options dataclass becomes one option per field: `amp_export.cli.options.FLAGS` has the
    flags, the fields have the defaults. Two dataclasses with a field of the same name share the option. `Without`
    leaves options out.

    Args:
        function: Function to call with a console, which comes first, and the parsed values.
    """
    # importing rich takes longer than all other imports of a help page
    hints = typing.get_type_hints(function, localns={"Console": Any}, include_extras=True)
    _, *parameters = inspect.signature(function).parameters.values()
    groups = {each.name: group for each in parameters if (group := _Group.of(hints[each.name])) is not None}
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = {
        each.name: each.replace(annotation=hints[each.name], kind=keyword)
        for each in parameters
        if each.name not in groups
    }
    options: dict[str, inspect.Parameter] = {}
    for parameter in parameters:
        if parameter.name in own:
            options[parameter.name] = own[parameter.name]
            continue
        group = groups[parameter.name]
        defaults = {field.name: field.default for field in dataclasses.fields(group.kind)}
        for name, flag in group.flags.items():
            default = _as_text(defaults[name]) if name in READERS else defaults[name]
            if name not in own and (name not in options or default is None):
                options[name] = inspect.Parameter(name, keyword, default=default, annotation=flag)

    @functools.wraps(function)
    def run(**values: Any) -> None:
        # click also calls the main command before each subcommand
        if any(getattr(each, "invoked_subcommand", None) for each in values.values()):
            return

        def work(console: Console) -> None:
            given = {name: group.read(values) for name, group in groups.items()}
            function(console, **{name: values[name] for name in own}, **given)

        run_command(work)

    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: option.annotation for name, option in options.items()}
    return run


def _as_text(default: Any) -> str | None:
    return None if default is None else ",".join(map(str, default))


def run_command(work: Callable[[Console], None]) -> None:
    """Run a command; turn an error into a message and an exit code.

    No error shows a stack trace, unless AMP_EXPORT_DEBUG is set to 1.

    Raises:
        Exit: The command failed; the exit code gives the kind of error.
        BadParameter: An option is invalid; typer shows the message.
    """
    from amp_export.cli.console import show_error, stderr_console

    console = stderr_console()
    try:
        work(console)
    except AmpExportError as error:
        _show_trace(console)
        show_error(console, str(error))
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as interruption:
        # what takes hours may leave something to go on from, and says so
        (kept, *_) = getattr(interruption, "__notes__", ("nothing was written.",))
        show_error(console, f"Interrupted; {kept[:1].lower()}{kept[1:]}")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.BadParameter):
        raise
    except PermissionError as error:
        _show_trace(console)
        show_error(
            console,
            f"{error.filename or 'A file'} cannot be read or written{_step(error)}: {error.strerror}.\n"
            "Ask for access to it and to the directories above it, or choose another place.",
        )
        raise typer.Exit(AmpExportError.exit_code) from error
    except Exception as error:
        raise typer.Exit(show_unexpected(error)) from error


def show_unexpected(error: Exception) -> int:
    """Show an error that no command raises on purpose, and return the exit code."""
    from amp_export.cli.console import show_error, stderr_console

    console = stderr_console()
    _show_trace(console)
    if is_out_of_memory(error):
        show_error(console, f"Memory ran out{_step(error)}: {first_line(error)}\n{_LESS_MEMORY}")
        return AmpExportError.exit_code
    show_error(
        console,
        f"Unexpected {type(error).__name__}{_step(error)}: {error}\nThis is an error in amp-export. Run the "
        f"command again with {DEBUG}=1 for the stack trace, and report it: https://github.com/amp-export/amp-export/issues",
    )
    return INTERNAL_ERROR


def _step(error: Exception) -> str:
    """Return the step in which an error happened, as the progress noted it."""
    return "".join(f" {note}" for note in getattr(error, "__notes__", ())[:1])


def _show_trace(console: Console) -> None:
    if os.environ.get(DEBUG) == "1":
        console.print(traceback.format_exc(), markup=False, soft_wrap=True)
