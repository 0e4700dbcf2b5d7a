"""A headless Chromium, told what to do over its debugging pipe; a test types with it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1100,900", "--remote-debugging-pipe"),
)
KEYS = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38}


class Page:
    """A tab of a browser that reads commands from one pipe and writes what it says to another."""

    def __init__(self, to: int, from_: int) -> None:
        self._to, self._from = to, os.fdopen(from_, "rb", closefd=False)
        self._number, self._session = 0, ""
        self._said = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._said:
            chunk = os.read(self._from.fileno(), 65536)
            assert chunk, "the browser has gone"
            self._said += chunk
        message, _, self._said = self._said.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What a script says; None while the page is not there yet."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def wait(self, script: str, seconds: float = 60.0) -> Any:
        """What a script says, once that is something."""
        end = time.monotonic() + seconds
        while not (said := self.value(script)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return said

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        about = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)


@contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A browser with one page, which ends with the block."""
    assert CHROMIUM is not None
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    # the browser reads from descriptor 3 and writes to 4
    script = f'exec "$@" 3<&{in_read} 4>&{out_write}'
    browser = subprocess.Popen(
        ["bash", "-c", script, "bash", *words],
        pass_fds=(in_read, out_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(in_read)
    os.close(out_write)
    try:
        yield Page(in_write, out_read)
    finally:
        browser.terminate()
        browser.wait(30)
        os.close(in_write)
        os.close(out_read)
