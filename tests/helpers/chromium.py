"""A headless Chromium, driven by its own protocol over a pipe: no driver, no package, no port."""

import base64
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run --disable-extensions"


class Chromium:
    """One page of a browser whose profile, with what pages store, lies in ``profile``."""

    def __init__(self, profile: Path, scheme: str = "light", size: tuple[int, int] = (1000, 900)):
        command_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        arguments = [PROGRAM, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        redirected = f"exec {shlex.join(arguments)} 3<&{command_read} 4>&{answer_write}"  # where Chromium expects them
        self._process = subprocess.Popen(
            ["bash", "-c", redirected],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._session, self._number, self._buffer = None, 0, b""
        target = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def call(self, method: str, **parameters) -> dict:
        """One command of the DevTools protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                part = os.read(self._read, 1 << 20)
                assert part, "the browser has ended"
                self._buffer += part
            answer, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def run(self, script: str):
        """The value of an expression in the page, as if the user had just pressed something."""
        result = self.call(
            "Runtime.evaluate", expression=script, userGesture=True, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, page: Path) -> None:
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait(f"document.readyState === 'complete' && location.href.endsWith({json.dumps(page.name)})")

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.05)

    def save_downloads(self, folder: Path) -> None:
        session, self._session = self._session, None  # a command of the browser, not of the page
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self._session = session

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=False)["data"]))

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._write)
        os.close(self._read)
