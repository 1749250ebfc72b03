"""Reads all that passes through NATS, with every privilege that the Master's owner can have.

    nats_reader.py DATA_DIR URL RECORD SYSTEM_RECORD

Makes users of the nodes' account and of the system account that may subscribe to everything, with
the very keys that Guardian is the Master's operator by. Appends subject, reply subject, headers and
payload of each message to RECORD; what the server tells its owner of connections to SYSTEM_RECORD.
"""

import asyncio
import base64
import sys
import time
from pathlib import Path

import nats

from veilnet_guardian.datadir import DataDir
from veilnet_guardian.keys import Keys
from veilnet_guardian.natsjwt import MasterKeys, NKey, encode


async def read(url: str, keys: MasterKeys, issuer: NKey, account: NKey, record: Path) -> None:
    user = keys.guardian_user()
    everything = {"allow": [">"]}
    claims = {"type": "user", "version": 2, "pub": everything, "sub": everything}
    claims |= {"subs": -1, "data": -1, "payload": -1}
    if issuer is not account:
        claims["issuer_account"] = account.public
    jwt = encode(issuer, user.public, "reader", claims, now=int(time.time()))

    async def note(message: nats.aio.msg.Msg) -> None:
        headers = repr(message.headers or "").encode()
        with record.open("ab") as file:
            for part in (message.subject.encode(), message.reply.encode(), headers, message.data):
                file.write(part + b"\n")

    client = await nats.connect(
        url,
        user_jwt_cb=lambda: bytearray(jwt.encode()),
        signature_cb=lambda nonce: base64.b64encode(user.sign(nonce.encode())),
    )
    await client.subscribe(">", cb=note)
    await client.flush()


async def main() -> None:
    data, url, *records = sys.argv[1:]
    keys = Keys(DataDir(Path(data))).master
    record, system = map(Path, records)
    await read(url, keys, keys.account_signer, keys.account, record)
    await read(url, keys, keys.system, keys.system, system)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
