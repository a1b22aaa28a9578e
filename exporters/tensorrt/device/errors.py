"""What the person at the device can mend."""


class RunError(Exception):
    """The run cannot go on: the first line says what is wrong, the rest what to do. Exit code 2."""
