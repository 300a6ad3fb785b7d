"""Values of secrets that are wrong in every way, each with a marker in it. Nothing that the proxy
writes may contain the marker.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

#: Not a word, a host or a number that anything else would write. It stands where a password is, or
#: was meant to be.
MARKER = "Zq7xMarkerW9v"


def traces(text: str) -> list[str]:
    """Returns the forms of the marker that a text contains: as it is, in another case, backwards,
    in base64 at any offset, in hex.
    """
    encoded = [base64.b64encode(b"." * shift + MARKER.encode()).decode()[4 if shift else 0 : 16] for shift in range(3)]
    forms = [MARKER, MARKER[::-1], MARKER[:8], MARKER.encode().hex(), *encoded]
    return [form for form in forms if form.lower() in text.lower()]


def urls(marker: str = MARKER) -> Iterator[str]:
    """Yields connection strings with the marker as the password, in place of the password, or where
    an unescaped password would put it.
    """
    for scheme in ("redis", "rediss", "REDIS", "http", "redis+sentinel", "unix", ""):
        yield f"{scheme}://:{marker}@127.0.0.1:1/x"
    for password in (
        marker,
        f"a#{marker}",
        f"a?{marker}",
        f"a/{marker}",
        f"{marker}/a",
        f"{marker}#a",
        f"{marker}?a",
        f"a@{marker}",
        f"{marker}@a",
        f"a:{marker}",
        f"{marker}%zz",
        f"{marker}%",
        f"{marker}%ff",
        f"[{marker}",
        f"[{marker}]",
        f"{marker} a",
        f"{marker}\n",
        f"{marker}\x1b[2J",
        f"{marker}\x9b2J",
        f"{marker}\u202e",
        f"{marker}\u2100",
        f"{marker}\x00",
        f"1/{marker}",
        f"{marker}" * 5000,
        f"'{marker}'",
        f'"{marker}"',
        f"<{marker}>",
        f"${{{marker}}}",
        "{" + marker + "}",
        "{0." + marker + "}",
    ):
        for user in ("", "default"):
            yield f"redis://{user}:{password}@127.0.0.1:1/x"
            yield f"redis://{user}:{password}@127.0.0.1:99999/3"
            yield f"redis://{user}:{password}@127.0.0.1:port/3"
            yield f"redis://{user}:{password}@127.0.0.1:1"
            yield f"redis+sentinel://{user}:{password}@127.0.0.1:1,127.0.0.1:x/name"
            yield f"redis+sentinel://{user}:{password}@127.0.0.1:1/a name"
    yield from (
        marker,
        f":{marker}",
        f"{marker}@127.0.0.1:1/3",
        f"redis:{marker}",
        f"redis:/:{marker}@127.0.0.1:1/3",
        f"redis//:{marker}@127.0.0.1:1/3",
        f"redis://127.0.0.1:{marker}/3",
        f"redis://[::1]:{marker}/3",
        f"redis://[{marker}]:1/3",
        f"redis://127.0.0.1:1/{marker}",
        f"redis://:x@127.0.0.1:1/{marker}",
        f"redis://:x@127.0.0.1:1/3?password={marker}",
        f"redis://:x@127.0.0.1:1/3#{marker}",
        f"redis+sentinel://:x@127.0.0.1:1/{marker}!",
        f"redis+sentinel://:x@127.0.0.1:{marker}/name",
        f"redis+sentinel://:x@127.0.0.1:1/name/{marker}",
        f"redis+sentinel://127.0.0.1:1/name?password={marker}",
    )


#: Values that YAML turns into other types, and values that YAML refuses.
SCALARS = (
    "!!bool {}",
    "!!int {}",
    "!!float {}",
    "!!timestamp {}",
    "!!binary {}",
    "!!null {}",
    "!!set {}",
    "!!python/object:{} x",
    "!{} x",
    "!!{} x",
    "!x {}",
    "*{}",
    "&{} *{}",
    "[{}]",
    "[{}",
    "{{{}: 1}}",
    "{{{}: ",
    '"{}',
    "'{}",
    '"\\q{}"',
    "@{}",
    "`{}",
    "%{}",
    "{}: {}: {}",
    "|\n    {}\n  {}\n",
    ">9\n {}",
    "\t{}",
    "- {}",
    "? {}",
    "<<: {}",
    "{}\x07",
    "{}\x1b[2J",
    "{}\u0085",
    "{} #x",
    "0x{}",
    "2026-13-45T{}",
)


def scalars(marker: str = MARKER) -> Iterator[str]:
    """Yields YAML of one value, well-formed or not."""
    yield from (scalar.replace("{}", marker).replace("{{", "{").replace("}}", "}") for scalar in SCALARS)
