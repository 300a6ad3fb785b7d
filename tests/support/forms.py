"""Imports the pure modules with an interpreted framing, even if the compiled form is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from redisproxy.resp import framing

#: The source of the framing. Its compiled form is in the same directory.
SOURCE = Path(framing.__file__).with_name("framing.py")

#: Packages that import the framing themselves, or test it: they are imported again.
_ANEW = (
    *("redisproxy.resp", "redisproxy.tenants", "redisproxy.policy", "redisproxy.session"),
    *("tests.resp", "tests.support.conversations", "tests.fuzz"),
)


def _forget() -> dict[str, ModuleType]:
    return {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name in _ANEW or name.startswith(tuple(f"{package}." for package in _ANEW))
    }


def interpreted(*names: str) -> list[ModuleType]:
    """Imports the modules of these names once more, with an interpreted framing, and returns
    them.
    """
    before = _forget()
    try:
        resp = importlib.import_module("redisproxy.resp")
        spec = importlib.util.spec_from_file_location("redisproxy.resp.framing", SOURCE)
        resp.framing = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(resp.framing)
        return [importlib.import_module(name) for name in names]
    finally:
        _forget()
        sys.modules.update(before)
        for package in _ANEW:
            parent, _, child = package.rpartition(".")
            if package in before:
                setattr(sys.modules[parent], child, before[package])
            elif hasattr(sys.modules[parent], child):
                delattr(sys.modules[parent], child)
