"""A device on this machine: a real `sshd` on loopback, with its own keys and configuration."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
SFTP_SERVER = next(
    (path for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if Path(path).exists()), None
)


@dataclass
class Loopback:
    """A device on this machine.

    Attributes:
        folder: Folder of the keys, the configuration and the home directory.
        port: Port that it listens on.
        config: Configuration for `ssh -F`; it names key and known hosts, so that the user's files are not touched.
        home: Home directory of the device.
    """

    folder: Path
    port: int
    config: Path
    home: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, folder: Path) -> Loopback:
        """Write keys and configuration, and start the server."""
        folder.mkdir(parents=True)
        for name in ("host_key", "user_key"):
            subprocess.run(
                [shutil.which("ssh-keygen") or "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],
                check=True,
            )
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        home = folder / "home"
        home.mkdir()
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPubkeyAuthentication yes\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
            # the device must not use the account's own home directory
            f"SetEnv HOME={home}\nSubsystem sftp {SFTP_SERVER} -d {home}\n"
        )
        host_key = (folder / "host_key.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
        config = folder / "ssh_config"
        config.write_text(
            f"IdentityFile {folder}/user_key\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
            "GlobalKnownHostsFile none\n"
        )
        device = cls(folder, port, config, home)
        device.start()
        return device

    @property
    def address(self) -> str:
        """Address for `--device`."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        assert SSHD is not None
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # needed for privilege separation; packages create it at boot
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=log, start_new_session=True
            )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """Kill the server and its connections, as if the device vanished; processes in their own sessions continue."""
        if self.process is not None:
            for process in (self.process.pid, *connections(self.process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self.process.wait()
            self.process = None


def connections(server: int) -> list[int]:
    """Return the processes in which an `sshd` serves its connections."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, _, rest = file.read_text().partition("(")[2].rpartition(")")
            if name.startswith("sshd"):
                parents[int(file.parent.name)] = int(rest.split()[1])
    found = [server]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]
