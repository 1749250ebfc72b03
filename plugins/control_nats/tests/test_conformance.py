"""The kit's checks, on a real nats-server."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager

import pytest

from conflux.testing import ControlConformance, PluginConformance
from conflux_control_nats.driver import NatsControlDriver


class Broker:
    def __init__(self, master, other_master):
        self._master = master
        self._other_master = other_master
        self.dead_url = other_master.url
        other_master.kill()

    def credentials(self, *, handle, tags, shared_tag):
        return self._master.credentials(
            handle, *(tag for tag in tags if tag != handle), shared_tag=shared_tag
        )

    def refused(self, credentials):
        foreign = self._other_master.credentials(credentials.handle)
        return dataclasses.replace(credentials, jwt=foreign.jwt, seed=foreign.seed)

    async def interrupt(self):
        self._master.kill()
        self._master.start()


class TestPlugin(PluginConformance):
    plugin_name = "control-nats"


class TestNatsControlDriver(ControlConformance):
    @pytest.fixture(autouse=True)
    def _masters(self, make_master):
        self.make_master = make_master

    def make_driver(self):
        return NatsControlDriver({})

    @asynccontextmanager
    async def broker(self):
        yield Broker(self.make_master(), self.make_master())
