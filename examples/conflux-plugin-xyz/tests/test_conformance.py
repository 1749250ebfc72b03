from conflux_plugin_xyz import FewestRelays

from conflux.testing import PluginConformance, RouterConformance


class TestXyz(PluginConformance, RouterConformance):
    plugin_name = "xyz"

    def make_router(self) -> FewestRelays:
        return FewestRelays({})
