"""Lets a package import its names when they are first asked for, so that importing it takes almost no time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attributes(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Parameters
    ----------
    package : str
        Its name.
    homes : mapping of str to str
        The module that each name is in; a name that is a module of the package itself has that module's name.

    Returns
    -------
    tuple of two functions
        What Python calls for a name that the package does not have yet, and for `dir`.

    Examples
    --------
    >>> find, _ = attributes("detsample", {"Status": "detsample.sampler.status"})
    >>> find("Status").__module__
    'detsample.sampler.status'
    """

    def find(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(home)
        value = module if home == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted({*vars(sys.modules[package]), *homes})
