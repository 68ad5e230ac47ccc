#!/usr/bin/env python3
"""The link of a host that is slow: two TAP devices, and this process passes their frames on, late and no faster than a rate.

    slow_link.py NAMESPACE_OF_THE_HOST NAMESPACE_OF_THE_SWITCH PORT DELAY RATE

The device is eth0 in the host's namespace and PORT in the switch's. DELAY in seconds and RATE in bytes a second (0: any) are
of each direction. Half a second's worth of frames wait at most; what comes on top is lost, as in a router. Says "ready" on
stdout once both devices are there. The kernel of a small machine has no netem.
"""
import collections
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
LARGEST = 65536


def tap(namespace: str, name: str) -> int:
    """A new TAP device in a namespace; the descriptor works from any."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as space:
        if libc.setns(space.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Way:
    """One direction: frames and when each is due."""

    def __init__(self, source: int, to: int, delay: float, rate: float):
        self.source, self.to, self._delay, self._rate = source, to, delay, rate
        self._frames = collections.deque()
        self._free = 0.0  # when the link has sent what it was given

    def take(self, now: float):
        while True:
            try:
                frame = os.read(self.source, LARGEST)
            except BlockingIOError:
                return
            self._free = max(self._free, now)
            if self._free - now > 0.5:
                continue
            if self._rate > 0:
                self._free += len(frame) / self._rate
            self._frames.append((self._free + self._delay, frame))

    def give(self, now: float):
        while self._frames and self._frames[0][0] <= now:
            try:
                os.write(self.to, self._frames.popleft()[1])
            except OSError:
                pass  # the device is down, or its queue full: the frame is lost

    def due(self) -> float:
        return self._frames[0][0] if self._frames else float("inf")


def main() -> int:
    host, switch, port, delay, rate = sys.argv[1:]
    ends = tap(host, "eth0"), tap(switch, port)
    ways = [Way(ends[0], ends[1], float(delay), float(rate)), Way(ends[1], ends[0], float(delay), float(rate))]
    print("ready", flush=True)
    while True:
        wait = min(way.due() for way in ways) - time.monotonic()
        readable, _, _ = select.select(ends, [], [], None if wait == float("inf") else max(0.0, wait))
        now = time.monotonic()
        for way in ways:
            if way.source in readable:
                way.take(now)
            way.give(now)


if __name__ == "__main__":
    raise SystemExit(main())
