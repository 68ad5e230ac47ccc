"""Chromium without a window, spoken to through a pair of pipes (DevTools protocol, --remote-debugging-pipe)."""
import base64
import fcntl
import json
import os
import pathlib
import queue
import shutil
import subprocess
import tempfile
import threading
import time

KEYS = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def installed() -> str | None:
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Browser:
    """One page. What its console says of errors is kept in `errors`, with where it came from."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="interlace-browser-", ignore_cleanup_errors=True)
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()

        def hand_over():
            """The browser reads from 3 and writes to 4. Either end may be 3 or 4 already, so both move out of the way first,
            to numbers that nobody uses (F_DUPFD picks a free one)."""
            reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser))
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        command = [installed(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--no-first-run", "--disable-extensions", "--disable-background-networking",
                   "--remote-debugging-pipe", f"--user-data-dir={self.folder.name}", "about:blank"]
        self.said = pathlib.Path(self.folder.name, "stderr.txt")
        with self.said.open("wb") as stderr:
            self.process = subprocess.Popen(command, preexec_fn=hand_over, close_fds=False, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=stderr)
        os.close(to_browser)
        os.close(from_browser)
        self.answers, self.errors, self.next = queue.Queue(), [], 0
        threading.Thread(target=self._read, daemon=True).start()
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(domain + ".enable")

    def _read(self):
        held = b""
        while chunk := os.read(self.read_end, 1 << 16):
            *messages, held = (held + chunk).split(b"\0")
            for message in map(json.loads, messages):
                self._take(message)
        os.close(self.read_end)
        self.answers.put(None)

    def _take(self, message: dict):
        if "id" in message:
            self.answers.put(message)
            return
        event, of = message.get("method"), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            details = of["exceptionDetails"]
            self.errors.append(("exception", details.get("exception", {}).get("description") or details["text"]))
        elif event == "Runtime.consoleAPICalled" and of["type"] in ("error", "warning", "assert"):
            self.errors.append(("console", str([arg.get("value") for arg in of["args"]])))
        elif event == "Log.entryAdded" and of["entry"]["level"] in ("error", "warning"):
            self.errors.append((of["entry"]["source"], of["entry"]["text"]))

    def _call(self, method: str, params: dict | None = None, session: str | None = None) -> dict:
        self.next += 1
        message = {"id": self.next, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.answers.get(timeout=60)
            assert answer is not None, f"the browser ended: {self.said.read_text(errors='replace')[-2000:]}"
            if answer["id"] == message["id"]:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def call(self, method: str, **params) -> dict:
        return self._call(method, params, self.session)

    def go(self, url: str):
        failure = self.call("Page.navigate", url=url).get("errorText")
        assert not failure, f"{url}: {failure}"
        self.until(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def run(self, script: str):
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str, seconds: float = 30):
        limit = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < limit, f"not within {seconds} s: {script}\n{self.run('document.body && document.body.innerText')}"
            time.sleep(0.05)
        return value

    def press(self, key: str, text: str = ""):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key],
                      **({"text": text} if text else {}))

    def window(self, width: int, height: int, dark: bool = False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def shot(self, path: pathlib.Path, whole: bool = True):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        try:
            self._call("Browser.close")
            self.process.wait(timeout=20)
        except (AssertionError, subprocess.TimeoutExpired, OSError):
            self.process.kill()
            self.process.wait()
        os.close(self.write_end)
        self.folder.cleanup()
