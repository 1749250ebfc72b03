"""Sends a numbered message to every other node each 20 ms, beside what the node itself sends.

$CHATTER is this node's file name in a folder that all share: with ".handle" it tells the others
where messages for it go, with ".heard" it lists the numbers that came, with ".said" those that were
taken to be sent, and with ".refused" those that were not.
"""

import asyncio
import os
from pathlib import Path

from conflux_control_nats.driver import NatsControlDriver

MARK = b"chatter "
EVERY_S = 0.02


class ChatterDriver(NatsControlDriver):
    async def connect(self, credentials, on_message, on_connected):
        me = Path(os.environ["CHATTER"])
        heard, said, refused = (
            me.with_suffix(end).open("a", buffering=1) for end in (".heard", ".said", ".refused")
        )

        def take(tag, sender, payload):
            if payload.startswith(MARK):
                heard.write(payload.decode() + "\n")
            else:
                on_message(tag, sender, payload)

        channel = await super().connect(credentials, take, on_connected)
        me.with_suffix(".handle").write_bytes(credentials.handle)
        loop, number = asyncio.get_running_loop(), 0

        def say():
            nonlocal number
            for other in me.parent.glob("*.handle"):
                if other.stem != me.stem:
                    number += 1
                    message = MARK + f"{me.stem} {number} {other.stem}".encode()
                    taken = channel.publish(other.read_bytes(), message)
                    (said if taken else refused).write(message.decode() + "\n")
            loop.call_later(EVERY_S, say)

        say()
        return channel
