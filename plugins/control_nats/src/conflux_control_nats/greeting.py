"""What a NATS server says before anybody has logged in: INFO, then TLS if it wants that."""

from __future__ import annotations

import asyncio
import json
import ssl
from urllib.parse import urlsplit

from conflux.api import Refused, ServerCheck, Unreachable
from conflux_control_nats.client import CONNECT_S, one_line, servers, tls_context

MAX_INFO_BYTES = 65_536


async def check(url: str, ca_pem: str) -> ServerCheck:
    """Connect to *url*, shake hands, leave. Raises Unreachable and Refused."""
    [server] = servers([url])
    parts = urlsplit(server)
    name = f"the Master at {server}"
    try:
        async with asyncio.timeout(CONNECT_S):
            return await _greet(parts.hostname or "", parts.port or 0, parts.scheme, ca_pem)
    except ssl.SSLCertVerificationError as error:
        raise Refused(
            f"{name} has a certificate that is not trusted ({one_line(error.verify_message)}): "
            "correct it, or the CA that Guardian hands out"
        ) from None
    except (TimeoutError, OSError):
        raise Unreachable(f"{name} does not answer: check that it runs") from None
    except ValueError:
        raise Unreachable(f"{name} does not answer as a NATS server does") from None


async def _greet(host: str, port: int, scheme: str, ca_pem: str) -> ServerCheck:
    """Raises OSError, and ValueError for what is no NATS server."""
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_INFO_BYTES)
    try:
        verb, _, body = (await reader.readline()).partition(b" ")
        info = json.loads(body) if verb.upper() == b"INFO" else None
        if not isinstance(info, dict):
            raise ValueError("no INFO")
        spoken = f"NATS {one_line(str(info.get('version', '')))}".strip()
        if not (scheme == "tls" or info.get("tls_required") is True):
            return ServerCheck(spoken=f"{spoken}, without TLS")
        if not (info.get("tls_required") is True or info.get("tls_available") is True):
            raise Refused(
                f"the Master at {scheme}://{host}:{port} offers no TLS, which its URL asks for: "
                "switch it on, or correct the URL"
            )
        await writer.start_tls(tls_context(ca_pem), server_hostname=host)
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return ServerCheck(spoken=f"{spoken}, {tls.version()}")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    finally:
        writer.transport.abort()
