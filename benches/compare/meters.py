"""CPU time and memory of processes, from /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from conflux.lab import Process

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def family(process: Process) -> list[int]:
    """The program and every process that descends from it; empty once it has ended."""
    found = [process.program] if process.poll() is None else []
    for pid in found:
        found.extend(_children(pid))
    return [pid for pid in found if pid]


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_s(processes: Iterable[Process]) -> float:
    """CPU time that the programs and their families have taken, user's and kernel's, in seconds."""
    return sum(_ticks(pid) for process in processes for pid in family(process)) * TICK_S


def _ticks(pid: int) -> int:
    try:
        # After the name in brackets; fields 14 to 17: of itself, of children that have ended.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15]))


def resident_mb(processes: Iterable[Process]) -> float:
    """What the programs and their families have in memory, shared pages in full, in 10^6 bytes."""
    return sum(_resident_kib(pid) for process in processes for pid in family(process)) * 1024 / 1e6


def _resident_kib(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def machine_cpu_s() -> float:
    """CPU time of all processes of the machine and of its kernel, in seconds since it started."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) * TICK_S
