"""A member of the plane that misbehaves: `member.py GUARDIAN TARGET_ADDRESS`, token in TOKEN.

Logs in as a conflux does, joins the control channel with its own, rightful credentials and sends
noise to the target and to whoever relays. Prints how many messages it sent.
"""

import asyncio
import os
import random
import sys
import time
from ipaddress import ip_address

from conflux.anchor.identity import Identity, address_tag, login_binding, open_grant, relay_tag
from conflux.api import MAX_CONTROL_BYTES, Kind
from conflux.config import load_config
from conflux.registry import Registry
from conflux.runtime.drivers import create
from conflux.runtime.token import fingerprint_of
from conflux.wire import control

MESSAGES = 1200


async def main() -> None:
    server, target = sys.argv[1], ip_address(sys.argv[2]).packed
    token = os.environ["TOKEN"]
    registry, config = Registry(), load_config(None, {})
    registry.load()
    crypto, auth, master = (
        create(registry, config, kind)[1] for kind in (Kind.CRYPTO, Kind.AUTH, Kind.CONTROL)
    )
    identity = Identity(crypto, os.urandom)
    now_ms = int(time.time() * 1000)
    request = identity.login_request(token, time_ms=now_ms, entropy=os.urandom).encode()
    answer = await auth.login(server, conflux_token=token, request=request)
    await auth.close()
    grant, _ = open_grant(
        crypto,
        identity,
        answer.sealed,
        binding=login_binding(request),
        fingerprint=fingerprint_of(token),
    )
    channel = await master.connect(grant.control, lambda *_: None, lambda _: None)
    tags = [address_tag(grant.plane_key, target), relay_tag(grant.plane_key)]
    for number, message in enumerate(noise(random.Random(7))):
        while not channel.publish(tags[number % 2], message):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the contract has no event for it
    await channel.close()
    print(MESSAGES)


def noise(chance: random.Random):
    """Messages of every kind and size, most of them well formed on the outside."""
    for number in range(MESSAGES):
        size = chance.choice([0, 1, 2, 100, 1000, 9000, 16_384])
        if number % 100 == 0:
            size = MAX_CONTROL_BYTES - 2
        kind = chance.choice([*control.Kind, 0, 5, 255])
        body = chance.randbytes(size)
        yield body if number % 5 == 0 else bytes([control.VERSION, kind]) + body


asyncio.run(main())
