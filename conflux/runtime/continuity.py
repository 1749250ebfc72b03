"""Whether this machine's time went on without a break: it may have slept, been restored or cloned.

    every wake-up of the loop ──► Continuity: clocks, /dev/vmclock0 ───────┐
    /dev/kmsg: "crng reseeded due to virtual machine fork" ──► KernelLog ──┴► a Break ──► on_break

Whoever has a break drops its keys: of a VM that was cloned, or went back to a snapshot, the nonces
to come may be used already. What each source tells, and what nothing tells, is in SECURITY.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conflux.runtime.loop import LookingLoop

SLEPT_S = 0.5
"""The boot clock is so much further ahead of the monotonic one than before: the machine slept."""
STEP_S = 2.0
"""The wall clock was set by so much: by hand, or after a VM was restored. NTP slews less."""
STALL_S = 10.0
"""Nothing ran for so long. Peers have given up what they had with us after that time, too."""
LOOK_S = 0.01
"""The clocks are looked at so often at most; the hypervisor's word at every wake-up."""
SURE_S = 0.01
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Break:
    """What happened, for people. `slept_s`: for how long the monotonic clock stood still."""

    reason: str
    slept_s: float = 0.0


@contextlib.contextmanager
def watching(on_break: Callable[[Break], None]) -> Iterator[Callable[[], None]]:
    """Call *on_break* for each break while inside, in the running loop.

    A LookingLoop looks at every wake-up, before anything else; any other one when what is yielded
    is called.
    """
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        vm_clock = kernel_log = None
        if sys.platform == "linux":
            vm_clock, kernel_log = VmClock.open(), KernelLog.open()
        if vm_clock is not None:
            stack.callback(vm_clock.close)
        continuity = Continuity(Clocks(), vm_clock)

        def look() -> None:
            if (found := continuity.look()) is not None:
                on_break(found)

        if isinstance(loop, LookingLoop):
            loop.look_first(look)
            stack.callback(loop.look_first, None)
        if kernel_log is not None:
            stack.enter_context(kernel_log.followed(loop, on_break))
        yield look


class Clocks:
    """Seconds since some moment, which each clock has for itself."""

    monotonic = staticmethod(time.monotonic)
    """Stands still while the machine sleeps, and never goes back."""
    wall = staticmethod(time.time)

    if sys.platform == "win32":
        # Here the monotonic clock itself goes on: sleep is a time in which nothing ran.
        boot = staticmethod(time.monotonic)
    else:

        def boot(self) -> float:
            """The monotonic clock, but it goes on while the machine sleeps."""
            return time.clock_gettime(_BOOT)


if sys.platform == "linux":
    _BOOT = time.CLOCK_BOOTTIME
elif sys.platform != "win32":
    # That of macOS goes on while it sleeps, unlike what Python calls monotonic there (clock(3)).
    _BOOT = time.CLOCK_MONOTONIC


class Continuity:
    """Looks at the clocks, and at the hypervisor's word if there is one."""

    def __init__(self, clocks: Clocks, vm_clock: VmClock | None = None) -> None:
        self._clocks = clocks
        self._monotonic = clocks.monotonic
        self._vm_clock = vm_clock
        self._marker = self._read_marker()
        self._seen, self._slept, self._stepped = self._read()

    def look(self) -> Break | None:
        """Return what broke the time since the last look, if anything did.

        Cheap: for every wake-up of a loop (benches/bench_continuity.py).
        """
        marker = self._read_marker()
        if marker == self._marker and self._monotonic() - self._seen < LOOK_S:
            return None
        is_same, self._marker = marker == self._marker, marker
        former = self._seen, self._slept, self._stepped
        self._seen, self._slept, self._stepped = self._read()
        stalled_s, slept_s, stepped_s = (
            now - then
            for now, then in zip((self._seen, self._slept, self._stepped), former, strict=True)
        )
        reason = ""
        if not is_same:
            reason = "the hypervisor moved or restored this machine"
        elif slept_s >= SLEPT_S:
            reason = f"this machine slept for {slept_s:.1f} s"
        elif abs(stepped_s) >= STEP_S:
            reason = f"the clock was set by {stepped_s:+.1f} s"
        elif stalled_s >= STALL_S:
            reason = f"nothing ran for {stalled_s:.1f} s"
        return Break(reason, max(slept_s, 0.0)) if reason else None

    def _read(self) -> tuple[float, float, float]:
        """Return the monotonic clock, and how far the boot and wall clocks are ahead of it."""
        clocks = self._clocks
        for _ in range(_TRIES):
            before = clocks.monotonic()
            boot, wall = clocks.boot(), clocks.wall()
            seen = clocks.monotonic()
            if seen - before < SURE_S:
                break  # else this process was put aside between two of them
        return seen, boot - seen, wall - seen

    def _read_marker(self) -> bytes:
        return b"" if self._vm_clock is None else self._vm_clock.marker()


class VmClock:
    """A page that the hypervisor writes before a moved or restored VM runs on: vmclock, Linux 6.13.

    Layout: include/uapi/linux/vmclock-abi.h, little-endian: magic at 0, disruption marker at 16.
    """

    MAGIC = 0x4B4C4356
    _MARKER = slice(16, 24)

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page

    @classmethod
    def open(cls, path: Path = Path("/dev/vmclock0")) -> VmClock | None:
        """None if this machine has none, or it may not be read."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            page = mmap.mmap(handle, mmap.PAGESIZE, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return None
        finally:
            os.close(handle)
        if struct.unpack_from("<I", page)[0] != cls.MAGIC:
            page.close()
            return None
        return cls(page)

    def marker(self) -> bytes:
        """Changes to another value that never comes again when the VM was moved or restored."""
        return self._page[self._MARKER]

    def close(self) -> None:
        self._page.close()


class KernelLog:
    """What the kernel says from now on (/dev/kmsg): since Linux 5.18 that this VM was forked.

    `handle` is readable when there is more.
    """

    FORKED = b";random: crng reseeded due to virtual machine fork"
    _RECORD_BYTES = 8_192

    def __init__(self, handle: int) -> None:
        self.handle = handle

    @classmethod
    def open(cls, path: Path = Path("/dev/kmsg")) -> KernelLog | None:
        """None if it may not be read: that takes root, or CAP_SYSLOG."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            os.lseek(handle, 0, os.SEEK_END)
        except OSError:
            os.close(handle)
            return None
        return cls(handle)

    def was_forked(self) -> bool:
        """Read what there is; tell whether a record says that this VM was forked."""
        forked = False
        while True:
            try:
                record = os.read(self.handle, self._RECORD_BYTES)
            except BlockingIOError:
                return forked
            except BrokenPipeError:
                continue  # records were overwritten before they were read
            except OSError:
                return forked
            if not record:
                return forked
            forked = forked or (_is_of_kernel(record) and self.FORKED in record)

    @contextlib.contextmanager
    def followed(
        self, loop: asyncio.AbstractEventLoop, on_break: Callable[[Break], None]
    ) -> Iterator[None]:
        """Have *loop* read it while inside; closed at the end."""

        def readable() -> None:
            if self.was_forked():
                on_break(Break("this machine was cloned or restored"))

        loop.add_reader(self.handle, readable)
        try:
            yield
        finally:
            loop.remove_reader(self.handle)
            os.close(self.handle)


def _is_of_kernel(record: bytes) -> bool:
    """Tell whether a record begins with facility 0, which no program can give its own ones."""
    priority, _, _ = record.partition(b",")
    return priority.isdigit() and int(priority) < 8
