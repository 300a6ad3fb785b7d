"""Compares what the scanner takes for commands with what a real Redis does with the same bytes.

Redis gets the same bytes twice: as they are, and written anew from the scanner's commands and runs.
The replies must be the same up to where the scanner refuses to go on. The scanner may refuse more
than Redis does. It must never see another boundary or another name.
"""

from __future__ import annotations

import unittest

from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisproxy.resp.framing import (
    AUTHENTICATED,
    COMMAND,
    EMPTY,
    FORWARD,
    HEADED,
    INSPECT,
    INSPECT_ABOVE,
    INSPECT_FIRST,
    INSPECT_KNOWN,
    INSPECT_TEXT,
    RUN,
    SCRIPTS,
    STREAM,
    ProtocolError,
    RequestScanner,
    encode,
)
from tests.attacks.corpus import FRAMING
from tests.support.raw import RawClient
from tests.support.servers import RedisServer, valkey

#: One name is passed on, one is inspected, one by its first argument, and one by the number of its
#: arguments. All must be understood alike.
TABLE = {b"SET": INSPECT, b"GET": INSPECT_ABOVE, b"PUBLISH": INSPECT_FIRST, b"EVAL": INSPECT_TEXT, b"EVALSHA": INSPECT_KNOWN}
#: Bytes in an inline command that have no meaning in RESP, or that a parser may take for a space or
#: for an end.
_ODD = [
    b" ",
    b"  ",
    b"\t",
    b"\v",
    b"\f",
    b"\r",
    b"\x00",
    b"\x1c",
    b"\x85",
    b"\xa0",
    b'"',
    b"'",
    b"\\",
    b"\\x41",
    b"\\n",
    b"\n",
]

names = st.sampled_from([b"ECHO", b"PING", b"SET", b"NOSUCH", b"echo", b"sEt", b"GET", b"PUBLISH"])
arguments = st.lists(st.binary(max_size=8) | st.sampled_from([b"a", b"\r\n", b"*1\r\n$4\r\nPING\r\n"]), max_size=3)
commands = st.builds(lambda name, rest: encode([name, *rest]), names, arguments)
inline = st.builds(
    lambda before, name, parts, end: before + name + b"".join(parts) + end,
    st.sampled_from([b"", b" ", b"\v", b'"', b"x"]),
    names,
    st.lists(st.sampled_from([*_ODD, b"a", b" a", b' "a b"', b" 'it\\'s'"]) | st.binary(max_size=3), max_size=6),
    st.sampled_from([b"\r\n", b"\n", b"\r\r\n", b" \r\n"]),
)
headers = st.builds(
    lambda kind, number, end: kind + number + end,
    st.sampled_from([b"*", b"$"]),
    st.sampled_from([b"0", b"1", b"2", b"4", b"-1", b"-2", b"01", b"+1", b" 1", b"1 ", b"", b"x", b"1_0", b"2147483648"]),
    st.sampled_from([b"\r\n", b"\n", b"\rX"]),
)
tricks = st.sampled_from([trick for trick in FRAMING if len(trick) < 1000]).map(
    lambda trick: trick.replace(b"SELECT", b"NOSUCH")
)


#: The server runs the commands made above. It answers all others with an error that is always the
#: same. The bytes may name INFO, TIME or RANDOMKEY, whose replies change by themselves. HELLO needs
#: no permission and returns the connection's number, so it is renamed.
ALWAYS_THE_SAME = (
    "user default on nopass ~* &* -@all +echo +ping +set +get +publish +flushall",
    'rename-command HELLO ""',
)


class DifferentialTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = RedisServer(valkey, *ALWAYS_THE_SAME, password="").start()
        self.addCleanup(self.server.stop)

    @settings(max_examples=600)
    @given(st.lists(commands | inline | inline | headers | tricks | st.binary(max_size=4), min_size=1, max_size=6))
    def test_any_bytes(self, parts: list[bytes]) -> None:
        self.compare(b"".join(parts))

    @settings(max_examples=600)
    @given(inline)
    @example(b"ECHO\va\r\n")
    @example(b"ECHO a\f\r\n")
    @example(b"ECHO \va\r\n")
    @example(b'ECHO "a"\vb\r\n')
    @example(b'ECHO x"y z"w\r\n')
    def test_inline_commands(self, line: bytes) -> None:
        self.compare(line)

    def test_framing_tricks(self) -> None:
        for trick in FRAMING:
            with self.subTest(trick[:60]):
                self.compare(trick.replace(b"SELECT", b"NOSUCH"))

    def test_answers_that_change_by_themselves(self) -> None:
        """Commands whose replies change by themselves do not disturb the comparison; hypothesis
        finds their names by chance, or among the constants of the modules.
        """
        self.said(b"SET a 1\r\nSET b 2\r\n")
        for line in (
            b"INFO",
            b"TIME",
            b"RANDOMKEY",
            b"HELLO",
            b"CLIENT ID",
            b"MEMORY STATS",
            b"SRANDMEMBER a",
            b"CONFIG GET *",
        ):
            with self.subTest(line):
                self.compare(line + b"\r\n")
                self.compare(encode(line.split()))

    def compare(self, data: bytes) -> None:
        """Compares Redis's replies to both forms of the bytes. A last PING shows whether both
        streams are at the same position.
        """
        # Valkey 9.1 drops the byte 0xFF in an inline command. Neither the proxy nor any Redis does
        # that.
        data = data.replace(b"\xff", b"\xfe") + encode([b"PING", b"the end"])
        rewritten, refused = self.scanned(data)
        self.said(encode([b"FLUSHALL"]))
        direct = self.said(data)
        self.said(encode([b"FLUSHALL"]))
        through = self.said(rewritten)
        if refused:
            # The beginning of a command may have been passed on, which gets no reply.
            self.assertEqual(direct[: len(through)], through, (data, rewritten))
        else:
            self.assertEqual(direct, through, (data, rewritten))

    def scanned(self, data: bytes) -> tuple[bytes, bool]:
        """Returns (what would be sent to Redis, each command written anew; whether the rest was
        refused).
        """
        scanner = RequestScanner(AUTHENTICATED, TABLE, FORWARD)
        scanner.feed(data)
        sent = b""
        try:
            while (found := scanner.next()) is not None:
                kind, what, _ = found
                if kind in (RUN, STREAM, SCRIPTS):
                    sent += what
                elif kind == COMMAND:
                    sent += encode(what)
                elif kind == HEADED:
                    sent += b"*%d\r\n%b" % (len(what) + scanner.arguments_left, encode(what).split(b"\r\n", 1)[1])
                elif kind != EMPTY:
                    # A name that no server has: the session would answer it with an error.
                    return sent, True
        except ProtocolError:
            return sent, True
        return sent, False

    def said(self, data: bytes) -> list[bytes]:
        """Returns Redis's replies to the bytes on a new connection."""
        with RawClient(self.server.port) as connection:
            connection.send(data)
            connection.half_close()
            replies = []
            try:
                while True:
                    replies.append(connection.reply())
            except EOFError as ended:
                self.assertEqual(ended.args, (b"",))
            except ConnectionResetError:
                pass
        return replies
