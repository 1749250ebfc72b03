"""A router that prefers few relays: each further hop halves a path's share."""

from collections.abc import Sequence

from conflux.api import DriverInfo, NodeId, Path, Router, Settings, UsageError, hookimpl


class FewestRelays(Router):
    def __init__(self, settings: Settings) -> None:
        share = settings.get("share", 0.5)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UsageError("[plugin.router.xyz] share must be a number from 0 to 1")
        self._share = float(share)

    def weigh(self, destination: NodeId, paths: Sequence[Path], *, now: float) -> Sequence[float]:
        shortest = min(len(path) for path in paths)
        return [self._share ** (len(path) - shortest) for path in paths]


@hookimpl
def conflux_router_driver() -> DriverInfo:
    return DriverInfo(name="xyz", target="conflux_plugin_xyz:FewestRelays", api=(1, 0), priority=10)
