"""The header of the PROXY protocol, versions 1 and 2: the client's address, as a load balancer
gives it.

Owns the framing. It must not decide who is believed: `proxy_protocol` does. The specification is
https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address

from .. import bounds

_BEGIN = b"PROXY "
_PORT = rb"(0|[1-9][0-9]{0,4})"
_ADDRESS = rb"([0-9A-Fa-f:.]{2,39})"
_LINE = re.compile(rb"PROXY (TCP[46]) %b %b %b %b" % (_ADDRESS, _ADDRESS, _PORT, _PORT))
# What follows UNKNOWN is to be ignored.
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
# Signature, version and command, family and protocol, bytes that follow.
_FIXED = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
# By the family and protocol: the source, the destination, and their ports.
_ADDRESSES = {_TCP4: struct.Struct("!4s4sHH"), _TCP6: struct.Struct("!16s16sHH")}
# The highest family (Unix sockets) and the highest protocol (datagrams) of the specification.
_LAST_FAMILY, _LAST_PROTOCOL = 3, 2


class HeaderError(ValueError):
    """The connection does not begin with a valid PROXY header. The text says why, for the log. It
    quotes nothing that came.
    """


class Header(NamedTuple):
    """A whole header. size: its length in bytes; source: the client's address, or None if the
    connection is the load balancer's own (a health check), or if its client has no TCP address.
    """

    size: int
    source: IPv4Address | IPv6Address | None


def parse(data: bytes) -> Header | None:
    """Reads the header at the start of a connection. data: all bytes that came so far.

    Returns None if the header is not whole yet. Raises HeaderError, as soon as what came cannot
    become a header, or not one within `bounds.PROXY_LINE_BYTES` (version 1) or
    `bounds.PROXY_HEADER_BYTES` (version 2).
    """
    if _SIGNATURE.startswith(data[: len(_SIGNATURE)]):
        return _parse_binary(data) if len(data) >= _FIXED.size else None
    if _BEGIN.startswith(data[: len(_BEGIN)]):
        return _parse_line(data)
    raise HeaderError("no PROXY header came first")


def _parse_line(data: bytes) -> Header | None:
    """Version 1: a line of text."""
    end = data.find(b"\r\n", 0, bounds.PROXY_LINE_BYTES)
    if end < 0:
        if len(data) >= bounds.PROXY_LINE_BYTES:
            raise HeaderError(f"its PROXY header does not end within {bounds.PROXY_LINE_BYTES} bytes")
        return None
    line, size = data[:end], end + 2
    if _UNKNOWN.fullmatch(line):
        return Header(size, None)
    found = _LINE.fullmatch(line)
    if found is None:
        raise HeaderError("its PROXY header is malformed")
    family = ipaddress.IPv4Address if found[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, _ = family(found[2].decode()), family(found[3].decode())
    except ValueError:
        raise HeaderError("an address in its PROXY header is malformed") from None
    if max(int(found[4]), int(found[5])) > 65535:
        raise HeaderError("a port in its PROXY header is malformed")
    return Header(size, _endpoint(source, int(found[4])))


def _parse_binary(data: bytes) -> Header | None:
    """Version 2. data: at least the fixed part. What follows the addresses (TLVs) is skipped."""
    _, command, kind, length = _FIXED.unpack_from(data)
    if command not in (_LOCAL, _PROXY) or kind >> 4 > _LAST_FAMILY or kind & 15 > _LAST_PROTOCOL:
        raise HeaderError("its PROXY header has an unknown version, command, family or protocol")
    size = _FIXED.size + length
    if size > bounds.PROXY_HEADER_BYTES:
        raise HeaderError(f"its PROXY header has more than {bounds.PROXY_HEADER_BYTES} bytes")
    addresses = _ADDRESSES.get(kind)
    if command == _LOCAL or addresses is None:
        return Header(size, None) if len(data) >= size else None
    if length < addresses.size:
        raise HeaderError("its PROXY header has too few bytes for its addresses")
    if len(data) < size:
        return None
    source, _, port, _ = addresses.unpack_from(data, _FIXED.size)
    return Header(size, _endpoint(ipaddress.ip_address(source), port))


def _endpoint(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> IPv4Address | IPv6Address:
    """As Twisted has it. The text of the host is made anew, so that it is in its usual form."""
    return (IPv4Address if host.version == 4 else IPv6Address)("TCP", str(host), port)
