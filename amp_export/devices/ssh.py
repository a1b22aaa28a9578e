"""A device that is reached by the system's `ssh` and `sftp`, with the user's own keys and `~/.ssh/config`.

Host keys are always checked. What runs on the device are the fixed commands of `device_commands`, whose only parameter
is a SHA-256; everything else goes there as data.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from amp_export.errors import DeviceError, RequestError

CONNECT_SECONDS = 10
ALIVE_SECONDS, ALIVE_COUNT = 5, 3
"""A host that says nothing so often, asked so often, is gone."""

LOST = 255
"""The exit code of ssh itself: ssh(1), EXIT STATUS. Our commands never return it."""

_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?"
)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        host: A name, an alias of `~/.ssh/config`, or an IP address.
        user: The user there; None leaves it to ssh.
        port: The port; None leaves it to ssh.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `ssh://[user@]host[:port]`.

        Raises:
            RequestError: It is something else.
        """
        found = _ADDRESS.fullmatch(text)
        port = int(found["port"]) if found and found["port"] else None
        if found is None or port == 0 or (port or 0) > 65535:
            raise RequestError(
                f"--device {text!r} is no address of a device.\n"
                "Give ssh://[user@]host[:port], such as ssh://orin.local. Passwords are not taken: use a key."
            )
        return cls(found["host"].strip("[]"), found["user"], port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True)
class Running:
    """A process of ssh or sftp.

    Attributes:
        process: The process.
        log: What ssh itself says.
    """

    process: subprocess.Popen[str]
    log: IO[bytes]

    def lines(self) -> Iterator[str]:
        """Yield what the device says, when it comes."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.rstrip("\n")

    def stderr_text(self) -> str:
        """Return what ssh has said so far."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


@dataclass(frozen=True)
class Connection:
    """Runs commands on a device and copies files, each over a connection of its own.

    Attributes:
        address: Where it is.
        config: Another file than `~/.ssh/config`.
    """

    address: Address
    config: Path | None = None

    def run(self, command: str, sha256: str, *, data: str = "") -> list[str]:
        """Run a command and returns the lines that it says.

        Args:
            command: A text of `device_commands`.
            sha256: Its parameter.
            data: What it reads on its standard input.

        Raises:
            DeviceError: The device cannot be reached, or the command failed.
        """
        said: list[str] = []
        code = self.follow(command, sha256, said.append, data=data)
        if code:
            last = said[-1] if said else "It said nothing."
            raise DeviceError(f"A command on {self.address} failed with exit code {code}: {last}")
        return said

    def follow(self, command: str, sha256: str, on_line: Callable[[str], None], *, data: str = "") -> int:
        """Run a command and shows each line that it says when it comes; the arguments are those of `run`.

        Returns:
            The command's exit code.

        Raises:
            DeviceError: The device cannot be reached, or the connection was lost.
        """
        with self.start(command, sha256, data=data) as running:
            for line in running.lines():
                on_line(line)
            code = running.process.wait()
            if code == LOST or code < 0:
                raise self._explain(running.stderr_text())
            return code

    @contextlib.contextmanager
    def start(self, command: str, sha256: str, *, data: str = "") -> Iterator[Running]:
        """Start a command, and ends it with the block; the arguments are those of `run`."""
        assert _SHA256.fullmatch(sha256)
        arguments = ["ssh", "-T", *self._options(), "-o", "RemoteCommand=none"]
        if self.address.port is not None:
            arguments += ["-p", str(self.address.port)]
        arguments += ["--", self.address.host, f"exec sh -c '{command}' sh {sha256}"]
        with _start(arguments, data) as running:
            yield running

    def copy(self, batch: str, *, folder: Path) -> None:
        """Copy files with sftp.

        Args:
            batch: What sftp is to do; only with names that we made.
            folder: Where it runs.

        Raises:
            DeviceError: The device cannot be reached, the connection was lost, or a file could not be copied.
        """
        arguments = ["sftp", "-b", "-", *self._options()]
        if self.address.port is not None:
            arguments += ["-P", str(self.address.port)]
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        with _start([*arguments, "--", host], batch, folder=folder) as running:
            for _ in running.lines():
                pass  # sftp repeats what it was told
            code = running.process.wait()
            if code == LOST or code < 0:
                raise self._explain(running.stderr_text())
            if code:
                last = (running.stderr_text().strip().splitlines() or ["sftp said nothing."])[-1]
                raise DeviceError(
                    f"A file could not be copied to or from {self.address}: {last}\n"
                    "Is the disk full, there or here? Does its ssh server have sftp?"
                )

    def _options(self) -> list[str]:
        options = [] if self.config is None else ["-F", str(self.config.resolve())]
        settings: dict[str, str | int] = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": CONNECT_SECONDS,
            "ServerAliveInterval": ALIVE_SECONDS,
            "ServerAliveCountMax": ALIVE_COUNT,
            "LogLevel": "INFO",
            "ClearAllForwardings": "yes",
        }
        if self.address.user is not None:
            settings["User"] = self.address.user
        return [*options, *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]

    def _explain(self, said: str) -> DeviceError:
        """Say what to do about what ssh says; its messages are of OpenSSH 9.2, and are not translated."""
        user = "" if self.address.user is None else f"{self.address.user}@"
        port = "" if self.address.port is None else f"-p {self.address.port} "
        config = "" if self.config is None else f"-F {self.config} "
        by_hand = f"ssh {config}{port}{user}{self.address.host}"
        # how known_hosts names a host that listens on another port
        known = self.address.host if self.address.port is None else f"[{self.address.host}]:{self.address.port}"
        for words, problem, advice in _PROBLEMS:
            if words in said:
                return DeviceError(f"{self.address} {problem}.\n{advice.format(by_hand=by_hand, known=known)}")
        # sftp adds that line to whatever ssh has said
        lines = [line for line in said.strip().splitlines() if line != "Connection closed"] or ["it was closed"]
        return DeviceError(f"The connection to {self.address} failed or was lost: {lines[-1].strip()}\nTry: {by_hand}")


_PROBLEMS = (
    ("Could not resolve hostname", "is no host that is known here", "Is the name right? Try: {by_hand}"),
    (
        "Connection refused",
        "refuses the connection",
        "Is an ssh server running there, and on this port? On the device: sudo apt install openssh-server.",
    ),
    ("No route to host", "is not reached", "Is it on, and in the same network?"),
    ("Connection timed out", "does not answer", "Is it on, and in the same network?"),
    ("Operation timed out", "does not answer", "Is it on, and in the same network?"),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "shows another host key than before",
        "It was installed anew, or it is another machine. Find out which; then: ssh-keygen -R {known}, and {by_hand}",
    ),
    (
        "Host key verification failed",
        "shows a host key that is not known here",
        "Connect once by hand, compare the key's fingerprint, and accept it: {by_hand}",
    ),
    (
        "Permission denied (",
        "does not let you in",
        "A key without a passphrase, or one in ssh-agent, must be accepted there: ssh-copy-id. Try: {by_hand}",
    ),
    (
        "Bad owner or permissions",
        "is not reached, because ssh does not trust its own configuration",
        "Nobody but you may write it: chmod 600 ~/.ssh/config. Try: {by_hand}",
    ),
)
"""What ssh says, what that means, and what to do; the first that fits is taken."""


@contextlib.contextmanager
def _start(arguments: list[str], data: str, *, folder: Path | None = None) -> Iterator[Running]:
    with tempfile.TemporaryFile("w+b") as log, tempfile.TemporaryFile("w+b") as given:
        given.write(data.encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
                cwd=folder,
            )
        except FileNotFoundError as error:
            raise DeviceError(
                f"There is no {arguments[0]} here.\nInstall OpenSSH's client: sudo apt install openssh-client."
            ) from error
        try:
            yield Running(process, log)
        finally:
            process.kill()
            process.communicate()
