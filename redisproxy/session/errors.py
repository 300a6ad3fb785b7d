"""Replies of the proxy that several modules use, or that belong to no other module.

Imports nothing but the limits and the encoder, so every module can import it.
"""

from __future__ import annotations

from .. import bounds
from ..resp.framing import encode

OK = b"+OK\r\n"
SYNTAX = b"-ERR syntax error\r\n"
NOAUTH = b"-NOAUTH Authentication required.\r\n"
LONG_NAME = b"-ERR unknown command: no command has a name of more than %d bytes\r\n" % bounds.COMMAND_NAME_BYTES
#: The answer to each command in flight when its multiplexed connection breaks.
LOST = b"-ERR the connection to Redis was lost: it may have run this command, or not\r\n"
#: The usual error where there is no connection to Redis.
UNREACHABLE = "ERR Redis cannot be reached from the proxy right now, try again"
UNANSWERED = "ERR Redis did not answer the proxy, try again"
#: The master's user has no right to run this command, or the server has no such command: mostly a
#: hosted Redis without CONFIG.
NOT_ALLOWED = "NOPERM Redis does not let the proxy ask this"
REPLACED = "ERR Redis was replaced while this command waited, try again"

#: A command that every server answers with an error. Sent inside MULTI in place of a refused
#: command, so that EXEC fails.
SPOILER = encode([b"SELECT"])
#: Close reason: the credential was deleted, has expired, or opens another database by now.
REVOKED = "revoked"

NOAUTH_HELLO = (
    b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
    b"<pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
)
BAD_NAME = (
    b"-ERR Client names cannot contain spaces, newlines or special characters, or more than %d bytes.\r\n"
    % bounds.CLIENT_NAME_BYTES
)
