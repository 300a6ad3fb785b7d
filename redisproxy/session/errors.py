"""Replies that sessions make themselves, encoded once."""

from __future__ import annotations

from .. import bounds, messages
from ..resp.framing import encode

OK = b"+OK\r\n"
SYNTAX = messages.SYNTAX.reply()
NOAUTH = messages.NOAUTH.reply()
LONG_NAME = messages.LONG_NAME.reply(most=bounds.COMMAND_NAME_BYTES)
#: What commands in flight are answered with when their multiplexed connection breaks.
LOST = messages.LOST.reply()
#: A command that every server answers with an error: inside MULTI it makes EXEC fail, as the
#: refusal should.
SPOILER = encode([b"SELECT"])
NOAUTH_HELLO = messages.NOAUTH_HELLO.reply()
BAD_NAME = messages.CLIENT_NAME.reply(most=bounds.CLIENT_NAME_BYTES)
