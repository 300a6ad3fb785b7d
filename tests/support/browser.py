"""Drives headless Chromium over a pipe: one page, whose scripts, size and colours a test chooses.

Owns the process and its messages: JSON of the DevTools protocol, each followed by a NUL byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
import unittest
from base64 import b64decode
from typing import Any

from .waiting import LIMIT


def chromium() -> str:
    """Returns the path of Chromium. Skips the test if it is not installed."""
    found = shutil.which("chromium")
    if found is None:
        raise unittest.SkipTest("chromium is not installed: apt-get install chromium")
    return found


class Browser:
    """One page in a browser of its own. The test has to call `close`."""

    def __init__(self, url: str, scripts: bool = True) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to descriptor 4. The pipes
        # here may have these numbers, so their ends move to 10 and above first.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands, answers)]
        program = chromium()
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
        self._pid = os.posix_spawn(
            program,
            [program, *options, f"--user-data-dir={self._profile.name}"],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1, 2)),
                *((os.POSIX_SPAWN_DUP2, end, descriptor) for end, descriptor in zip(ends, (3, 4), strict=True)),
            ],
        )
        for end in (commands, answers, *ends):
            os.close(end)
        self._buffer = b""
        self._number = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []
        #: The messages of the console, with violations of the page's security policy.
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        if not scripts:
            self.call("Emulation.setScriptExecutionDisabled", value=True)
        self._go("Page.navigate", url=url)

    def close(self) -> None:
        """Ends the browser."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read)
        os.close(self._write)
        # The browser's child processes may still write there for a moment.
        for _ in range(50):
            with contextlib.suppress(OSError):
                self._profile.cleanup()
                return
            time.sleep(0.1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Runs a command of the protocol and returns its result. Raises AssertionError if it
        fails.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self._took(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], LIMIT)[0]:
                raise AssertionError("the browser says nothing")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise AssertionError("the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _took(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.console.append(json.dumps(parameters["exceptionDetails"]))
        self._events.append(event)

    def _go(self, method: str, **parameters: Any) -> None:
        """Loads a page."""
        self._events.clear()
        self.call(method, **parameters)
        self.loaded()

    def loaded(self) -> None:
        """Waits until a page is loaded: one that a test asked for, or the page's own refresh."""
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._took(self._receive())
        self._events.clear()

    def reload(self) -> None:
        """Loads the same page again, in the same tab."""
        self._go("Page.reload")

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression. It works even if the page may not run
        scripts.
        """
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(result["exceptionDetails"])
        return result["result"].get("value")

    def show(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """Sets the size of the screen in pixels, and a light or dark colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self) -> bytes:
        """Returns a PNG of the visible page."""
        return b64decode(self.call("Page.captureScreenshot")["data"])
