"""Connects to a device with the system's `ssh` and `sftp`, with the user's own keys and `~/.ssh/config`.

Host keys are always checked. Only the fixed commands of `remote_commands` run on the device; their only parameter is a
SHA-256, and everything else is sent as data.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from amp_export.errors import DeviceError, RequestError

CONNECT_SECONDS = 10
ALIVE_SECONDS, ALIVE_COUNT = 5, 3
"""Keep-alive messages without an answer before a connection counts as lost."""

LOST = 255
"""Exit code of ssh itself: ssh(1), EXIT STATUS. The remote commands never return it."""

_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?"
)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Address:
    """Address of a device.

    Attributes:
        host: A name, an alias of `~/.ssh/config`, or an IP address.
        user: User name on the device; None leaves it to ssh.
        port: Port of the ssh server; None leaves it to ssh.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `ssh://[user@]host[:port]`.

        Raises:
            RequestError: The text is not such an address.
        """
        found = _ADDRESS.fullmatch(text)
        port = int(found["port"]) if found and found["port"] else None
        if found is None or port == 0 or (port or 0) > 65535:
            raise RequestError(
                f"--device {text!r} is not the address of a device.\n"
                "Give ssh://[user@]host[:port], such as ssh://orin.local. Passwords are not supported: use a key."
            )
        return cls(found["host"].strip("[]"), found["user"], port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True)
class Running:
    """A running process of ssh or sftp.

    Attributes:
        process: The process.
        log: The stderr of ssh.
    """

    process: subprocess.Popen[str]
    log: IO[bytes]

    def lines(self) -> Iterator[str]:
        """Yield the device's output lines as they arrive."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.rstrip("\n")

    def stderr_text(self) -> str:
        """Return the stderr of ssh so far."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


@dataclass(frozen=True)
class Connection:
    """Runs commands on a device and copies files, each over its own connection.

    Attributes:
        address: Address of the device.
        config: Config file of ssh, if not `~/.ssh/config`.
    """

    address: Address
    config: Path | None = None

    def run(self, command: str, sha256: str, *, data: str = "") -> list[str]:
        """Run a command and return its output lines.

        Args:
            command: A command of `remote_commands`.
            sha256: Parameter of the command.
            data: Standard input of the command.

        Raises:
            DeviceError: The device cannot be reached, or the command failed.
        """
        said: list[str] = []
        code = self.follow(command, sha256, said.append, data=data)
        if code:
            last = said[-1] if said else "It printed nothing."
            raise DeviceError(f"A command on {self.address} failed with exit code {code}: {last}")
        return said

    def follow(self, command: str, sha256: str, on_line: Callable[[str], None], *, data: str = "") -> int:
        """Run a command and show each output line as it arrives; the arguments are those of `run`.

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
        """Start a command, and end it with the block; the arguments are those of `run`."""
        # it becomes part of a shell command
        if not _SHA256.fullmatch(sha256):
            raise DeviceError(f"{sha256!r} is not the SHA-256 of a bundle.\nMake the bundle again: amp-export bundle.")
        arguments = ["ssh", "-T", *self._options(), "-o", "RemoteCommand=none"]
        if self.address.port is not None:
            arguments += ["-p", str(self.address.port)]
        arguments += ["--", self.address.host, f"exec sh -c '{command}' sh {sha256}"]
        with _start(arguments, data) as running:
            yield running

    def copy(self, batch: str, *, folder: Path) -> None:
        """Copy files with sftp.

        Args:
            batch: Batch commands for sftp; file names in them must not need quoting.
            folder: Working directory of sftp.

        Raises:
            DeviceError: The device cannot be reached, the connection was lost, or a file could not be copied.
        """
        arguments = ["sftp", "-b", "-", *self._options()]
        if self.address.port is not None:
            arguments += ["-P", str(self.address.port)]
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        with _start([*arguments, "--", host], batch, folder=folder) as running:
            for _ in running.lines():
                pass  # sftp echoes its commands
            code = running.process.wait()
            if code == LOST or code < 0:
                raise self._explain(running.stderr_text())
            if code:
                last = (running.stderr_text().strip().splitlines() or ["sftp printed nothing."])[-1]
                raise DeviceError(
                    f"A file could not be copied to or from {self.address}: {last}\n"
                    "Check that neither disk is full, and that its ssh server supports sftp."
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
        """Turn ssh's message, as written by OpenSSH 9.2 in any locale, into an error with advice."""
        user = "" if self.address.user is None else f"{self.address.user}@"
        port = "" if self.address.port is None else f"-p {self.address.port} "
        config = "" if self.config is None else f"-F {shlex.quote(str(self.config))} "
        by_hand = f"ssh {config}{port}{user}{self.address.host}"
        # the name in known_hosts of a host with another port
        known = self.address.host if self.address.port is None else f"[{self.address.host}]:{self.address.port}"
        for words, problem, advice in _PROBLEMS:
            if words in said:
                return DeviceError(f"{self.address} {problem}.\n{advice.format(by_hand=by_hand, known=known)}")
        # sftp adds this line to ssh's messages
        lines = [line for line in said.strip().splitlines() if line != "Connection closed"] or ["it was closed"]
        return DeviceError(f"The connection to {self.address} failed or was lost: {lines[-1].strip()}\nTry: {by_hand}")


_PROBLEMS = (
    ("Could not resolve hostname", "cannot be resolved", "Check the host name. Try: {by_hand}"),
    (
        "Connection refused",
        "refuses the connection",
        "Check that an ssh server listens on this port. To install one there: sudo apt install openssh-server.",
    ),
    ("No route to host", "cannot be reached", "Check that it is on and in the same network."),
    ("Connection timed out", "does not answer", "Check that it is on and in the same network."),
    ("Operation timed out", "does not answer", "Check that it is on and in the same network."),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "has another host key than before",
        "It was reinstalled, or it is another machine. If you trust it: ssh-keygen -R {known}, then {by_hand}",
    ),
    (
        "Host key verification failed",
        "has a host key that is not in known_hosts",
        "Connect once manually, compare the key's fingerprint, and accept it: {by_hand}",
    ),
    (
        "Permission denied (",
        "denied the login",
        "Install your public key there with ssh-copy-id; the key needs to be in ssh-agent or without a passphrase. "
        "Try: {by_hand}",
    ),
    (
        "Bad owner or permissions",
        "cannot be reached, because the permissions of the ssh configuration are too open",
        "Make it writable for you only: chmod 600 ~/.ssh/config. Try: {by_hand}",
    ),
)
"""Part of ssh's message, its meaning, and advice; the first match is taken."""


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
                f"{arguments[0]} is not installed here.\nInstall OpenSSH's client: sudo apt install openssh-client."
            ) from error
        try:
            yield Running(process, log)
        finally:
            process.kill()
            process.communicate()
