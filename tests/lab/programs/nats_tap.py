"""Sits between nodes and the Master as whoever runs the Master could: reads, records, repeats.

    nats_tap.py LISTEN_HOST LISTEN_PORT MASTER_HOST MASTER_PORT RECORD

Appends all that clients send to RECORD. At a line "replay" on standard input it publishes every
message of every open connection once more, just as it came, and prints how many those were.
"""

import asyncio
import contextlib
import sys
from pathlib import Path


class Tap:
    def __init__(self, master: tuple[str, int], record: Path) -> None:
        self.master = master
        self.record = record.open("ab")
        self.seen: dict[asyncio.StreamWriter, list[bytes]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up = await asyncio.open_connection(*self.master)
        except OSError:
            writer.close()
            return
        self.seen[up] = []
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with asyncio.TaskGroup() as tasks:
                down = tasks.create_task(copy(up_reader, writer))
                await self.upwards(reader, up)
                down.cancel()
        del self.seen[up]
        up.close()
        writer.close()

    async def upwards(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter) -> None:
        """Whole messages only: a replay must not land within one."""
        while line := await reader.readline():
            message = line
            if line.startswith(b"PUB "):
                message += await reader.readexactly(int(line.split()[-1]) + 2)
                self.seen[up].append(message)
            self.record.write(message)
            self.record.flush()
            up.write(message)

    def replay(self) -> int:
        for up, messages in self.seen.items():
            up.write(b"".join(messages))
        return sum(map(len, self.seen.values()))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65_536):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def main() -> None:
    host, port, master_host, master_port, record = sys.argv[1:]
    tap = Tap((master_host, int(master_port)), Path(record))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    async with await asyncio.start_server(tap.serve, host, int(port), limit=1 << 20):
        print("ready", flush=True)
        while await commands.readline():
            print(tap.replay(), flush=True)


asyncio.run(main())
