"""Tests the framing: every case whole, split at every byte, and behind other commands."""

from __future__ import annotations

import unittest
from collections.abc import Iterable

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from redisproxy import bounds
from redisproxy.resp import framing
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
    OVERSIZE,
    REFUSE,
    REFUSED,
    RUN,
    SCRIPT,
    SCRIPTS,
    STREAM,
    UNAUTHENTICATED,
    ProtocolError,
    ReplyMeasurer,
    RequestScanner,
    encode,
    split_inline,
)

TABLE = {
    b"LOOK": INSPECT,
    b"DENY": REFUSE,
    b"HEAD": INSPECT_FIRST,
    b"EXEC": INSPECT,
    b"TEXT": INSPECT_TEXT,
    b"KNOWN": INSPECT_KNOWN,
    b"CALL": SCRIPT,
    b"ABOVE": INSPECT_ABOVE + 2,
    b"FAR": INSPECT_ABOVE + 1000,
}


def scanner(limits: framing.Limits = AUTHENTICATED, default: int = FORWARD) -> RequestScanner:
    scanning = RequestScanner(limits, TABLE, default, lambda text: b"tell" in text)
    scanning.known = {b"abc": b""}
    return scanning


def scan(chunks: Iterable[bytes], limits: framing.Limits = AUTHENTICATED, default: int = FORWARD) -> list[object]:
    """Returns what a scanner reports for the chunks. Forwarded bytes and counts are joined, so that
    cuts do not show.
    """
    said: list[object] = []
    scanning = scanner(limits, default)
    try:
        for chunk in chunks:
            scanning.feed(chunk)
            while (found := scanning.next()) is not None:
                kind, what, count = found
                if kind in (RUN, SCRIPTS):
                    shown = "forward" if kind == RUN else "scripts"
                    if said and isinstance(said[-1], list) and said[-1][0] == shown:
                        said[-1][1] += what
                        said[-1][2] += count
                    else:
                        said.append([shown, what, count])
                elif kind == STREAM and not count:
                    said[-1][1] += what
                elif kind in (STREAM, HEADED):
                    said.append([{STREAM: "stream", HEADED: "headed"}[kind], what if kind == STREAM else encode(what), 1])
                else:
                    said.append(({COMMAND: "command", REFUSED: "refused", OVERSIZE: "oversize"}[kind], what))
    except ProtocolError as error:
        said.append(("error", str(error)))
    return said


def bytewise(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


class ScanCase(unittest.TestCase):
    def assertScans(
        self, data: bytes, *expected: object, limits: framing.Limits = AUTHENTICATED, default: int = FORWARD
    ) -> None:
        """Asserts the same result for the bytes as a whole, split at every byte, and cut in two at
        each position.
        """
        self.assertEqual(scan([data], limits, default), list(expected))
        self.assertEqual(scan(bytewise(data), limits, default), list(expected))
        for cut in range(len(data)):
            self.assertEqual(scan([data[:cut], data[cut:]], limits, default), list(expected), cut)


class ApartTests(unittest.TestCase):
    """What is taken apart line by line is counted."""

    def apart(self, data: bytes, results: int = 1) -> int:
        scanning = scanner()
        scanning.feed(data)
        for _ in range(results):
            scanning.next()
        return scanning.apart

    def test_plain_commands_count_nothing(self) -> None:
        self.assertEqual(self.apart(encode([b"GET", b"a"]) * 100, 2), 0)

    def test_inline_ones_count_their_words(self) -> None:
        self.assertEqual(self.apart(b"GET a\r\n"), 2)
        self.assertEqual(self.apart(b"GET a\r\n" * 3, 3), 6)
        self.assertEqual(self.apart(b"CALL a b\r\n"), 3)
        self.assertEqual(self.apart(b"DENY a b\r\n"), 3)
        self.assertEqual(self.apart(b"LOOK a b\r\n"), 0, "its words are counted where it is inspected")

    def test_a_long_line_counts_more(self) -> None:
        line = b"GET '" + b"x" * 16_000 + b"'\r\n"
        self.assertGreaterEqual(self.apart(line), 16_000 // bounds.WORK_WORDS)

    def test_empty_ones_are_counted_and_so_many_are_passed_over_at_once(self) -> None:
        for empty in (b"\r\n", b"\n", b"  \r\n", b"*0\r\n", b"*-1\r\n"):
            scanning = scanner()
            scanning.feed(empty * (2 * bounds.EMPTY_LINES + 3) + b"*1\r\n$4\r\nPING\r\n")
            for _ in range(2):
                self.assertEqual(scanning.next(), (EMPTY, b"", 0))
                self.assertEqual(scanning.apart, bounds.EMPTY_LINES)
                scanning.apart = 0
            self.assertEqual(scanning.next(), (RUN, encode([b"PING"]), 1))
            self.assertEqual((scanning.apart, scanning.buffered), (3, 0))
            scanning.feed(empty * 5)
            self.assertIsNone(scanning.next())
            self.assertEqual((scanning.apart, scanning.buffered), (8, 0))


class RequestScannerTests(ScanCase):
    def test_a_run_of_plain_commands_is_passed_on_as_it_came(self) -> None:
        data = encode([b"GET", b"a"]) + encode([b"SET", b"b", b"\r\n$3\r\n"]) + encode([b"PING"])
        self.assertScans(data, ["forward", data, 3])

    def test_a_whole_run_is_not_copied(self) -> None:
        data = encode([b"GET", b"a"]) * 3
        scanning = scanner()
        scanning.feed(data)
        self.assertIs(scanning.next()[1], data)

    def test_a_taken_command_between_plain_ones(self) -> None:
        get = encode([b"GET", b"a"])
        for name in (b"LOOK", b"look", b"lOoK"):
            data = get + encode([name, b"one", b""]) + get
            self.assertScans(data, ["forward", get, 1], ("command", [name, b"one", b""]), ["forward", get, 1])

    def test_a_dropped_command_is_told_once_and_skipped(self) -> None:
        get = encode([b"GET", b"a"])
        self.assertScans(
            get + encode([b"DENY", b"x" * 50, b"\r\n"]) + get,
            ["forward", get, 1],
            ("refused", b"DENY"),
            ["forward", get, 1],
        )

    def test_no_command_is_nothing(self) -> None:
        get = encode([b"GET", b"a"])
        self.assertScans(b"*0\r\n" + get + b"*-1\r\n\r\n  \r\n\n" + get, ["forward", get * 2, 2])

    def test_inline_commands_are_passed_on_as_arrays(self) -> None:
        self.assertScans(
            b'SET key "a b"\r\nGET key\n', ["forward", encode([b"SET", b"key", b"a b"]) + encode([b"GET", b"key"]), 2]
        )
        self.assertScans(b'"\\x4cOOK" 5\r\n', ("command", [b"LOOK", b"5"]))
        self.assertScans(b"deny everything\r\n", ("refused", b"deny"))

    def test_inline_and_arrays_mix(self) -> None:
        get = encode([b"GET", b"a"])
        self.assertScans(get + b"PING\r\n" + get, ["forward", get + encode([b"PING"]) + get, 3])

    def test_a_large_plain_command_streams_while_it_comes(self) -> None:
        scanning = scanner()
        value = b"x" * 100_000
        data = encode([b"SET", b"key", value])
        passed, counted = b"", 0
        for start in range(0, len(data), 1000):
            scanning.feed(data[start : start + 1000])
            while (found := scanning.next()) is not None:
                self.assertEqual(found[0], STREAM)
                passed += found[1]
                counted += found[2]
            self.assertLess(scanning.buffered, 64)
        self.assertEqual((passed, counted), (data, 1))

    def test_a_plain_command_is_passed_on_whole_up_to_a_limit(self) -> None:
        """The size of a plain command decides whether it is streamed, not how much of it has
        arrived.
        """
        get = encode([b"GET", b"a"])
        around = len(encode([b"SET", b"k", b"x" * 65_000])) - 65_000
        whole = encode([b"SET", b"k", b"x" * (bounds.WHOLE_COMMAND_BYTES - around)])
        large = encode([b"SET", b"k", b"x" * (bounds.WHOLE_COMMAND_BYTES - around + 1)])
        many = encode([b"MSET", *[b"x"] * 12_000])
        for chunks in ([get + whole + get], [get + whole[:-1], whole[-1:] + get], bytewise(get + whole + get)):
            self.assertEqual(scan(chunks), [["forward", get + whole + get, 3]])
        for data in (large, many):
            expected = [["forward", get, 1], ["stream", data, 1], ["forward", get, 1]]
            for chunks in ([get + data + get], [get + data[:-1], data[-1:] + get], bytewise(get + data + get)):
                self.assertEqual(scan(chunks), expected)

    def test_the_rest_of_a_streamed_command_can_be_skipped(self) -> None:
        scanning = scanner()
        scanning.feed(encode([b"SET", b"k", b"x" * 100_000])[:70_000])
        self.assertEqual(scanning.next()[0], STREAM)
        scanning.skip()
        get = encode([b"GET", b"a"])
        self.assertIsNone(scanning.next())
        scanning.feed(encode([b"SET", b"k", b"x" * 100_000])[70_000:] + get)
        self.assertEqual(scanning.next(), (RUN, get, 1))

    def test_a_command_is_inspected_by_its_first_argument(self) -> None:
        get = encode([b"GET", b"a"])
        for inspected in (
            [b"TEXT", b"tell"],
            [b"text", b"tell them", b"1", b"", b"\r\n"],
            [b"KNOWN", b"abc", b"0"],
            [b"known", b"aBC"],
        ):
            data = get + encode(inspected) + get
            self.assertScans(data, ["forward", get, 1], ("command", inspected), ["forward", get, 1])
        for plain in (
            [b"TEXT"],
            [b"TEXT", b"", b"tell"],
            [b"TEXT", b"others", b"1", b"\r\n"],
            [b"KNOWN"],
            [b"KNOWN", b"abcd"],
            [b"KNOWN", b"a" * 200, b"abc"],
            [b"CALL"],
            [b"call", b"tell", b"abc"],
        ):
            data = get + encode(plain) + get
            self.assertScans(data, ["forward", get, 1], ["scripts", encode(plain), 1], ["forward", get, 1])

    def test_scripts_are_runs_of_their_own(self) -> None:
        """A run of scripts has neither other plain commands nor inspected ones."""
        get, look = encode([b"GET", b"a"]), encode([b"LOOK"])
        scripts = b"".join(map(encode, ([b"TEXT", b"x", b"0"], [b"CALL", b"f"], [b"KNOWN", b"x", b"1", b"k"], [b"text"])))
        self.assertScans(
            scripts + get * 2 + scripts + look + scripts,
            ["scripts", scripts, 4],
            ["forward", get * 2, 2],
            ["scripts", scripts, 4],
            ("command", [b"LOOK"]),
            ["scripts", scripts, 4],
        )
        scanning = scanner()
        scanning.feed(scripts * 2)
        self.assertEqual(scanning.next(), (SCRIPTS, scripts * 2, 8))

    def test_a_large_script_is_streamed(self) -> None:
        get, call = encode([b"GET", b"a"]), encode([b"CALL", b"f"])
        large = encode([b"CALL", b"f", b"x" * 100_000])
        self.assertEqual(
            scan([get + call + large + call + get]),
            [["forward", get, 1], ["scripts", call, 1], ["stream", large, 1], ["scripts", call, 1], ["forward", get, 1]],
        )

    def test_a_malformed_command_behind_scripts(self) -> None:
        call = encode([b"CALL", b"f"])
        scanning = scanner()
        scanning.feed(call * 2 + b"*2\r\n$4\r\nCALL\r\n:1\r\n")
        self.assertEqual(scanning.next(), (SCRIPTS, call * 2, 2))
        self.assertRaises(ProtocolError, scanning.next)

    def test_inline_it_is_inspected_by_its_first_argument_too(self) -> None:
        self.assertScans(b"text 'tell me' 0\r\n", ("command", [b"text", b"tell me", b"0"]))
        self.assertScans(b"KNOWN ABC\r\n", ("command", [b"KNOWN", b"ABC"]))
        for words in ([b"TEXT"], [b"TEXT", b"me", b"tell"], [b"KNOWN"], [b"KNOWN", b"x"], [b"CALL"], [b"call", b"x"]):
            self.assertScans(b" ".join(words) + b"\r\n", ["scripts", encode(words), 1])

    def test_nothing_is_known_at_first(self) -> None:
        """Then not even the first argument is read."""
        scanning = RequestScanner(AUTHENTICATED, TABLE, FORWARD)
        data = encode([b"KNOWN", b"abc", b"0"])
        scanning.feed(data)
        self.assertEqual(scanning.next(), (SCRIPTS, data, 1))
        scanning.known[b"abc"] = b""
        scanning.feed(data)
        self.assertEqual(scanning.next(), (COMMAND, [b"KNOWN", b"abc", b"0"], 1))

    def test_malformed_first_arguments(self) -> None:
        ends = ("error", "a bulk string does not end where its length says")
        self.assertScans(b"*2\r\n$4\r\nTEXT\r\n$4\r\ntellXX", ends)
        self.assertScans(b"*2\r\n$5\r\nKNOWN\r\n$3\r\nabc\rX", ends)
        self.assertScans(b"*2\r\n$4\r\nTEXT\r\n:1\r\n", ("error", "expected '$', got ':'"))

    def test_a_large_first_argument_is_awaited(self) -> None:
        """It decides whether the command is plain, so it is kept until it is whole. Then a plain
        command streams. One that is too large to be inspected is plain.
        """
        text = encode([b"TEXT", b"x" * 100_000 + b"tell", b"0"])
        self.assertEqual(scan([text]), [("command", [b"TEXT", b"x" * 100_000 + b"tell", b"0"])])
        self.assertEqual(scan([text[n : n + 1000] for n in range(0, len(text), 1000)]), scan([text]))
        plain = encode([b"TEXT", b"x" * 100_000, b"0"])
        scanning = scanner()
        scanning.feed(plain[:90_000])
        self.assertIsNone(scanning.next())
        scanning.feed(plain[90_000:])
        self.assertEqual(scanning.next()[0], STREAM)
        too_large = encode([b"TEXT", b"tell" * (bounds.INSPECTED_BYTES // 4), b"0"])
        scanning = scanner()
        scanning.feed(too_large[:1000])
        self.assertEqual(scanning.next()[0], STREAM)

    def test_from_the_first_large_argument_on_it_is_streamed(self) -> None:
        get = encode([b"GET", b"a"])
        large, first = b"y" * (bounds.WHOLE_COMMAND_BYTES + 1), [b"TEXT", b"tell", b"1", b"key"]
        data = get + encode([*first, large, b"z"]) + get
        rest = encode([large, b"z"]).split(b"\r\n", 1)[1]
        expected = [["forward", get, 1], ["headed", encode(first) + rest, 1], ["forward", get, 1]]
        for size in (len(data), 1000, 7):
            self.assertEqual(scan(data[n : n + size] for n in range(0, len(data), size)), expected)
        scanning = scanner()
        scanning.feed(encode([*first, large, b"z"]))
        self.assertEqual((scanning.next()[0], scanning.arguments_left), (HEADED, 2))
        # Many small ones are streamed from the one on that would be too much.
        many = encode([*first, *[b"x"] * 50_000])
        scanning = scanner()
        scanning.feed(many)
        kind, taken, _ = scanning.next()
        self.assertEqual((kind, len(taken) + scanning.arguments_left), (HEADED, 50_004))
        size = sum(map(len, taken)) + bounds.ARGUMENT_COST_BYTES * (len(taken) - 1)
        self.assertLessEqual(size, bounds.INSPECTED_BYTES)
        self.assertEqual(scanning.next()[:1], (STREAM,))

    def test_a_transaction_with_it(self) -> None:
        get, end = encode([b"GET", b"a"]), encode([b"EXEC"])
        for words, whole in (
            ([b"TEXT", b"x", b"0"], True),
            ([b"TEXT", b"tell", b"0"], False),
            ([b"KNOWN", b"x", b"0"], True),
            ([b"CALL", b"x", b"0"], True),
            ([b"KNOWN", b"ABC", b"0"], False),
        ):
            scanning = scanner()
            data = get + encode(words) + end
            scanning.feed(data)
            self.assertEqual(scanning.transaction(), (data, 3, True, 0) if whole else None)
            # While the first argument is not whole, nobody knows. The command before it still runs.
            scanning = scanner()
            scanning.feed(data[: -len(end) - 12])
            self.assertIsNone(scanning.transaction())
            self.assertEqual(scanning.next(), (RUN, get, 1))

    def test_a_command_is_inspected_above_a_number_of_arguments(self) -> None:
        get, call = encode([b"GET", b"a"]), encode([b"CALL", b"f"])
        for plain in ([b"ABOVE"], [b"above", b"a"], [b"ABOVE", b"a", b""], [b"FAR", *[b"x"] * 1000]):
            data = encode(plain)
            self.assertScans(get + data + get, ["forward", get + data + get, 3])
            self.assertScans(call + data + call, ["scripts", call, 1], ["forward", data, 1], ["scripts", call, 1])
            inline = b" ".join(plain[:-1] if not plain[-1] else plain) + b"\r\n"
            self.assertScans(inline, ["forward", encode(inline.split()), 1])
        for words in ([b"ABOVE", b"a", b"b", b"c"], [b"Above", *[b"x"] * 100], [b"FAR", *[b"x"] * 1001]):
            data = get + encode(words) + get
            self.assertScans(data, ["forward", get, 1], ("command", words), ["forward", get, 1])
            self.assertScans(b" ".join(words) + b"\r\n", ("command", words))

    def test_one_that_is_not_inspected_is_streamed_if_it_is_large(self) -> None:
        get, large = encode([b"GET", b"a"]), encode([b"ABOVE", b"x" * 100_000])
        self.assertEqual(scan([get + large + get]), [["forward", get, 1], ["stream", large, 1], ["forward", get, 1]])
        inspected = encode([b"ABOVE", b"x" * 100_000, b"a", b"b"])
        self.assertEqual(scan([inspected]), [("command", [b"ABOVE", b"x" * 100_000, b"a", b"b"])])

    def test_one_that_is_inspected_leaves_no_whole_transaction(self) -> None:
        end = encode([b"EXEC"])
        for words, whole in (([b"ABOVE", b"a", b"b"], True), ([b"ABOVE", b"a", b"b", b"c"], False)):
            scanning = scanner()
            data = encode(words) + end
            scanning.feed(data)
            self.assertEqual(scanning.transaction(), (data, 2, False, 0) if whole else None)

    def test_a_headed_command(self) -> None:
        """A small headed command is handed over whole; if the last of three arguments is large, it
        is streamed.
        """
        get = encode([b"GET", b"a"])
        for arguments in ([], [b"a"], [b"a", b""], [b"a", b"b" * 100], [b"a", b"b", b"c"]):
            data = get + encode([b"HEAD", *arguments]) + get
            self.assertScans(data, ["forward", get, 1], ("command", [b"HEAD", *arguments]), ["forward", get, 1])
        payload = b"x" * (bounds.WHOLE_COMMAND_BYTES + 1)
        expected = [
            ["forward", get, 1],
            ["headed", encode([b"HEAD", b"a"]) + b"$%d\r\n%b\r\n" % (len(payload), payload), 1],
            ["forward", get, 1],
        ]
        data = get + encode([b"HEAD", b"a", payload]) + get
        self.assertEqual(scan([data]), expected)
        self.assertEqual(scan(bytewise(data)), expected)
        self.assertEqual(scan([encode([b"HEAD", b"a", b"b", payload * 17])]), [("oversize", b"HEAD")])
        channel = b"c" * (bounds.INSPECTED_BYTES - 100)
        self.assertEqual(scan([encode([b"HEAD", channel, b"x" * 100])])[0][0], "headed")

    def test_a_whole_transaction(self) -> None:
        get, execute = encode([b"GET", b"a"]), encode([b"exec"])
        scanning = scanner()
        scanning.feed(get * 2 + execute + get)
        self.assertEqual(scanning.transaction(), (get * 2 + execute, 3, False, 0))
        self.assertEqual(scanning.next(), (RUN, get, 1))

    def test_no_whole_transaction(self) -> None:
        """Nothing is consumed if the transaction is not complete, not plain, or not RESP."""
        get, execute = encode([b"GET", b"a"]), encode([b"EXEC"])
        for data in (
            b"",
            get,
            get + execute[:-1],
            get + encode([b"EXEC", b"x"]),
            get + encode([b"DENY"]) + execute,
            get + encode([b"LOOK"]) + execute,
            get + b"PING\r\n" + execute,
            get + b"*0\r\n" + execute,
            encode([b"SET", b"k", b"x" * bounds.WHOLE_COMMAND_BYTES]) + execute,
            get + b"*2\r\n$3\r\nGET\r\n$x\r\n" + execute,
            encode([b"N" * 200]) + execute,
        ):
            with self.subTest(data[:60]):
                scanning = scanner()
                scanning.feed(data)
                self.assertIsNone(scanning.transaction())
                self.assertEqual(scanning.buffered, len(data))

    def test_a_taken_command_has_a_limit(self) -> None:
        get = encode([b"GET", b"a"])
        large = encode([b"LOOK", b"x" * (bounds.INSPECTED_BYTES - 68), b"y"])
        self.assertEqual(scan([large + get]), [("oversize", b"LOOK"), ["forward", get, 1]])
        just = encode([b"LOOK", b"x" * (bounds.INSPECTED_BYTES - 36)])
        self.assertEqual(scan([just + get])[0][0], "command")

    def test_a_large_argument_in_small_chunks_is_not_copied_at_each(self) -> None:
        scanning = scanner()
        scanning.feed(b"*2\r\n$4\r\nLOOK\r\n$1000000\r\n")
        self.assertIsNone(scanning.next())
        for number in range(1, 1000):
            scanning.feed(b"x" * 100)
            self.assertIsNone(scanning.next())
            self.assertEqual(len(scanning._chunks), (number - 1) % (bounds.CHUNKS - 1) + 1 if number > 1 else 1)

    def test_a_name_that_no_server_has_is_not_kept(self) -> None:
        get = encode([b"GET", b"a"])
        self.assertEqual(scan([encode([b"N" * 100_000, b"x"]) + get]), [("refused", b""), ["forward", get, 1]])
        self.assertEqual(scan(bytewise(encode([b"N" * 200, b"x"]) + get)), [("refused", b""), ["forward", get, 1]])

    def test_malformed_framing(self) -> None:
        for data, text in (
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1_0\r\n", "invalid multibulk length"),
            (b"*+1\r\n$4\r\nPING\r\n", "invalid multibulk length"),
            (b"* 1\r\n$4\r\nPING\r\n", "invalid multibulk length"),
            (b"*01\r\n$4\r\nPING\r\n", "invalid multibulk length"),
            (b"*-0\r\n", "invalid multibulk length"),
            (b"*\r\n", "invalid multibulk length"),
            (b"*2147483648\r\n", "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*1\rX$4\r\nPING\r\n" + b" " * 40, "invalid multibulk length"),
            (b"*1\n$4\nPING\n" + b" " * 40, "invalid multibulk length"),
            (b"*1\r\n+PING\r\n", "expected '$', got '+'"),
            (b"*1\r\n\x00PING\r\n", "expected '$', got '?'"),
            (b"*1\r\n$x\r\n", "invalid bulk length"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$04\r\nPING\r\n", "invalid bulk length"),
            (b"*1\r\n$4 \r\nPING\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"*1\r\n$4\r\nPINGXX", "a bulk string does not end where its length says"),
            (b"*1\r\n$3\r\nPING\r\n", "a bulk string does not end where its length says"),
            (b'GET "a\r\n', "unbalanced quotes in request"),
            (b"GET a\x00b\r\n", "a NUL byte in an inline request"),
        ):
            with self.subTest(data):
                self.assertScans(data, ("error", text))
                ping = encode([b"PING"])
                self.assertScans(ping + data, ["forward", ping, 1], ("error", text))

    def test_malformed_arguments_of_a_plain_command(self) -> None:
        """Nothing of a malformed plain command is passed on."""
        for tail in (b"$x\r\n", b"+OK\r\n", b"$1\r\nab\r\n"):
            data = b"*2\r\n$3\r\nGET\r\n" + tail
            for chunks in ([data], bytewise(data)):
                self.assertEqual(scan(chunks)[0][0], "error", tail)

    def test_limits_before_the_login(self) -> None:
        self.assertScans(b"*11\r\n", ("error", "unauthenticated multibulk length"), limits=UNAUTHENTICATED)
        self.assertScans(
            b"*2\r\n$4\r\nAUTH\r\n$16385\r\n",
            ("error", "unauthenticated bulk length"),
            limits=UNAUTHENTICATED,
            default=INSPECT,
        )
        ten = [b"LOOK"] + [b"x"] * 9
        self.assertScans(encode(ten), ("command", ten), limits=UNAUTHENTICATED, default=INSPECT)
        full = [b"LOOK", b"x" * 16384]
        self.assertEqual(scan([encode(full)], UNAUTHENTICATED, INSPECT), [("command", full)])

    def test_what_a_header_announces_is_not_allocated(self) -> None:
        scanning = scanner()
        scanning.feed(b"*2147483647\r\n$3\r\nSET\r\n$536870912\r\n")
        self.assertEqual(scanning.next()[2], 1)
        self.assertIsNone(scanning.next())
        self.assertEqual(scanning.buffered, 0)

    def test_an_inline_request_has_a_limit(self) -> None:
        line = b"GET " + b"x" * (bounds.INLINE_BYTES - 5)
        self.assertEqual(scan([line + b"\n"])[0][0], "forward")
        self.assertEqual(scan([b"GET " + b"x" * bounds.INLINE_BYTES]), [("error", "too big inline request")])
        self.assertEqual(scan([b"GET " + b"x" * bounds.INLINE_BYTES + b"\r\n"]), [("error", "too big inline request")])

    def test_the_table_may_change_between_two_commands(self) -> None:
        scanning = scanner(UNAUTHENTICATED, INSPECT)
        scanning.feed(encode([b"AUTH", b"x"]) + encode([b"GET", b"y"]) * 2)
        self.assertEqual(scanning.next()[0], COMMAND)
        scanning.limits, scanning.default = AUTHENTICATED, FORWARD
        self.assertIs(scanning.limits, AUTHENTICATED)
        self.assertEqual(scanning.next(), (RUN, encode([b"GET", b"y"]) * 2, 2))

    def test_the_newest_bytes_can_be_held_back(self) -> None:
        commands = encode([b"GET", b"x"]) + encode([b"SET", b"k", b"v" * 100]) + encode([b"LOOK", b"y"])
        for cut in range(len(commands)):
            for seen in range(0, cut + 1, 7):
                scanning = scanner()
                scanning.feed(commands[:seen])
                found = [*iter(scanning.next, None)]
                scanning.feed(commands[seen:cut])
                scanning.feed(commands[cut:])
                later = scanning.hold_back(len(commands) - cut)
                self.assertEqual(later, commands[cut:])
                found += iter(scanning.next, None)
                scanning.feed(later)
                found += iter(scanning.next, None)
                self.assertEqual(sum(each[2] for each in found), 3, (cut, seen))
                runs = b"".join(what for kind, what, _ in found if kind == RUN)
                self.assertEqual(runs, commands[: -len(encode([b"LOOK", b"y"]))])

    def test_the_next_commands_name(self) -> None:
        scanning = scanner()
        self.assertEqual(scanning.name, b"")
        scanning.feed(encode([b"GET", b"x"])[:-4])
        self.assertEqual(scanning.name, b"GET")
        scanning.next()
        scanning.feed(encode([b"GET", b"x"])[-4:] + b"*1\r\n$4\r\nLOOK\r\n" + b"PING x\r\n")
        for name in (b"GET", b"LOOK", b""):
            self.assertEqual(scanning.name, name)
            scanning.next()

    def test_forwarding(self) -> None:
        scanning = scanner()
        scanning.feed(b"*2\r\n$3\r\nGET\r\n$65536\r\nab")
        scanning.next()
        self.assertTrue(scanning.forwarding)
        scanning.feed(b"c" * 65534 + b"\r\n")
        scanning.next()
        self.assertFalse(scanning.forwarding)
        for partial in (encode([b"LOOK", b"abc"])[:-3], encode([b"DENY", b"abc"])[:-3]):
            scanning = scanner()
            scanning.feed(partial)
            scanning.next()
            scanning.next()
            self.assertFalse(scanning.forwarding)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([b"GET", b"set", b"LOOK", b"look", b"DENY", b"Deny"]),
                st.lists(st.binary(max_size=40), max_size=5),
            ),
            max_size=12,
        ),
        st.lists(st.integers(1, 60), max_size=30),
    )
    def test_any_commands_in_any_chunks(self, commands: list[tuple[bytes, list[bytes]]], sizes: list[int]) -> None:
        data = b"".join(encode([name, *arguments]) for name, arguments in commands)
        expected: list[object] = []
        for name, arguments in commands:
            kind = TABLE.get(name.upper(), FORWARD)
            if kind == INSPECT:
                expected.append(("command", [name, *arguments]))
            elif kind == REFUSE:
                expected.append(("refused", name))
            elif expected and isinstance(expected[-1], list):
                expected[-1][1] += encode([name, *arguments])
                expected[-1][2] += 1
            else:
                expected.append(["forward", encode([name, *arguments]), 1])
        chunks, start = [], 0
        for size in sizes:
            chunks.append(data[start : start + size])
            start += size
        self.assertEqual(scan([*chunks, data[start:]]), expected)

    @given(st.lists(st.binary(max_size=30) | st.sampled_from([b"*1\r\n", b"$4\r\n", b"\r\n", b"PING", b"*", b"$", b"LOOK"])))
    @example([b"*1\r\n", b"$4\r\n", b"PING", b"\r\n"])
    def test_any_bytes_parse_or_are_the_one_error_however_they_are_split(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        whole = scan([data])
        split = scan(bytewise(data))
        self.assertEqual(errorless(whole)[0], errorless(split)[0][: len(errorless(whole)[0])])
        self.assertEqual(errorless(whole)[1], errorless(split)[1])


def errorless(said: list[object]) -> tuple[list[object], object]:
    """Returns (what was reported without a trailing error, the error). The last run before an error
    is left out, because it may be incomplete.
    """
    error = said[-1] if said and said[-1][0] == "error" else None
    rest = said[:-1] if error else said
    if error and rest and rest[-1][0] == "forward":
        rest = rest[:-1]
    return rest, error


class SplitInlineTests(unittest.TestCase):
    def test_as_redis_splits(self) -> None:
        for line, expected in (
            (b"", []),
            (b"  \t ", []),
            (b"PING", [b"PING"]),
            (b"  set  a\tb ", [b"set", b"a", b"b"]),
            (b'set a "b c"', [b"set", b"a", b"b c"]),
            (b"set a 'b c'", [b"set", b"a", b"b c"]),
            (b'set a ""', [b"set", b"a", b""]),
            (b'"\\x53ELECT" 5', [b"SELECT", b"5"]),
            (b'"\\n\\r\\t\\b\\a\\\\\\"\\q"', [b'\n\r\t\b\a\\"q']),
            (b"'it\\'s' '\\n'", [b"it's", b"\\n"]),
            (b'foo"bar"', [b"foobar"]),
            (b'"\\x4" "\\xzz"', [b"x4", b"xzz"]),
            # As Valkey from 9.1 on. The others refuse these.
            (b'"a"b', [b"ab"]),
            (b"'a'b", [b"ab"]),
            (b'a"b"c d', [b"abc", b"d"]),
            (b"""'a '"'b"'"c' d""", [b"""a 'b"c""", b"d"]),
            (b'""a""', [b"a"]),
            (b'"\\"', [b"\\"]),
            (b"'a\\'", [b"a\\"]),
        ):
            with self.subTest(line):
                self.assertEqual(split_inline(line), expected)

    def test_unbalanced(self) -> None:
        for line in (b'"a', b"'a", b'"a"b"', b"'a'\"b", b'"a\\" ', b'"a"\v', b"'a'\f"):
            with self.subTest(line):
                self.assertRaises(ProtocolError, split_inline, line)


#: Levels of a reply: more than Redis can send.
DEPTH = 10_000


def measured(chunks: Iterable[bytes], want: int = 1000) -> list[bytes]:
    """Returns the replies in the chunks, one by one. A last entry that begins with ... is
    incomplete.
    """
    measurer = ReplyMeasurer()
    replies, current = [], bytearray()
    for chunk in chunks:
        pos = 0
        while pos < len(chunk):
            end, done = measurer.measure(chunk, pos, 1)
            current += chunk[pos:end]
            pos = end
            if done:
                replies.append(bytes(current))
                current.clear()
    return [*replies, *([b"..." + current] if current or not measurer.between else [])]


REPLIES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-12\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"*1\r\n*1\r\n*0\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",3.14\r\n",
    b",inf\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!7\r\nERR bad\r\n",
    b"=8\r\ntxt:some\r\n",
    b"%1\r\n+a\r\n*0\r\n",
    b"%0\r\n",
    b"~2\r\n+a\r\n+b\r\n",
    b"|1\r\n+ttl\r\n:5\r\n*1\r\n+x\r\n",
    b"*1\r\n|1\r\n+ttl\r\n:5\r\n+x\r\n",
]


class ReplyMeasurerTests(unittest.TestCase):
    def test_each_type_whole_and_split(self) -> None:
        data = b"".join(REPLIES)
        self.assertEqual(measured([data]), REPLIES)
        self.assertEqual(measured(bytewise(data)), REPLIES)
        for cut in range(len(data)):
            self.assertEqual(measured([data[:cut], data[cut:]]), REPLIES, cut)

    def test_stops_after_as_many_as_are_wanted(self) -> None:
        measurer = ReplyMeasurer()
        self.assertEqual(measurer.measure(b"+a\r\n+b\r\n+c\r\n", 0, 2), (8, 2))
        self.assertEqual(measurer.measure(b"+a\r\n+b\r\n+c\r\n", 8, 2), (12, 1))

    def test_what_only_a_replica_says_is_noticed(self) -> None:
        refusal = b"-READONLY You can't write against a read only replica.\r\n"
        for data in (
            refusal,
            b"+OK\r\n$2\r\nab\r\n" + refusal + b":1\r\n",
            b"*2\r\n:1\r\n" + refusal,
            b"-MASTERDOWN Link with MASTER is down\r\n",
        ):
            found: list[bool] = []
            ReplyMeasurer(lambda found=found: found.append(True)).measure(data, 0, 9)
            self.assertEqual(found, [True], data)
        for data in (b"-ERR READONLY \r\n", b"+READONLY x\r\n", b"$%d\r\n%b\r\n" % (len(refusal), refusal)):
            ReplyMeasurer(self.fail).measure(data, 0, 9)

    def test_nothing_within_a_reply(self) -> None:
        for beginning in (b"$3\r\na", b"+O", b"+OK\r", b"*12"):
            measurer = ReplyMeasurer()
            self.assertEqual(measurer.measure(beginning, 0, 1), (len(beginning), 0))
            self.assertEqual(measurer.measure(b"", 0, 1), (0, 0))
            self.assertFalse(measurer.between)

    def test_what_resp_does_not_allow(self) -> None:
        for data in (
            b"?\r\n",
            b"hello\r\n",
            b"\x00",
            b"$x\r\n",
            b"$-2\r\n",
            b"$01\r\na\r\n",
            b"*+1\r\n",
            b"$3\r\nabcXY",
            b"$3\r\nabc\rX",
            b"$" + b"1" * 40,
            b"*?\r\n",
            b">1\r\n+invalidate\r\n",
            b"*%d\r\n" % (10**18 - 1) * 5,
            b"%%%d\r\n" % (10**18 - 1) * 3,
        ):
            for chunks in ([data], bytewise(data)):
                with self.subTest(data[:20]):
                    self.assertRaises(ProtocolError, measured, chunks)

    def test_as_deep_as_lua_s_stack_lets_redis_go_and_deeper(self) -> None:
        """Replies of any depth are measured: whole, byte by byte, and between others."""
        for level, leaf, levels in (
            (b"*1\r\n", b":1\r\n", 1),
            (b"*2\r\n:7\r\n", b"$0\r\n\r\n", 1),
            (b"%1\r\n+key\r\n", b"#t\r\n", 1),
            (b"~1\r\n", b"*0\r\n", 1),
            (b"|1\r\n+ttl\r\n:5\r\n*1\r\n", b"*-1\r\n", 2),
            # with more elements behind the one that goes deeper
            (b"*3\r\n", b"*-1\r\n" + b":1\r\n" * 2 * DEPTH, 1),
        ):
            deep = level * (DEPTH // levels) + leaf
            for replies in ([deep], [b"+before\r\n", deep, deep, b"+after\r\n"]):
                self.assertEqual(measured([b"".join(replies)]), replies)
        for level in (b"*1\r\n", b"%1\r\n+k\r\n"):
            replies = [b"+before\r\n", level * 8000 + b":1\r\n", b"+after\r\n"]
            self.assertEqual(measured(bytewise(b"".join(replies))), replies)

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.integers(1, 9000),
        st.sampled_from([b"*1\r\n", b"%1\r\n+k\r\n", b"*2\r\n$3\r\nabc\r\n"]),
        st.lists(st.integers(1, 9000), max_size=8),
    )
    def test_any_depth_in_any_chunks(self, depth: int, level: bytes, sizes: list[int]) -> None:
        deep = level * depth + b"$2\r\nok\r\n"
        data = b"+1\r\n" + deep + b":2\r\n"
        chunks, start = [], 0
        for size in sizes:
            chunks.append(data[start : start + size])
            start += size
        self.assertEqual(measured([c for c in [*chunks, data[start:]] if c]), [b"+1\r\n", deep, b":2\r\n"])

    def test_a_push_within_a_reply_is_no_element(self) -> None:
        """`measure` stops before a push within a reply, and goes on behind it. Without `pushes`, a
        push is a protocol error there, too.
        """
        push = b">2\r\n+x\r\n*1\r\n:1\r\n"
        for before, after in (
            (b"*1\r\n", b":1\r\n"),
            (b"*2\r\n$1\r\na\r\n", b"*-1\r\n"),
            (b"*1\r\n%1\r\n+key\r\n", b"#t\r\n"),
            (b"|1\r\n+ttl\r\n:5\r\n", b"+x\r\n"),
        ):
            for chunks in ([before + push + after], bytewise(before + push + after)):
                self.assertRaises(ProtocolError, measured, chunks)
            for cut in range(len(before)):
                measurer = ReplyMeasurer()
                measurer.pushes = True
                self.assertEqual(measurer.measure(before[:cut], 0, 1), (cut, 0))
                data = before + push + after
                for _ in range(2):  # the push is still there
                    self.assertEqual(measurer.measure(data, cut, 2), (len(before), 0))
                    self.assertFalse(measurer.between)
                    cut = len(before)
                self.assertEqual(measurer.measure(data, len(before + push), 1), (len(data), 1))
        measurer = ReplyMeasurer()
        measurer.pushes = True
        self.assertEqual(measurer.measure(push + b"+OK\r\n" + push, 0, 3), (2 * len(push) + 5, 3))

    @given(st.lists(st.sampled_from(REPLIES), max_size=20), st.lists(st.integers(1, 20), max_size=40))
    def test_any_replies_in_any_chunks(self, replies: list[bytes], sizes: list[int]) -> None:
        data = b"".join(replies)
        chunks, start = [], 0
        for size in sizes:
            chunks.append(data[start : start + size])
            start += size
        self.assertEqual(measured([c for c in [*chunks, data[start:]] if c]), replies)

    @given(st.binary(max_size=60))
    def test_any_bytes_are_measured_or_the_one_error_however_they_are_split(self, data: bytes) -> None:
        def outcome(chunks: list[bytes]) -> object:
            try:
                return measured(chunks)
            except ProtocolError:
                return "error"

        self.assertEqual(outcome([data] if data else []), outcome(bytewise(data)))
