"""Errors that the user of the device can fix."""


class RunError(Exception):
    """The run cannot continue: the first line gives the problem, the others the advice. Exit code 2."""
