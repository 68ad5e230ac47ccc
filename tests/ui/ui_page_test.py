#!/usr/bin/env python3
"""/ui in a headless Chromium against a real cluster: nothing in the console, every figure there, by keyboard too, and the
page outlives its coordinator.   usage: ui_page_test.py [--shots FOLDER]   (screenshots to look at)"""
import os
import pathlib
import signal
import sys
import urllib.error
import urllib.request

import browser
from load import HOSTILE, Load, small_cluster, state_of, wait_until

LAYERS = 30  # of SmolLM2-135M


def check_figures(page: browser.Browser):
    page.until("document.documentElement.dataset.looks >= 3")
    page.until("document.querySelectorAll('#live-rows tr').length >= 4")
    for tile in ("tokens", "positions", "step", "running", "waiting"):
        page.until(f"document.querySelector('#tile-{tile} b').textContent.trim().length > 0")
        page.until(f"document.querySelector('#tile-{tile} polyline').getAttribute('points').split(' ').length >= 3")
    page.until("parseInt(document.querySelector('#tile-tokens b').textContent.replace(',', '')) > 0")
    # Four rows of cells: three tiers and the numbers; a border between the stages in each.
    assert page.run("document.querySelectorAll('#map .tier').length") == 4
    assert page.run("document.querySelectorAll('#map .cell').length") == 4 * LAYERS
    assert page.run("document.querySelectorAll('#map .cell.border').length") == 4
    page.until("[...document.querySelectorAll('#map .t-device .cell')].every(c => +c.style.getPropertyValue('--share') > 0)")
    assert page.run("document.querySelector('#map .cell').title").startswith("Layer 0, stage 0: ")
    assert page.run("document.querySelectorAll('#stages .fill').length") == 4  # device and host of two stages
    page.until("[...document.querySelectorAll('#stages .f-device')].some(i => parseFloat(i.style.width) > 0)")
    assert page.run("document.querySelectorAll('#attainment .fill').length") == 4
    page.until("/% of/.test(document.querySelector('#attainment').textContent)", 60)
    page.until("/ended: /.test(document.querySelector('#goodput').textContent)", 60)
    gradients = "[...document.querySelectorAll('#live-rows {0}')].some(e => e.style.backgroundImage.includes('{1}'))"
    page.until(gradients.format(".strip", "--device"))
    page.until(gradients.format(".time", "--decode"), 60)
    page.until("document.querySelectorAll('#ended-rows tr').length > 0", 60)
    page.until("/SmolLM2/.test(document.querySelector('#model').textContent)")
    page.until("/policy slack/.test(document.querySelector('#facts').textContent)")
    assert page.run("document.querySelector('#live').textContent") == "live"
    assert page.run("document.querySelector('#gone').hidden")


def check_text_is_no_html(page: browser.Browser):
    page.until(f"[...document.querySelectorAll('.open')].some(b => b.textContent.startsWith({HOSTILE!r}))")
    assert page.run("document.querySelectorAll('#requests img').length") == 0
    assert page.run("document.title") != "owned"


def check_keyboard(page: browser.Browser):
    page.run("document.querySelector('#map').focus()")
    page.press("Home")
    page.until("document.querySelector('#layer').textContent.startsWith('Layer 0, ')")
    for _ in range(21):
        page.press("ArrowRight")
    page.until("document.querySelector('#layer').textContent.startsWith('Layer 21, stage 1')")
    page.press("End")
    page.until(f"document.querySelector('#layer').textContent.startsWith('Layer {LAYERS - 1}, ')")
    assert page.run("document.querySelectorAll('#map .t-host .chosen').length") == 1
    # A request by its button, and back by Escape.
    page.run("document.querySelector('#live-rows .open').focus()")
    page.press("Enter", "\r")
    page.until("document.querySelector('#detail').open")
    page.until(f"document.querySelectorAll('#detail-layers tr').length == {LAYERS}")
    page.until("document.querySelectorAll('#detail-facts div').length >= 8")
    page.until("document.querySelectorAll('#detail-decisions li').length > 0")
    page.until("document.querySelectorAll('#detail-time .time').length == 1")
    page.until("/(waits|prompt|tokens) [0-9]/.test(document.querySelector('#detail-time').textContent)")
    # Where its blocks come from is told of its last attempt, which may have found all that it needed.
    page.until("/[0-9] (computed|on device|on host|in tiers)/.test(document.querySelector('#detail-layers').textContent)")
    assert page.run("document.querySelector('#detail-name').textContent.length > 0")
    page.press("Escape")
    page.until("!document.querySelector('#detail').open")
    page.run("document.querySelector('#ended-rows tr').click()")  # and one that has ended, by a click
    page.until("/^(finished|failed)/.test(document.querySelector('#detail-state').textContent)")
    # Closed and opened again at once: that the browser tells of the closing later does not empty what is open by then.
    page.run("document.querySelector('#close').click(); document.querySelector('#ended-rows tr').click()")
    page.until("/^(finished|failed)/.test(document.querySelector('#detail-state').textContent)")
    page.run("document.querySelector('#close').click()")
    page.until("!document.querySelector('#detail').open")


def check_theme_and_pause(page: browser.Browser):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.run(paper)
    page.run("document.querySelector('#theme').click()")
    assert page.run(paper) != light
    page.window(1280, 900, dark=True)  # what was chosen stays, whatever the system says
    page.run("document.querySelector('#theme').click()")
    assert page.run(paper) == light
    page.run("document.querySelector('#theme').click()")
    page.window(1280, 900)  # what the system says counts again
    assert page.run(paper) == light
    page.run("document.querySelector('#pause').click()")
    page.until("document.querySelector('#live').textContent == 'paused'")
    looks = page.run("document.documentElement.dataset.looks")
    page.run("new Promise(done => setTimeout(done, 2500))")  # two looks that do not come
    assert int(page.run("document.documentElement.dataset.looks")) <= int(looks) + 1  # one may have been on its way
    page.run("document.querySelector('#pause').click()")
    page.until("document.querySelector('#live').textContent == 'live'")


def check_fits(page: browser.Browser, shots: pathlib.Path | None):
    for width, height in ((1280, 900), (420, 900)):
        for dark in (False, True):
            page.window(width, height, dark)
            page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            over = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 0, f"{width} wide: the page is {over} pixels wider than its window"
            if shots:
                page.shot(shots / f"ui-{width}-{'dark' if dark else 'light'}.png")
    if shots:
        page.run("document.querySelector('#live-rows .open, #ended-rows .open').click()")
        page.until("document.querySelectorAll('#detail-layers tr').length > 0")
        page.shot(shots / "ui-detail-420-dark.png", whole=False)
        page.window(1280, 900)
        page.shot(shots / "ui-detail-1280-light.png", whole=False)
        page.run("document.querySelector('#close').click()")
        page.call("Emulation.setEmulatedMedia", media="print")
        page.shot(shots / "ui-print.png")
    page.window(1280, 900)


def check_silence(page: browser.Browser, cluster):
    """The coordinator stops answering, then goes on."""
    assert page.errors == [], page.errors
    pid = cluster.child("coordinator")
    os.kill(pid, signal.SIGSTOP)
    try:
        page.until("!document.querySelector('#gone').hidden")
        assert page.run("document.querySelector('#live').textContent") == "no answer"
        assert page.run("document.querySelectorAll('#map .cell').length") == 4 * LAYERS  # what was known stays
    finally:
        os.kill(pid, signal.SIGCONT)
    page.until("document.querySelector('#gone').hidden", 60)
    page.until("document.querySelector('#live').textContent == 'live'")
    # Another coordinator takes its place: the page goes on with that one.
    os.kill(cluster.child("coordinator"), signal.SIGKILL)
    wait_until("the ranks attached again", lambda: cluster.up_metric("interlace_ranks_ready") == 2, 60)
    looks = int(page.run("document.documentElement.dataset.looks"))
    page.until(f"+document.documentElement.dataset.looks > {looks} && document.querySelector('#gone').hidden", 60)
    # What a browser says of answers that do not come is no fault of the page.
    assert [error for error in page.errors if error[0] != "network"] == [], page.errors


def check_off():
    from cluster import Cluster
    cluster = Cluster("--set", "http.ui=false")
    try:
        for path in ("/ui", "/ui/state", "/ui/explain?id=a"):
            try:
                urllib.request.urlopen(cluster.http + path, timeout=10)
                raise AssertionError(f"{path} is there")
            except urllib.error.HTTPError as error:
                assert error.code == 404, error
        assert "/ui" not in (cluster.state / "serve.out").read_text()
    finally:
        cluster.stop()


def main() -> int:
    if not browser.installed():
        print("skipped: no Chromium is installed (Debian: apt-get install chromium)")
        return 0
    shots = pathlib.Path(sys.argv[2]) if sys.argv[1:2] == ["--shots"] else None
    cluster = small_cluster()
    load = page = None
    try:
        assert "/ui" in (cluster.state / "serve.out").read_text()
        load = Load(cluster)
        page = browser.Browser()
        page.window(1280, 900)
        page.go(cluster.http + "/ui")
        for check in (check_figures, check_text_is_no_html, check_keyboard, check_theme_and_pause):
            check(page)
        check_fits(page, shots)
        check_silence(page, cluster)
        assert load.served > 0
        load.stop()
        wait_until("nothing runs", lambda: state_of(cluster)["queue"]["total"] == 0, 60)
        page.until("/none here/.test(document.querySelector('#count').textContent)")
    except Exception:
        print(cluster.log())
        raise
    finally:
        if load:
            load.stop()
        if page:
            page.close()
        cluster.stop()
    check_off()
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
