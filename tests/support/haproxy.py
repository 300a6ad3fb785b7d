"""A real HAProxy in front of the proxy, as a child process.

Owns its configuration, which is that of docs/load-balancers.md.
"""

from __future__ import annotations

import csv
import re
import socket
import subprocess
import tempfile
from pathlib import Path

from .servers import debian, free_port, listens, release
from .waiting import LIMIT, until

DOCS = Path(__file__).parents[2] / "docs" / "load-balancers.md"
#: The address that HAProxy connects from: no client of the tests has it.
BALANCER = "127.0.0.9"


class HAProxy:
    """HAProxy with frontends on ports of 127.0.0.1.

    sections: of its configuration, behind `global` and `defaults`. In these, `PORT` stands for the
    port of `self.port`, and `SECOND` for that of `self.second`.
    """

    def __init__(self, sections: str) -> None:
        program = debian("haproxy")
        self.port, self.second = free_port(), free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self._socket = f"{self._directory.name}/admin"
        configuration = Path(self._directory.name) / "haproxy.cfg"
        sections = re.sub(r"\bPORT\b", str(self.port), re.sub(r"\bSECOND\b", str(self.second), sections))
        configuration.write_text(
            f"global\n  nbthread 1\n  maxconn 1000\n  stats socket {self._socket} level admin\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n" + sections
        )
        self._log = open(f"{self._directory.name}/log", "w+")  # noqa: PTH123, SIM115 - closed by stop
        self._process = subprocess.Popen(
            [program, "-db", "-f", str(configuration)], stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )
        try:
            until(self._listens, "HAProxy listens")
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            self._log.seek(0)
            raise AssertionError(f"HAProxy ended with status {self._process.returncode}: {self._log.read()}")
        return Path(self._socket).exists() and listens(self.port)

    def ask(self, command: str) -> str:
        """The answer of its management socket."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(LIMIT)
            admin.connect(self._socket)
            admin.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def states(self) -> dict[tuple[str, str], tuple[str, str]]:
        """By proxy and server: its state, and how its last health check ended."""
        rows = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        return {(row["pxname"], row["svname"]): (row["status"], row["check_status"].lstrip("* ")) for row in rows}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        release(self.port)
        release(self.second)
        self._directory.cleanup()


def documented() -> list[str]:
    """The `listen` sections in the documentation, without their indentation there."""
    text = DOCS.read_text()
    blocks = re.findall(r"(?<=\n\n)(?: {4,}\S[^\n]*\n|\n+(?= {4}))+", text)
    plain = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks]
    return [block for block in plain if block.startswith("listen ")]
