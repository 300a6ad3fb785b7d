"""Replies that sessions make themselves, encoded once."""

from __future__ import annotations

from .. import bounds, messages
from ..resp.framing import encode

OK = b"+OK\r\n"
SYNTAX = messages.SYNTAX.reply()
NOAUTH = messages.NOAUTH.reply()
LONG_NAME = messages.LONG_NAME.reply(most=bounds.COMMAND_NAME_BYTES)
#: A command that every server answers with an error. Sent inside MULTI in place of a refused
#: command, so that EXEC fails.
SPOILER = encode([b"SELECT"])
NOAUTH_HELLO = messages.NOAUTH_HELLO.reply()
