"""The framing of the PROXY header: whole, byte by byte, and with commands behind it."""

from __future__ import annotations

import contextlib
import unittest

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address

from redisproxy import bounds
from redisproxy.listen.proxy_header import Header, HeaderError, parse

from ..support.proxy_headers import LOCAL, SIGNATURE, UNKNOWN, binary, line, raw_binary

FOUR = IPv4Address("TCP", "192.0.2.7", 50123)
SIX = IPv6Address("TCP", "2001:db8::7", 50123)
#: A TLV that says nothing (PP2_TYPE_NOOP).
NOOP = b"\x04\x00\x03abc"
VALID = {
    line("192.0.2.7", 50123): FOUR,
    line("2001:db8::7", 50123): SIX,
    b"PROXY TCP6 2001:0DB8:0:0::7 ::1 50123 6379\r\n": SIX,
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": IPv4Address("TCP", "0.0.0.0", 0),
    UNKNOWN: None,
    b"PROXY UNKNOWN ffff::1 whatever it is 1 2\r\n": None,
    b"PROXY UNKNOWN " + b"f" * (bounds.PROXY_LINE_BYTES - 16) + b"\r\n": None,
    binary("192.0.2.7", 50123): FOUR,
    binary("2001:db8::7", 50123): SIX,
    binary("192.0.2.7", 50123, NOOP): FOUR,
    binary("2001:db8::7", 50123, NOOP * 20): SIX,
    binary("192.0.2.7", 50123, bytes(bounds.PROXY_HEADER_BYTES - 28)): FOUR,
    LOCAL: None,
    # A LOCAL header keeps the connection's own address, whatever else it says.
    raw_binary(0x20, 0x11, binary("192.0.2.7", 50123)[16:]): None,
    raw_binary(0x21, 0): None,
    raw_binary(0x21, 0, b"abc"): None,
    raw_binary(0x21, 0x31, bytes(216)): None,  # a Unix socket
    raw_binary(0x21, 0x12, bytes(12)): None,  # UDP
}


class ValidTests(unittest.TestCase):
    def test_whole(self) -> None:
        for data, source in VALID.items():
            self.assertEqual(parse(data), Header(len(data), source), data)

    def test_byte_by_byte(self) -> None:
        for data, source in VALID.items():
            for end in range(len(data)):
                self.assertIsNone(parse(data[:end]), data[:end])
            self.assertEqual(parse(data), Header(len(data), source))

    def test_with_what_follows(self) -> None:
        for data, source in VALID.items():
            for more in (b"\r\n", b"*1\r\n$4\r\nPING\r\n", b"\x16\x03\x01", data, bytes(70_000)):
                self.assertEqual(parse(data + more), Header(len(data), source))


class InvalidTests(unittest.TestCase):
    def refused(self, data: bytes, why: str) -> None:
        with self.assertRaisesRegex(HeaderError, why):
            parse(data)

    def test_what_is_no_header_is_refused_at_the_first_byte_that_differs(self) -> None:
        for data in (
            b"*1\r\n$4\r\nPING\r\n",
            b"AUTH password\r\n",
            b"\x16\x03\x01",
            b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            b"PROXX",
            b"PROXY\t",
            b"\r\n\r\n\x01",
            b"\r\n*",
            b"\n",
            b"\x00",
        ):
            self.refused(data, "^no PROXY header came first$")

    def test_lines(self) -> None:
        for text in (
            "PROXY ",
            "PROXY TCP4",
            "PROXY TCP5 192.0.2.7 198.51.100.1 1 2",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2",
            "PROXY TCP4  192.0.2.7 198.51.100.1 1 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 ",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1_0 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 -1 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 123456",
            "PROXY TCP4 host.example 198.51.100.1 1 2",
            "PROXY TCP4 \x1b[31m 198.51.100.1 1 2",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2",
            "PROXY UNKNOWNS",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r",
            "PROXY UNKNOWN \n",
        ):
            self.refused(text.encode() + b"\r\n", "^its PROXY header is malformed$")
        for text in (
            "TCP4 192.0.2.256 198.51.100.1",
            "TCP4 192.0.2.07 198.51.100.1",
            "TCP4 192.0.2 198.51.100.1",
            "TCP4 192.0.2.7 ::1",
            "TCP4 ::1 ::1",
            "TCP6 192.0.2.7 ::1",
            "TCP6 ::1::2 ::1",
        ):
            self.refused(f"PROXY {text} 1 2\r\n".encode(), "^an address in its PROXY header is malformed$")
        for ports in ("65536 1", "1 65536"):
            self.refused(
                f"PROXY TCP4 192.0.2.7 198.51.100.1 {ports}\r\n".encode(), "^a port in its PROXY header is malformed$"
            )

    def test_a_line_without_an_end(self) -> None:
        endless = b"PROXY " + b"x" * 200
        self.assertIsNone(parse(endless[: bounds.PROXY_LINE_BYTES - 1]))
        for data in (
            endless[: bounds.PROXY_LINE_BYTES],
            endless,
            endless[: bounds.PROXY_LINE_BYTES - 1] + b"\r\n",
            b"PROXY UNKNOWN " + b"f" * (bounds.PROXY_LINE_BYTES - 15) + b"\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n" * 10,
        ):
            self.refused(data, "^its PROXY header does not end within 107 bytes$")

    def test_binary(self) -> None:
        for command, kind in (
            *((command, 0x11) for command in (0x00, 0x01, 0x11, 0x22, 0x2F, 0x31, 0xFF)),
            *((0x21, kind) for kind in (0x03, 0x13, 0x41, 0xF1, 0xFF)),
        ):
            self.refused(raw_binary(command, kind, bytes(36)), "has an unknown version, command, family or protocol")
        for kind, size in ((0x11, 12), (0x21, 36)):
            for given_size in (0, size - 1):
                self.refused(raw_binary(0x21, kind, bytes(given_size)), "has too few bytes for its addresses")

    def test_a_block_that_is_too_long_is_refused_before_it_comes(self) -> None:
        for command in (0x20, 0x21):
            for length in (bounds.PROXY_HEADER_BYTES - 15, 65535):
                self.refused(raw_binary(command, 0x11, b"", length), "^its PROXY header has more than 4096 bytes$")


class AnyBytesTests(unittest.TestCase):
    @given(
        st.one_of(
            st.binary(max_size=300),
            st.builds(lambda rest: b"PROXY " + rest, st.binary(max_size=120)),
            st.builds(lambda rest: SIGNATURE + rest, st.binary(max_size=120)),
        )
    )
    def test_it_parses_or_raises_its_own_error_and_splits_change_nothing(self, data: bytes) -> None:
        found: Header | str | None = None
        for end in range(len(data) + 1):
            with contextlib.suppress(HeaderError):
                found = parse(data[:end])
                if found is not None:
                    break
                continue
            found = "refused"
            break
        try:
            whole: Header | str | None = parse(data)
        except HeaderError:
            whole = "refused"
        self.assertEqual(found, whole)
