from conflux.api import Router
from conflux.testing import PluginConformance, RouterConformance
from conflux_router_static.router import StaticRouter


class TestPlugin(PluginConformance):
    plugin_name = "router-static"


class TestStaticRouter(RouterConformance):
    def make_router(self) -> Router:
        return StaticRouter({})


class TestStaticRouterWithoutTolerance(RouterConformance):
    def make_router(self) -> Router:
        return StaticRouter({"tolerance": 0, "tolerance_ms": 0})
