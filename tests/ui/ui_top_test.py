#!/usr/bin/env python3
"""`interlace top` in tmux against a real cluster: it shows, follows the window's size, and leaves the terminal as it was,
however it ends.   usage: ui_top_test.py [--show]   (prints frames to look at)"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from load import BIN, Load, small_cluster, wait_until


class Terminal:
    """A shell in a tmux server of its own."""

    def __init__(self, width: int, height: int):
        self.folder = tempfile.TemporaryDirectory(prefix="interlace-tmux-")
        self.socket = str(pathlib.Path(self.folder.name) / "socket")
        environment = {k: v for k, v in os.environ.items() if k not in ("TMUX", "NO_COLOR")} | {"LC_ALL": "C.UTF-8", "PS1": "$ "}
        subprocess.run(["tmux", "-f", "/dev/null", "-S", self.socket, "new-session", "-d", "-x", str(width), "-y", str(height),
                        "bash", "--norc", "--noprofile"], env=environment, check=True)
        self.type("echo before-top")
        self.until(lambda text: text.count("before-top") >= 2)

    def tmux(self, *words: str) -> str:
        return subprocess.run(["tmux", "-S", self.socket, *words], capture_output=True, text=True, check=True).stdout

    def text(self, colours: bool = False) -> str:
        return self.tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def type(self, line: str):
        self.tmux("send-keys", "-l", line)
        self.tmux("send-keys", "Enter")

    def until(self, condition, seconds: float = 20) -> str:
        last = ""

        def holds():
            nonlocal last
            last = self.text()
            return condition(last)
        try:
            wait_until("the screen shows it", holds, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{last}") from None
        return last

    def modes(self) -> str:
        """Whether the cursor is seen, and whether the other screen is on."""
        return self.tmux("display-message", "-p", "#{cursor_flag} #{alternate_on}").strip()

    def resize(self, width: int, height: int):
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def close(self):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False)
        self.folder.cleanup()


def begin(terminal: Terminal, url: str, number: int):
    terminal.type(f"{BIN / 'interlace'} top --url {url} --interval 0.3; echo ended-{number}-with-$?")
    terminal.until(lambda text: "REQUEST" in text and "client-" in text)
    assert terminal.modes() == "0 1", terminal.modes()


def expect_restored(terminal: Terminal, number: int):
    text = terminal.until(lambda screen: f"ended-{number}-with-0" in screen)
    assert "before-top" in text, "the screen of before is gone:\n" + text
    assert "interlace top  " not in text, text
    assert terminal.modes() == "1 0", terminal.modes()
    terminal.type(f"stty -a | grep -c -- ' -echo \\| -icanon\\| -isig'; echo keys-{number}")
    text = terminal.until(lambda screen: f"\nkeys-{number}" in screen)
    assert f"\n0\nkeys-{number}" in text, "keys are not as they were:\n" + text
    terminal.type("clear; echo before-top")
    terminal.until(lambda screen: "before-top" in screen and f"keys-{number}" not in screen)


def pid_of_top(terminal: Terminal) -> int:
    shell = terminal.tmux("display-message", "-p", "#{pane_pid}").strip()
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", shell], capture_output=True, text=True, check=True).stdout
    return int(next(line.split()[0] for line in listed.split("\n") if "interlace top" in line))


def check_piped(url: str):
    command = [str(BIN / "interlace"), "top", "--url", url, "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "SmolLM2" in done.stdout and "REQUEST" in done.stdout, done.stdout
    assert "30 layers" in done.stdout and "ttft" in done.stdout, done.stdout
    done = subprocess.run([*command[:3], "http://127.0.0.1:1", "--once"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "127.0.0.1:1" in done.stderr and not done.stdout, done
    # Live into a pipe: frame by frame, and SIGTERM ends it well.
    piped = subprocess.Popen([*command[:4], "--interval", "0.2"], stdout=subprocess.PIPE, text=True)
    lines = [piped.stdout.readline()]
    while sum("interlace top" in line for line in lines) < 2:
        lines.append(piped.stdout.readline())
    piped.send_signal(signal.SIGTERM)
    rest = piped.stdout.read()
    assert piped.wait(timeout=20) == 0 and "\x1b" not in "".join(lines) + rest


def check_live(terminal: Terminal, cluster, show: bool):
    url, number = cluster.http, 0
    begin(terminal, url, number)
    terminal.until(lambda screen: "streamed" in screen and "goodput" in screen, 60)
    assert "\x1b[" in terminal.text(colours=True), "no colours"
    if show:
        print(terminal.text(colours=True))
    # What a window has room for: the table without tenants, no table at all, everything.
    for width, height, shown in ((80, 24, ("SLACK", "client-")), (60, 12, ("targets",)), (150, 40, ("TENANT", "acme", "q quits"))):
        terminal.resize(width, height)
        hidden = {"TENANT", "STATE"} - set(shown) if height < 20 else {"TENANT"} - set(shown)
        terminal.until(lambda screen: screen.startswith("interlace top  ") and all(word in screen for word in shown)
                       and not any(word in screen for word in hidden))
        if show:
            print(terminal.text(colours=True))
    # The coordinator is silent: it says so, shows what it knew, and goes on.
    pid = cluster.child("coordinator")
    os.kill(pid, signal.SIGSTOP)
    try:
        terminal.until(lambda screen: "no answer from" in screen and "streamed" in screen)
    finally:
        os.kill(pid, signal.SIGCONT)
    terminal.until(lambda screen: "no answer from" not in screen and "client-" in screen, 60)
    terminal.tmux("send-keys", "q")
    expect_restored(terminal, number)
    for end in (lambda: terminal.tmux("send-keys", "C-c"), lambda: os.kill(pid_of_top(terminal), signal.SIGTERM),
                lambda: os.kill(pid_of_top(terminal), signal.SIGINT)):
        number += 1
        begin(terminal, url, number)
        end()
        expect_restored(terminal, number)


def main() -> int:
    if not shutil.which("tmux"):
        print("skipped: tmux is not installed (Debian: apt-get install tmux)")
        return 0
    cluster = small_cluster()
    load = terminal = None
    try:
        load = Load(cluster)
        terminal = Terminal(120, 40)
        check_live(terminal, cluster, "--show" in sys.argv)
        check_piped(cluster.http)
    finally:
        if terminal:
            terminal.close()
        if load:
            load.stop()
        cluster.stop()
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
