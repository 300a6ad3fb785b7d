"""Headers of the PROXY protocol, as load balancers send them."""

from __future__ import annotations

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def line(source: str, port: int, destination: str = "198.51.100.1") -> bytes:
    """Version 1, of a client of IPv4 or IPv6."""
    family = f"TCP{ipaddress.ip_address(source).version}"
    if family == "TCP6":
        destination = "2001:db8::1"
    return f"PROXY {family} {source} {destination} {port} 6379\r\n".encode()


def binary(source: str, port: int, more: bytes = b"") -> bytes:
    """Version 2, likewise. more: TLVs."""
    host = ipaddress.ip_address(source)
    packed = host.packed + bytes(len(host.packed)) + struct.pack("!HH", port, 6379)
    return raw_binary(0x21, 0x11 if host.version == 4 else 0x21, packed + more)


def raw_binary(command: int, kind: int, block: bytes = b"", length: int | None = None) -> bytes:
    """Version 2 with any version and command, family and protocol. length: what it says of the
    block, by default the truth.
    """
    return SIGNATURE + struct.pack("!BBH", command, kind, len(block) if length is None else length) + block


#: Of a health check, or of a client without an address: version 1, and version 2.
UNKNOWN, LOCAL = b"PROXY UNKNOWN\r\n", raw_binary(0x20, 0)
