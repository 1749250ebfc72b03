"""Registering with Guardian and unregistering: the two calls that need no running node."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import replace

from conflux.api import (
    AuthDriver,
    Kind,
    Registration,
    RegistrationRequest,
    Unavailable,
    Unreachable,
    UsageError,
)
from conflux.config import Config
from conflux.registry import Registry
from conflux.runtime.drivers import check, create
from conflux.runtime.saved import Attempt, Membership

log = logging.getLogger("conflux.register")

RETRY_S = 0.5


async def register(
    registry: Registry,
    config: Config,
    guardian: str,
    request: RegistrationRequest,
    *,
    attempt: Attempt,
    wait_s: float,
) -> Registration:
    """Register, waiting at most *wait_s* for a Guardian that is not up. Raises UsageError.

    *attempt* is for the caller to forget once the answer is saved.
    """
    check_machine(registry, config)
    auth: AuthDriver = create(registry, config, Kind.AUTH)[1]
    try:
        ends = time.monotonic() + wait_s
        said = False
        request = replace(request, attempt=attempt.begin())
        while True:
            try:
                return await auth.register(guardian, request)
            except Unreachable as error:
                if time.monotonic() + RETRY_S > ends:
                    raise
                if not said:
                    said = True
                    log.warning("waiting for Guardian: %s", error)
            except UsageError:
                # An outright no to the only request there was: nothing was made.
                if not (said or attempt.was_cut_short):
                    attempt.forget()
                raise
            await asyncio.sleep(RETRY_S)
    finally:
        await auth.close()


def check_machine(registry: Registry, config: Config) -> None:
    """Raise UsageError if a node could not run here: such a machine must not register first."""
    check(registry, config)
    if any(name == config.tun_name for _, name in socket.if_nameindex()):
        raise Unavailable(
            f"interface {config.tun_name} is in use: choose another name with --tun-name"
        )


async def unregister(registry: Registry, config: Config, membership: Membership) -> None:
    """Give the conflux back. Raises UsageError, and then nothing has changed here."""
    auth: AuthDriver = create(registry, config, Kind.AUTH)[1]
    try:
        await auth.unregister(membership.guardian, conflux_token=membership.conflux_token)
    finally:
        await auth.close()


def membership(guardian: str, registration: Registration) -> Membership:
    return Membership(
        guardian=guardian,
        conflux_token=registration.conflux_token,
        conflux_id=registration.conflux_id,
        tag=registration.tag,
        plane=registration.plane,
        address=registration.address,
    )
