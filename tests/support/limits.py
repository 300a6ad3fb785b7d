"""The limits of the proxy, by name, from `redisproxy/bounds.py`."""

from __future__ import annotations

from typing import get_type_hints

from redisproxy import bounds

#: The value of each limit, by name.
LIMITS: dict[str, float] = {
    name: value for name, value in vars(bounds).items() if name.isupper() and not name.startswith("_")
}
#: By name, for limits that have one: the value that the simulation may use instead.
EXTREMES: dict[str, float] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(bounds, include_extras=True).items() if name in LIMITS
}
