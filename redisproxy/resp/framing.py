r"""RESP framing in both directions: finds where requests and replies begin and end.

Owns the wire format. The limits are in `bounds`. This module must not know what a command means
(`policy.policy` does) or whose it is (`session.session` does). It only gets a table that maps
command names to verdicts, FORWARD and others.

Bytes that are passed on are never decoded. A run of plain commands leaves as the slice it came in,
and a reply is measured while it passes. Redis reads some requests leniently (``*1\rX``, a bulk
string that does not end in CR LF). They are errors here, because two parsers that disagree about a
boundary are a smuggling hole.

The code is plain Python. If there is a C compiler, Cython compiles it with the C types of
framing.pxd. Hot code compares single bytes, because that is cheap in both forms. Only rare code
searches, slices or calls int(). This module is longer than other modules, because both classes are
compiled together with the functions that they share.

Source: networking.c of Redis 7 (processInlineBuffer, processMultibulkBuffer), sds.c (sdssplitargs),
and the RESP3 specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

from .. import bounds

# Verdicts: the values of a table of command names.
FORWARD = 0  #: plain: pass its bytes on
REFUSE = 1  #: report its name, and skip its arguments
INSPECT = 2  #: report its name and arguments, once all of them are here
#: as INSPECT, but if the command has two arguments, the second is streamed if it is large
INSPECT_FIRST = 3
#: if RequestScanner.inspects() is true for the first argument: report its name and arguments, but
#: stream them from the first large one on, which cannot be the first argument. Else as SCRIPT.
INSPECT_TEXT = 4
#: the same, but if the first argument is in RequestScanner.known
INSPECT_KNOWN = 5
SCRIPT = 6  #: plain, but may take long: pass its bytes on, apart from commands of FORWARD
#: plain, but may keep Redis busy: pass its bytes on, apart from all others, if there is a place for
#: it in RequestScanner.window
WINDOWED = 7
#: plus a number of arguments: as INSPECT if the command has more than these, else as FORWARD
INSPECT_ABOVE = 16
#: the same, but else as WINDOWED. It is the largest verdict.
WINDOWED_ABOVE = 1 << 20

# The kinds of what RequestScanner.next() returns.
# RUN and SCRIPTS are also the verdicts for their commands.
RUN: Final = 0  #: (RUN, bytes to pass on, number of commands): whole commands of FORWARD only
COMMAND: Final = 1  #: (COMMAND, [name, arguments …], 1)
REFUSED: Final = 2  #: (REFUSED, name, 1): an overlong name is empty, or cut if inline
#: (OVERSIZE, name, 1): an inspected command is larger than INSPECTED_BYTES; its rest is skipped
OVERSIZE: Final = 3
#: (HEADED, [name, first arguments …], 1): the others, of which there are `arguments_left`, follow
#: as STREAM
HEADED: Final = 4
#: (STREAM, bytes to pass on, 1): a command larger than WHOLE_COMMAND_BYTES begins; its further
#: pieces have a 0
STREAM: Final = 5
SCRIPTS: Final = 6  #: as RUN, but of SCRIPT
#: as RUN, but of WINDOWED, and of no more commands than there are places. Not the verdict's number,
#: so that each such command leaves the scanner's shortest way, where nothing counts.
WINDOW: Final = 8
NO_PLACE: Final = 9  #: (NO_PLACE, b"", 0): a command of WINDOWED comes next, and there is no place
#: (EMPTY, b"", 0): EMPTY_LINES empty lines and empty arrays were passed over, and more may come
EMPTY: Final = 10

if TYPE_CHECKING:
    #: a list with COMMAND or HEADED; bytes with all others
    Found: TypeAlias = tuple[Literal[0, 2, 3, 5, 6, 8, 9, 10], bytes, int] | tuple[Literal[1, 4], list[bytes], int]


class FreePlaces(Protocol):
    """How many commands of WINDOWED may be passed on."""

    @property
    def free(self) -> int:
        """How many, now."""


class _Unlimited:
    """Places without a limit."""

    free = 1 << 60


UNLIMITED = _Unlimited()


CRLF = b"\r\n"

#: Whether this module runs compiled.
COMPILED = not __file__.endswith((".py", ".pyc"))


class ProtocolError(Exception):
    """The peer sent bytes that RESP does not allow. The text may be sent to a client: it repeats at
    most one of the peer's bytes.
    """


class Limits(NamedTuple):
    """What a request may announce. The values are Redis's own (networking.c)."""

    #: arguments of one command
    arguments: int
    #: bytes of one argument
    bulk: int
    #: first word of the error at a breach: ``unauthenticated`` before log-in, as in Redis
    prefix: str


AUTHENTICATED = Limits(bounds.ARGUMENTS, bounds.ARGUMENT_BYTES, prefix="invalid")
UNAUTHENTICATED = Limits(bounds.UNAUTHENTICATED_ARGUMENTS, bounds.UNAUTHENTICATED_ARGUMENT_BYTES, prefix="unauthenticated")


def _number(digits: bytes) -> int | None:
    """The value of a canonical decimal number of at most 18 digits, or None. ``int()`` accepts
    more: ``1_0``, ``+10`` and spaces.
    """
    magnitude = digits[1:] if digits[:1] == b"-" else digits
    if not magnitude.isdigit() or len(magnitude) > 18 or (magnitude[:1] == b"0" and digits != b"0"):
        return None
    return int(digits)


def _short_header(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """(number, where the header ends) of the header at pos, if the header is whole and its number
    is canonical and below 10,000.

    (-1, pos): the header needs the careful check. Nothing is refused here.
    """
    if end - pos < 7:  # a type byte, four digits, CR LF: no byte behind these is read below
        return -1, pos
    number = data[pos + 1] - 48
    if number < 0 or number > 9:
        return -1, pos
    at = pos + 2
    if number:
        while number < 1000:
            digit = data[at] - 48
            if digit < 0 or digit > 9:
                break
            number = number * 10 + digit
            at += 1
    if data[at] != 13 or data[at + 1] != 10:
        return -1, pos
    return number, at + 2


def _above(mode: int, arguments: int) -> int:
    """The verdict for a command of INSPECT_ABOVE or WINDOWED_ABOVE with so many arguments."""
    if mode >= WINDOWED_ABOVE:
        return INSPECT if arguments > mode - WINDOWED_ABOVE else WINDOWED
    return INSPECT if arguments > mode - INSPECT_ABOVE else FORWARD


def encode(arguments: Iterable[bytes]) -> bytes:
    """One command as a RESP array of bulk strings."""
    arguments = list(arguments)
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        parts.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
    return b"".join(parts)


_SPACE = b" \t\n\v\f\r"
_WORD_END = b" \t\n\r"  # \v and \f are space before a word, and a part of it inside
_UNUSUAL = re.compile(rb"[\"'\v\f]")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_HEX = frozenset(b"0123456789abcdefABCDEF")


def split_inline(line: bytes) -> list[bytes]:
    """The arguments of an inline command. Quotes have the meaning of Valkey's sdssplitargs(), since
    its version 9.1: as in a shell, an argument may consist of several parts, quoted or not. Other
    servers refuse a line in which a closing quote does not end the argument, and agree about all
    other lines.

    Raises ProtocolError if a quote is not closed.
    """
    if not _UNUSUAL.search(line):
        return line.split()
    arguments: list[bytes] = []
    pos, end = 0, len(line)
    while True:
        while pos < end and line[pos] in _SPACE:
            pos += 1
        if pos == end:
            return arguments
        argument = bytearray()
        while pos < end and line[pos] not in _WORD_END:
            character = line[pos : pos + 1]
            pos += 1
            if character not in (b'"', b"'"):
                argument += character
                continue
            pos = _quoted(line, pos, character, argument)
            # \v and \f are refused behind a closing quote, because Redis and Valkey disagree about
            # them.
            if pos < end and line[pos] in b"\v\f":
                raise ProtocolError("unbalanced quotes in request")
        arguments.append(bytes(argument))


def _quoted(line: bytes, pos: int, quote: bytes, argument: bytearray) -> int:
    """Adds the quoted part at pos to argument. Returns the position behind its closing quote."""
    end = len(line)
    while pos < end:
        character = line[pos : pos + 1]
        if character == quote:
            return pos + 1
        if character == b"\\" and pos + 2 < end:  # behind the last backslash there is only the quote
            following = line[pos + 1 : pos + 2]
            if quote == b"'":
                if following == b"'":
                    argument += b"'"
                    pos += 2
                    continue
            elif following == b"x" and pos + 3 < end and line[pos + 2] in _HEX and line[pos + 3] in _HEX:
                argument.append(int(line[pos + 2 : pos + 4], 16))
                pos += 4
                continue
            else:
                argument += _ESCAPES.get(following, following)
                pos += 2
                continue
        argument += character
        pos += 1
    raise ProtocolError("unbalanced quotes in request")


class RequestScanner:
    """Cuts a client's bytes into commands to forward unchanged and commands to inspect.

    Give it bytes with ``feed()``, then call ``next()`` until that returns None. The results do not
    depend on how the bytes were split into chunks, with three exceptions: how many commands a RUN
    has, where a STREAM is cut, and whether there is an EMPTY.

    limits: what a request may announce; table: FORWARD, INSPECT or another verdict by command name
    (upper or lower case); default: the verdict for other names; inspects: see INSPECT_TEXT. All of
    these, `known` and `window` may be replaced between two calls of next(), and then apply from the
    next command on.
    """

    def __init__(
        self, limits: Limits, table: dict[bytes, int], default: int, inspects: Callable[[bytes], bool] | None = None
    ) -> None:
        self.limits = limits
        self.table = table
        self.default = default
        self.inspects = inspects
        #: see WINDOWED
        self.window: FreePlaces = UNLIMITED
        #: see INSPECT_KNOWN; the keys are in lower case
        self.known: dict[bytes, bytes] = {}
        #: What was taken apart line by line since the caller has set this to 0: 1 for each empty
        #: line, empty array and word of a plain inline command. A long line counts more, because of
        #: its quotes.
        self.apart = 0
        self._empty = 0  # of these, since next() was called
        self._name_limit = bounds.COMMAND_NAME_BYTES
        self._whole_limit = bounds.WHOLE_COMMAND_BYTES
        self._buffer = b""
        self._pos = 0
        # Chunks that came while the buffer was known to be too short. They are joined when there
        # are _wanted bytes, because a large argument that arrives byte by byte must not be copied
        # at every byte.
        self._chunks: list[bytes] = []
        self._size = 0
        self._wanted = 0
        # The command to pass on at _pos, if it is not whole: bytes that were scanned, arguments
        # still to come, and RUN, SCRIPTS or WINDOW.
        self._seen = 0
        self._unseen = 0
        self._seen_kind: Literal[0, 6, 8] = RUN
        # The current command, if it is passed on, collected or skipped in pieces.
        self._mode = FORWARD
        self._arguments_left = 0  # arguments whose header was not read yet
        self._bulk_left = 0  # bytes of the current argument still to come, CR LF included
        self._taken: list[bytes] = []
        # Of the command that is inspected, or was the last one: its size as INSPECTED_BYTES limits
        # it, and its words that were collected.
        self._inspected_size = 0
        self._inspected_words = 0

    @property
    def limits(self) -> Limits:
        """What a request may announce."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._arguments_limit = limits.arguments
        self._bulk_limit = limits.bulk

    @property
    def buffered(self) -> int:
        """Bytes that were fed and are not consumed yet."""
        return self._size + len(self._buffer) - self._pos

    @property
    def cost(self) -> int:
        """The memory in bytes that the scanner uses until a command is whole: what was fed, and the
        words that were collected.
        """
        cost = self._size + len(self._buffer) + len(self._chunks) * bounds.WORD_BYTES
        return cost + self.inspected_cost if self._taken else cost

    @property
    def inspected_cost(self) -> int:
        """The memory in bytes that the words of the latest inspected command use."""
        return self._inspected_size + self._inspected_words * (bounds.WORD_BYTES - bounds.ARGUMENT_COST_BYTES)

    @property
    def arguments_left(self) -> int:
        """Arguments of the current command that were neither reported nor passed on yet."""
        return self._arguments_left

    @property
    def argument_left(self) -> int:
        """Bytes of the current argument that are announced, and were not passed on yet. Of the next
        one, where HEADED was found.
        """
        if self._bulk_left or not self._arguments_left:
            return self._bulk_left
        length, data_at = self._bulk_header(self._buffer, self._pos, len(self._buffer))
        return length + 2 if data_at >= 0 else 0

    @property
    def collected(self) -> int:
        """Arguments of the current command that were collected so far, if it is to be inspected and
        its rest has not come yet.
        """
        return len(self._taken)

    @property
    def forwarding(self) -> bool:
        """Whether a command was passed on in part, and its rest has not come yet."""
        return self._mode == FORWARD and bool(self._arguments_left or self._bulk_left)

    @property
    def within(self) -> bool:
        """Whether a command was passed on, collected or skipped in part, and its rest has not come
        yet.
        """
        return bool(self._arguments_left or self._bulk_left)

    def feed(self, data: bytes) -> None:
        """Adds bytes that the client sent. Empty chunks are harmless."""
        if self._pos == len(self._buffer) and not self._chunks:
            self._buffer = data
            self._pos = 0
            return
        self._chunks.append(data)
        self._size += len(data)
        if self.buffered >= self._wanted:
            self._join()
        elif len(self._chunks) == bounds.CHUNKS:
            # Each chunk is an object, which costs more than a byte.
            self._chunks = [b"".join(self._chunks)]

    def drop(self) -> None:
        """Drops all bytes, and the words that were collected. No more is read after that."""
        self._buffer, self._pos = b"", 0
        self._chunks, self._size = [], 0
        self._taken = []

    def hold_back(self, size: int) -> bytes:
        """Removes and returns the newest bytes, which `next` has not seen. size: how many."""
        if self._chunks:
            self._join()
        kept = len(self._buffer) - size
        taken = self._buffer[kept:]
        self._buffer = self._buffer[:kept]
        return taken

    @property
    def name(self) -> bytes:
        """The next command's name, if it is there and not inline; else empty."""
        head = self._buffer[self._pos : self._pos + 64].split(b"\r\n", 3)
        return head[2] if len(head) > 3 and head[0][:1] == b"*" else b""

    def _join(self) -> None:
        self._chunks.insert(0, self._buffer[self._pos :])
        self._buffer = b"".join(self._chunks)
        self._pos = 0
        self._chunks = []
        self._size = 0
        self._wanted = 0

    def next(self) -> Found | None:
        """The next part of the bytes fed so far, or None if more bytes are needed.

        Raises ProtocolError. After that the stream has no known boundaries, and the scanner must
        not be used.
        """
        if self._chunks:
            return None  # still fewer than _wanted
        self._empty = 0
        while True:
            if self._arguments_left or self._bulk_left:
                found = self._continue()
                if found is not None:
                    return found
                if self._arguments_left or self._bulk_left:
                    self._release()
                    return None
            found = self._scan()
            if found is not None:
                return found
            if not (self._arguments_left or self._bulk_left):
                self._release()
                return None

    def _release(self) -> None:
        """Keeps no bytes that were consumed, unless more of the buffer are still to come: a small
        rest must not hold a whole read in memory.
        """
        if self._pos * 2 >= len(self._buffer):
            self._buffer = self._buffer[self._pos :]
            self._pos = 0

    def _scan(self) -> Found | None:
        """All whole commands that come next and are all FORWARD, all SCRIPT or all WINDOWED, or the
        next command if it is none of these. Must be called at a command boundary.
        """
        buffer = self._buffer
        end = len(buffer)
        view = buffer  # a pointer in the compiled form: a slice of a pointer costs half as much
        start = pos = begin = self._pos
        count = most = 0
        kind: Literal[0, 6, 8] = RUN
        try:
            while pos < end:
                begin = pos
                if self._seen:
                    kind = self._seen_kind
                    if kind == WINDOW:
                        most = self.window.free
                        if most <= 0:
                            return NO_PLACE, b"", 0
                    pos += self._seen
                    remaining = self._unseen
                    self._seen = 0
                elif buffer[pos] != 42:  # b"*"
                    if count:
                        break
                    self._pos = pos
                    found = self._inline()
                    if found is None and self._pos != pos:  # an empty line
                        start = pos = self._pos
                        if self._pass_empty():
                            return EMPTY, b"", 0
                        continue
                    return found
                else:
                    remaining, name_at, after = self._head(buffer, pos, end)
                    if after == 0:
                        break
                    if remaining < 0:  # an empty array gets no reply from Redis: never passed on
                        if count:
                            break
                        start = pos = self._pos = after
                        if self._pass_empty():
                            return EMPTY, b"", 0
                        continue
                    if after - 2 - name_at > self._name_limit:
                        if count:
                            break
                        # Drop the header, which is read, and skip the rest.
                        self._pos = name_at
                        self._mode = REFUSE
                        self._arguments_left = remaining
                        self._bulk_left = after - name_at
                        return REFUSED, b"", 1
                    name = view[name_at : after - 2]
                    mode = self.table.get(name)
                    if mode is None:
                        mode = self.table.get(name.upper(), self.default)
                    # `is not` costs least, and small numbers are the same objects. Were they not,
                    # the branch would still do what is right.
                    if mode is not kind:
                        if mode >= INSPECT_ABOVE:
                            mode = _above(mode, remaining)
                        elif INSPECT_TEXT <= mode <= SCRIPT:
                            mode, wanted = self._by_first(mode, buffer, begin, after, remaining, end)
                            if mode < 0:
                                if not count:
                                    self._wanted = wanted
                                break
                        if mode == WINDOWED and kind == WINDOW:
                            if count >= most:
                                break
                        elif mode != kind:
                            if count:
                                break
                            if mode == FORWARD:
                                kind = RUN
                            elif mode == WINDOWED:
                                kind = WINDOW
                                most = self.window.free
                                if most <= 0:
                                    self._pos = pos
                                    return NO_PLACE, b"", 0
                            elif mode == SCRIPT:
                                kind = SCRIPTS
                            else:
                                return self._begin(name, mode, remaining, after)
                    pos = after
                # A command to pass on: the rest of its arguments, as far as they are here.
                pos, remaining, wanted = self._pass(buffer, begin, pos, remaining, end)
                if wanted > self._whole_limit:
                    if count:
                        pos = begin
                        break
                    self._pos = pos
                    self._mode = FORWARD
                    self._arguments_left = remaining
                    self._bulk_left = wanted - (pos - begin)
                    return STREAM, buffer[begin:pos], 1
                if remaining:
                    self._seen = pos - begin
                    self._unseen = remaining
                    self._seen_kind = kind
                    pos = begin
                    if not count:
                        self._wanted = wanted
                    break
                count += 1
        except ProtocolError:
            if not count:
                raise
            pos = begin  # the next call raises it again, after the commands before it
        self._pos = pos
        if count == 0:
            return None
        if pos == end:  # an idle client's last read must not stay in memory
            self._buffer = b""
            self._pos = 0
            if start == 0:
                return kind, buffer, count
        return kind, buffer[start:pos], count

    def transaction(self) -> tuple[bytes, int, bool, int] | None:
        """Takes the commands behind a MULTI, if all of them up to its EXEC are here and plain.

        Returns (bytes, number of commands, whether a script is among them, how many of WINDOWED
        are), the first two with the EXEC, or None. With None, no bytes are consumed.
        """
        buffer = self._buffer
        end = len(buffer)
        pos = self._pos
        count = windowed = 0
        scripts = False
        if self._chunks:
            return None
        try:
            while pos < end and buffer[pos] == 42:  # b"*"
                begin = pos
                remaining, name_at, after = self._head(buffer, pos, end)
                if after == 0 or remaining < 0 or after - 2 - name_at > self._name_limit:
                    return None
                name = buffer[name_at : after - 2].upper()
                count += 1
                if name == b"EXEC" and remaining == 0 and self.table.get(name) == INSPECT:
                    found = buffer[self._pos : after]
                    self._pos = after
                    return found, count, scripts, windowed
                mode = self.table.get(name, self.default)
                if mode >= INSPECT_ABOVE:
                    mode = _above(mode, remaining)
                elif INSPECT_TEXT <= mode <= SCRIPT:
                    mode, wanted = self._by_first(mode, buffer, begin, after, remaining, end)
                if mode == SCRIPT:
                    scripts = True
                elif mode == WINDOWED:
                    windowed += 1
                elif mode != FORWARD:
                    return None
                pos, remaining, wanted = self._pass(buffer, begin, after, remaining, end)
                if remaining or wanted:
                    return None
        except ProtocolError:
            pass  # next() raises it again
        return None

    def _head(self, buffer: bytes, pos: int, end: int) -> tuple[int, int, int]:
        """(number of arguments behind the name, where the name begins, where the arguments begin)
        of the command at pos.

        (0, 0, 0): the head is not whole. (-1, 0, where the array ends): the array is empty. A name
        that is too long need not be whole.
        """
        arguments, at = _short_header(buffer, pos, end)
        if arguments < 0 or arguments > self._arguments_limit:
            arguments, at = self._any_array_header(buffer, pos, end)
            if at < 0:
                return 0, 0, 0
        if arguments <= 0:
            return -1, 0, at
        length, name_at = self._bulk_header(buffer, at, end)
        after = name_at + length + 2
        if name_at < 0 or (after > end and length <= self._name_limit):
            return 0, 0, 0
        if length <= self._name_limit and (buffer[after - 2] != 13 or buffer[after - 1] != 10):
            raise ProtocolError("a bulk string does not end where its length says")
        return arguments - 1, name_at, after

    def _any_array_header(self, buffer: bytes, pos: int, end: int) -> tuple[int, int]:
        """(number of elements, where they begin) of the array at pos; (0, -1) if its header is not
        whole.
        """
        eol = buffer.find(CRLF, pos, pos + bounds.HEADER_BYTES)
        if eol < 0:
            if end - pos >= bounds.HEADER_BYTES:
                raise ProtocolError("invalid multibulk length")
            return 0, -1
        arguments = _number(buffer[pos + 1 : eol])
        if arguments is None or arguments > self._limits.arguments:
            prefix = self._limits.prefix if arguments is not None and arguments < 2**31 else "invalid"
            raise ProtocolError(f"{prefix} multibulk length")
        return max(arguments, 0), eol + 2

    def _pass(self, buffer: bytes, begin: int, pos: int, remaining: int, end: int) -> tuple[int, int, int]:
        """Passes over whole arguments from pos on. Returns (position, arguments left, bytes that
        the command has at least).

        The last one is 0 if it is not known yet, or if the command is whole. If it is more than
        WHOLE_COMMAND_BYTES, the position is behind the header of the argument that exceeds the
        limit. begin: where the command begins.
        """
        while remaining:
            length, data_at = self._bulk_header(buffer, pos, end)
            if data_at < 0:
                return pos, remaining, 0
            after = data_at + length + 2
            if after - begin > self._whole_limit:
                return data_at, remaining - 1, after - begin
            if after > end:
                return pos, remaining, after - begin
            if buffer[after - 2] != 13 or buffer[after - 1] != 10:
                raise ProtocolError("a bulk string does not end where its length says")
            remaining -= 1
            pos = after
        return pos, 0, 0

    def _by_first(self, mode: int, buffer: bytes, begin: int, after: int, remaining: int, end: int) -> tuple[int, int]:
        """Decides by the first argument about a command that begins at begin. Returns (mode, SCRIPT
        or -1, bytes of the command that are needed). -1: that argument is not whole yet.

        mode: INSPECT_TEXT, INSPECT_KNOWN or SCRIPT; remaining: how many arguments begin at after.
        If the first one is too large to be inspected, the command is not inspected.
        """
        if remaining == 0 or mode == SCRIPT or (mode == INSPECT_KNOWN and not self.known):
            return SCRIPT, 0
        length, data_at = self._bulk_header(buffer, after, end)
        if data_at < 0:
            return -1, 0
        cost = length + self._name_limit + 2 * bounds.ARGUMENT_COST_BYTES
        if cost > bounds.INSPECTED_BYTES or (mode == INSPECT_KNOWN and length > self._name_limit):
            return SCRIPT, 0
        stop = data_at + length
        if stop + 2 > end:
            return -1, stop + 2 - begin
        if buffer[stop] != 13 or buffer[stop + 1] != 10:
            raise ProtocolError("a bulk string does not end where its length says")
        return (mode if self._is_inspected(mode, buffer[data_at:stop]) else SCRIPT), 0

    def _is_inspected(self, mode: int, first: bytes) -> bool:
        """Whether a command with this first argument is inspected. mode: see _by_first()."""
        if mode == INSPECT_KNOWN:
            return first in self.known or first.lower() in self.known
        return self.inspects is None or self.inspects(first)

    def _begin(self, name: bytes, mode: int, remaining: int, after: int) -> Found | None:
        """Starts a command that is not plain. remaining: how many arguments begin at after."""
        self._pos = after
        self._mode = INSPECT if mode == INSPECT_FIRST and remaining != 2 else mode
        self._arguments_left = remaining
        self._bulk_left = 0
        if mode == REFUSE:
            return REFUSED, name, 1
        self._taken = [name]
        self._inspected_size = len(name)
        self._inspected_words = 1
        if remaining == 0:
            return self._finish_inspecting()
        return self._continue()

    def skip(self) -> None:
        """Skips the rest of the current command instead of passing it on."""
        self._mode = REFUSE

    def _bulk_header(self, buffer: bytes, pos: int, end: int) -> tuple[int, int]:
        """(length, where its bytes begin) of the bulk string at pos; (0, -1) if its header is not
        whole.
        """
        length, data_at = _short_header(buffer, pos, end)
        if length >= 0 and length <= self._bulk_limit and buffer[pos] == 36:  # b"$"
            return length, data_at
        return self._any_bulk_header(buffer, pos, end)

    def _any_bulk_header(self, buffer: bytes, pos: int, end: int) -> tuple[int, int]:
        if pos < end and buffer[pos] != 36:
            byte = buffer[pos : pos + 1]
            shown = byte.decode("ascii") if byte.isalnum() or byte in b"*+-:$" else "?"
            raise ProtocolError(f"expected '$', got '{shown}'")
        eol = buffer.find(CRLF, pos, pos + bounds.HEADER_BYTES)
        if eol < 0:
            if end - pos >= bounds.HEADER_BYTES:
                raise ProtocolError("invalid bulk length")
            return 0, -1
        length = _number(buffer[pos + 1 : eol])
        if length is None or length < 0 or length > AUTHENTICATED.bulk:
            raise ProtocolError("invalid bulk length")
        if length > self._limits.bulk:
            raise ProtocolError(f"{self._limits.prefix} bulk length")
        return length, eol + 2

    def _continue(self) -> Found | None:
        """Goes on with the current command, as far as its bytes are here."""
        buffer = self._buffer
        start = pos = self._pos
        end = len(buffer)
        mode = self._mode
        while True:
            if self._bulk_left > 2:
                step = min(self._bulk_left - 2, end - pos)
                pos += step
                self._bulk_left -= step
            if self._bulk_left:
                if self._bulk_left > 2 or end - pos < 2:
                    break
                if buffer[pos] != 13 or buffer[pos + 1] != 10:
                    raise ProtocolError("a bulk string does not end where its length says")
                pos += 2
                self._bulk_left = 0
            if not self._arguments_left:
                break
            length, data_at = self._bulk_header(buffer, pos, end)
            if data_at < 0:
                break
            if mode >= INSPECT:
                # Each argument costs more than its bytes. Without that, empty arguments would be
                # kept without limit.
                self._inspected_size += length + bounds.ARGUMENT_COST_BYTES
                too_much = self._inspected_size > bounds.INSPECTED_BYTES
                if mode >= INSPECT_FIRST and len(self._taken) > 1 and (too_much or length > self._whole_limit):
                    # From this argument on, the command is streamed.
                    self._pos = pos
                    return self._finish_inspecting()
                if too_much:
                    return self._give_up_inspecting(data_at, length)
                after = data_at + length + 2
                if after > end:
                    self._inspected_size -= length + bounds.ARGUMENT_COST_BYTES
                    self._wanted = after - pos
                    break
                if buffer[after - 2] != 13 or buffer[after - 1] != 10:
                    raise ProtocolError("a bulk string does not end where its length says")
                self._taken.append(buffer[data_at : after - 2])
                self._inspected_words += 1
                pos = after
            else:
                pos = data_at
                self._bulk_left = length + 2
            self._arguments_left -= 1
        self._pos = pos
        if mode >= INSPECT:
            if pos == end:  # the command may wait for long
                self._buffer = b""
                self._pos = 0
            return None if self._arguments_left else self._finish_inspecting()
        if mode == REFUSE or pos == start:
            return None
        if start == 0 and pos == end:
            return STREAM, buffer, 0
        return STREAM, buffer[start:pos], 0

    def _finish_inspecting(self) -> Found:
        taken, self._taken = self._taken, []
        mode, self._mode = self._mode, FORWARD
        if mode >= INSPECT_FIRST and self._arguments_left:
            return HEADED, taken, 1
        return COMMAND, taken, 1

    def _give_up_inspecting(self, data_at: int, length: int) -> Found:
        name = self._taken[0]
        self._taken = []
        self._mode = REFUSE
        self._arguments_left -= 1
        self._bulk_left = length + 2
        self._pos = data_at
        return OVERSIZE, name, 1

    def _pass_empty(self) -> bool:
        """Counts an empty line or an empty array. Returns whether next() has passed over many."""
        self.apart += 1
        self._empty += 1
        return self._empty >= bounds.EMPTY_LINES

    def _inline(self) -> Found | None:
        """The inline command at _pos; None if its line is not whole, or is empty. _pos moves behind
        an empty line.
        """
        buffer = self._buffer
        newline = buffer.find(b"\n", self._pos, self._pos + bounds.INLINE_BYTES)
        if newline < 0:
            if len(buffer) - self._pos >= bounds.INLINE_BYTES:
                raise ProtocolError("too big inline request")
            return None
        line = buffer[self._pos : newline]
        if b"\0" in line:
            # Redis searches for the newline with strchr(), which stops at the NUL byte.
            raise ProtocolError("a NUL byte in an inline request")
        arguments = split_inline(line.removesuffix(b"\r"))
        name = arguments[0] if arguments else b""
        mode = self.table.get(name.upper(), self.default)
        if mode >= INSPECT_ABOVE:
            mode = _above(mode, len(arguments) - 1)
        if mode == WINDOWED and arguments and self.window.free <= 0:
            return NO_PLACE, b"", 0
        self._pos = newline + 1
        if not arguments:
            return None
        self._inspected_size = len(line) + len(arguments) * bounds.ARGUMENT_COST_BYTES
        self._inspected_words = len(arguments)
        self.apart += len(line) // bounds.WORK_WORDS
        if mode == WINDOWED:
            self.apart += len(arguments)
            return WINDOW, encode(arguments), 1
        if INSPECT_TEXT <= mode <= SCRIPT and (
            mode == SCRIPT or len(arguments) == 1 or not self._is_inspected(mode, arguments[1])
        ):
            self.apart += len(arguments)
            return SCRIPTS, encode(arguments), 1
        if mode >= INSPECT:
            return COMMAND, arguments, 1
        self.apart += len(arguments)
        if mode == REFUSE or len(name) > bounds.COMMAND_NAME_BYTES:
            return REFUSED, name[: bounds.COMMAND_NAME_BYTES], 1
        return RUN, encode(arguments), 1


_LINE_TYPES = frozenset(b"+-:_#,(")
_BULK_TYPES = frozenset(b"$=!")
# * ~ > % |: how many elements each entry has; the header counts entries
_AGGREGATES = {42: 1, 126: 1, 62: 1, 37: 2, 124: 2}
_ATTRIBUTE = 124
PUSH = 62


def _length(digits: bytes) -> int:
    """The length in a reply's header; -1 for nil."""
    length = _number(digits)
    if length is None or length < -1:
        raise ProtocolError("a reply's length is not a number")
    return length


#: The first words of errors that a replica gives, and a master does not.
_OF_A_REPLICA = (b"-READONLY ", b"-MASTERDOWN ")


class ReplyMeasurer:
    """Finds where the replies in a byte stream end, while the bytes pass. Keeps no bytes of a reply
    but an incomplete header.

    The depth of a reply does not matter: one number counts the missing elements of all levels
    together. A script can nest 7,995 levels (Lua's stack, on Redis 6.2 to 8.2 and Valkey 8 and 9).

    Knows RESP2 and RESP3 by their type bytes. A RESP3 push is a protocol error, unless ``pushes``
    is true. Then a push at the top level counts as a reply, so the caller must know before
    `measure` which of the two comes. A push within a reply is no element of the reply: `measure`
    stops before the push, and the caller measures the push with another ReplyMeasurer.

    found_replica: called when an error passes that only a replica gives. It must not use the
    measurer.
    """

    def __init__(self, found_replica: Callable[[], None] | None = None) -> None:
        self.pushes = False
        self._found_replica = found_replica
        self._elements_limit = bounds.REPLY_ELEMENTS
        self._lacking = 0  # missing elements of the current reply, at all levels together
        self._bulk_left = 0  # missing bytes of the current bulk string, CR LF included
        self._header = b""  # a length header that is not whole yet; its bytes were passed over
        self._in_line = False  # inside a line whose content does not matter
        self._after_cr = False  # the last byte of that line so far was CR

    @property
    def between(self) -> bool:
        """Whether the bytes so far end where a reply ends."""
        return not (self._lacking or self._bulk_left or self._header or self._in_line)

    def measure(self, data: bytes, pos: int, want: int) -> tuple[int, int]:
        """Passes over at most want replies in data[pos:]. Returns (position behind them, number of
        replies that ended).

        pos: 0 to len(data). want: at least 1. If fewer ended, all of data was passed over, or a
        push within a reply begins at the returned position. Raises ProtocolError.
        """
        end = len(data)
        done = 0
        if self._bulk_left or self._header or self._in_line:
            if pos >= end:
                return pos, 0
            pos, ended = self._resume(data, pos, end)
            if ended:
                if self._lacking:
                    self._lacking -= 1
                if not self._lacking:
                    done = 1
                    if done == want:
                        return pos, done
        while pos < end:
            ended = False
            kind = data[pos]
            if kind == 36:  # b"$": usually all of it is here
                length, at = _short_header(data, pos, end)
                after = at + length + 2
                if length >= 0 and after <= end and data[after - 2] == 13 and data[after - 1] == 10:
                    pos = after
                    ended = True
            elif kind in _LINE_TYPES:
                # b"-"
                if kind == 45 and self._found_replica is not None and data.startswith(_OF_A_REPLICA, pos):
                    self._found_replica()
                eol = data.find(CRLF, pos)
                if eol < 0:
                    self._in_line = True
                    self._after_cr = data[end - 1] == 13
                    pos = end
                    break
                pos = eol + 2
                ended = True
            if not ended:
                begin = pos
                pos, ended = self._element(data, pos, end)
                if pos == begin:
                    break  # a push within a reply
            if ended:
                if self._lacking:
                    self._lacking -= 1
                    if self._lacking:
                        continue
                done += 1
                if done == want:
                    break
        return pos, done

    def _element(self, data: bytes, pos: int, end: int) -> tuple[int, bool]:
        """Passes over the element at pos, of a type that has a length. Returns (position, whether
        the element ended).

        If it did not end, it is an aggregate whose elements follow, or its rest has not come yet.
        A push within a reply is not passed over: the position stays the same.
        """
        kind = data[pos]
        if kind not in _BULK_TYPES and kind not in _AGGREGATES:
            raise ProtocolError("a reply of unknown type")
        if kind == PUSH:
            if not self.pushes:
                raise ProtocolError("a push that was not asked for")
            if self._lacking:
                return pos, False
        length, at = _short_header(data, pos, end)
        if length < 0:
            eol = data.find(CRLF, pos, pos + bounds.HEADER_BYTES + 2)
            if eol < 0:
                if end - pos >= bounds.HEADER_BYTES:
                    raise ProtocolError("a reply's length is not a number")
                self._header = data[pos:end]
                return end, False
            length, at = _length(data[pos + 1 : eol]), eol + 2
        return self._content(kind, length, data, at, end)

    def _content(self, kind: int, length: int, data: bytes, pos: int, end: int) -> tuple[int, bool]:
        """Passes over the bytes behind a header, and returns as _element() does. length: -1 for
        nil.
        """
        if length < 0:
            return pos, True
        if kind in _BULK_TYPES:
            self._bulk_left = length + 2
            pos = self._pass_bulk(data, pos, end)
            return pos, self._bulk_left == 0
        elements = length * _AGGREGATES[kind]
        if kind == _ATTRIBUTE:
            elements += 1  # the reply that the attribute describes belongs to it
        if elements == 0:
            return pos, True
        if self._lacking:
            elements -= 1  # the aggregate itself was one of the missing elements
        if elements > self._elements_limit - self._lacking:
            raise ProtocolError("a reply announces too many elements")
        self._lacking += elements
        return pos, False

    def _resume(self, data: bytes, pos: int, end: int) -> tuple[int, bool]:
        """Goes on with the current element, and returns as _element() does."""
        if self._bulk_left:
            pos = self._pass_bulk(data, pos, end)
            return pos, self._bulk_left == 0
        if self._in_line:
            pos = self._pass_line(data, pos, end)
            return pos, not self._in_line
        held = len(self._header)
        header = self._header + data[pos : pos + bounds.HEADER_BYTES]
        eol = header.find(CRLF)
        if eol < 0:
            if len(header) >= bounds.HEADER_BYTES:
                raise ProtocolError("a reply's length is not a number")
            self._header = header
            return end, False
        self._header = b""
        return self._content(header[0], _length(header[1:eol]), data, pos + eol + 2 - held, end)

    def _pass_bulk(self, data: bytes, pos: int, end: int) -> int:
        remaining = self._bulk_left
        here = end - pos
        if here < remaining - 2:
            self._bulk_left = remaining - here
            return end
        # CR LF, each checked when it comes.
        if remaining > 2:
            pos += remaining - 2
            remaining = 2
        while remaining and pos < end:
            if data[pos] != (13 if remaining == 2 else 10):
                raise ProtocolError("a bulk string does not end where its length says")
            pos += 1
            remaining -= 1
        self._bulk_left = remaining
        return pos

    def _pass_line(self, data: bytes, pos: int, end: int) -> int:
        if self._after_cr and data[pos] == 10:
            self._in_line = self._after_cr = False
            return pos + 1
        eol = data.find(CRLF, pos)
        if eol < 0:
            self._after_cr = data[end - 1] == 13
            return end
        self._in_line = self._after_cr = False
        return eol + 2
