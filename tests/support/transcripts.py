"""Transcripts: a conversation as text, with a line for everything that arrives or must come out.

    client >> GET a; GET b        these commands arrive from the client, in one piece
    client << +1; -ERR no...      these replies must come out, and nothing else;
                                  `...`: the beginning is enough
    multiplexed << GET a; GET b        these commands must be sent over the multiplexed connection
    multiplexed >> +1                  Redis replies there
    scripts << EVAL … 0            the same for the multiplexed connection for scripts
    own    << BLPOP q 0           the same for the session's dedicated connection
    own    >> *-1
    -- revoke                     another event: see `Transcript._event`
    -- is waiting                 a state of the session: see `Transcript._state`

Words in angle brackets stand for bytes that the test gives. The transcript must show everything
that comes out: before the next line of input or the next event, nothing may be left over.
"""

from __future__ import annotations

from redisproxy.resp.framing import encode
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.model import Snapshot

from .conversations import Conversation, RecordingScriptPool, RecordingUpstream, SharedConversation


class Transcript:
    """Plays transcripts on a conversation. texts: the bytes for words in angle brackets."""

    def __init__(self, conversation: Conversation, **texts: bytes) -> None:
        self.conversation = conversation
        self._texts = texts

    def play(self, text: str) -> Transcript:
        for number, line in enumerate(text.strip().splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            try:
                self._line(line)
            except AssertionError as error:
                raise AssertionError(f"line {number}, {line!r}: {error}") from None
        self._nothing_left_over()
        return self

    def _line(self, line: str) -> None:
        if line.startswith("-- is "):
            return self._state(line.removeprefix("-- is "))
        if line.startswith("-- "):
            self._nothing_left_over()
            return self._event(*line.removeprefix("-- ").split(" ", 1))
        who, way, what = (*line.split(None, 2), "")[:3]
        if way == "<<":
            return self._comes_out(who, what)
        assert way == ">>", "neither >> nor << nor --"
        self._nothing_left_over()
        data = self._commands(what) if who == "client" else self._replies(what)
        if who == "client":
            self.conversation.client(data)
        else:
            self._upstream(who).pending.received(data)
        return None

    def _comes_out(self, who: str, what: str) -> None:
        if who != "client":
            upstream = self._upstream(who)
            sent, upstream.sent = upstream.sent, b""
            expected = self._commands(what)
            assert sent == expected, f"sent was {sent!r}, not {expected!r}"
            return
        heard = self.conversation.hears()
        for item in what.split("; ") if what else ():
            if item.endswith("..."):
                start = self._reply(item.removesuffix("..."), end=b"")
                line, _, rest = heard.partition(b"\r\n")
                assert line.startswith(start), f"heard was {heard!r}, not {start!r}…"
                heard = rest
            else:
                expected = self._reply(item)
                assert heard.startswith(expected), f"heard was {heard!r}, not {expected!r}"
                heard = heard[len(expected) :]
        assert not heard, f"heard was also {heard!r}"

    def _nothing_left_over(self) -> None:
        assert not self.conversation.told, f"the client heard {self.conversation.told!r}"
        for name, upstream in self._upstreams():
            assert not upstream.sent, f"{name} was sent {upstream.sent!r}"

    def _upstreams(self) -> list[tuple[str, RecordingUpstream]]:
        talk = self.conversation
        found = [("own", upstream) for upstream in talk.upstreams]
        if isinstance(talk, SharedConversation):
            found += [("multiplexed", pool.upstream) for pool in talk.pools if isinstance(pool.upstream, RecordingUpstream)]
            scripts = [pool.scripts.upstream for pool in talk.pools]
            found += [("scripts", upstream) for upstream in scripts if isinstance(upstream, RecordingUpstream)]
        return found

    def _upstream(self, name: str) -> RecordingUpstream:
        if name == "own":
            return self.conversation.upstream
        assert isinstance(self.conversation, SharedConversation), f"who is {name!r}?"
        if name == "scripts":
            return self.conversation.tenant_pool.scripts.upstream
        assert name == "multiplexed", f"who is {name!r}?"
        assert self.conversation.tenant_pool.upstream is not None
        return self.conversation.tenant_pool.upstream

    # Bytes.

    def _commands(self, text: str) -> bytes:
        return b"".join(self._command(each) for each in text.split("; ") if each)

    def _command(self, text: str) -> bytes:
        if (data := self._given(text)) is not None:
            return data
        return encode([b"" if word == '""' else word.encode() for word in text.split(" ")])

    def _replies(self, text: str) -> bytes:
        return b"".join(self._reply(each) for each in text.split("; ") if each)

    def _reply(self, text: str, end: bytes = b"\r\n") -> bytes:
        """Returns a reply as bytes. A bar separates lines; a tilde at the end means without the
        line end.
        """
        if (data := self._given(text)) is not None:
            return data
        if text.endswith("~"):
            text, end = text[:-1], b""
        return text.replace("|", "\r\n").encode() + end

    def _given(self, text: str) -> bytes | None:
        return self._texts[text[1:-1]] if text[:1] == "<" and text[-1:] == ">" else None

    # Events.

    def _event(self, what: str, how: str = "") -> None:
        talk, session = self.conversation, self.conversation.session
        if what == "opened":  # the dedicated connection that the session asked for
            talk.open_upstream()
        elif what == "refused":  # it cannot be opened; how: the error
            talk.refuse_upstream(how)
        elif what == "broken":  # the multiplexed connection
            talk.tenant_pool.breaks()
        elif what == "lost":  # the dedicated connection
            talk.upstream.pending.abandon()
            session.upstream_lost()
        elif what == "replaced":  # another multiplexed connection is open, or the first one after a loss
            talk.tenant_pool.upstream = RecordingUpstream(talk)
            talk.tenant_pool.ready()
        elif what == "unavailable":
            talk.tenant_pool.goes_away(how)
        elif what == "busy":  # whether the multiplexed connection takes no more commands for now
            talk.tenant_pool.upstream.busy = True
        elif what == "free":
            talk.tenant_pool.upstream.busy = False
            talk.tenant_pool.ready()
        elif what == "scripts":  # something about the connection for scripts
            self._scripts_event(how, talk.tenant_pool.scripts)
        elif what == "slow":  # the client does not read its replies
            session.client_slow(True)
        elif what == "reads":
            session.client_slow(False)
        elif what == "left":
            session.ending.at_once()
        elif what == "eof":
            session.ending.half_closed()
        elif what == "gone":  # the end of file came a while ago
            talk.has_left = True
        elif what == "throttle":  # whether the tenant is over its rate
            session.throttle(True)
        elif what == "rate":
            session.throttle(False)
        elif what == "revoke":
            talk.recheck(Snapshot(None, []))
        elif what == "drain":
            session.ending.drain()
        elif what == "hurry":  # the drain's time is nearly over
            session.ending.hurry()
        elif what == "unblock":  # Redis is asked to unblock a blocked command
            session.replies.expect_unblocking()
        elif what == "answer":  # to a control query
            talk.finish([how.encode()])
        elif what == "policy":  # another policy; how: the name of a function that makes it
            talk.use_policy(self._policies[how])
        else:
            raise AssertionError("what is that?")

    def _scripts_event(self, how: str, scripts: RecordingScriptPool) -> None:
        if how in ("slow", "quick"):  # whether a script takes long there
            scripts.slow = how == "slow"
        elif how == "broken":
            scripts.breaks()
        elif how == "replaced":  # another one is open, or the first one
            scripts.upstream = RecordingUpstream(self.conversation)
            scripts.ready()
        elif how == "busy":
            scripts.upstream.busy = True
        elif how == "free":
            scripts.upstream.busy = False
            scripts.ready()
        elif how == "opening":  # there is none yet
            scripts.upstream = Unavailable(busy=True)
        else:  # there is none to be had; how: the error
            scripts.upstream = Unavailable(how)
            scripts.ready()

    _policies: dict[str, object] = {}

    def policies(self, **policies: object) -> Transcript:
        """Sets the policies that `-- policy` names."""
        self._policies = policies
        return self

    def _state(self, what: str) -> None:
        talk = self.conversation
        if what.startswith("closed"):
            found: object = talk.closed
            expected: object = what.removeprefix("closed").strip()
        elif what == "open":
            found, expected = (talk.closed, talk.session.ended), (None, False)
        elif what in ("waiting", "ready"):
            found, expected = talk.waits, what == "waiting"
        elif what.startswith("asking"):  # how many dedicated connections were asked for
            found, expected = len(talk.asked) - 1, int(what.split()[1])
        elif what in ("own returned clean", "own returned dirty"):
            found, expected = talk.upstream.released, what.endswith("clean")
        elif what == "own kept":
            found, expected = talk.upstream.released, None
        elif what == "own given up":
            found, expected = talk.upstream.given_up, True
        elif what == "own paused":
            found, expected = talk.upstream.paused, True
        elif what == "querying":
            found, expected = bool(talk.questions), True
        elif what.startswith("commands"):
            found, expected = talk.session.commands, int(what.split()[1])
        else:
            raise AssertionError("what is that?")
        assert found == expected, f"it is {found!r}"
