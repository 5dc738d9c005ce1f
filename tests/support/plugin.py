"""How a pytest within a test gets the plugin: by itself where detsample is installed, by name where it is not."""

from importlib.metadata import entry_points

PLUGIN = "detsample.integrations.pytest_plugin"
LOADED = () if entry_points(group="pytest11", name="detsample") else ("-p", PLUGIN)
