"""What a tenant may do: which commands are passed on, which the session looks at, which are refused.

Owns decisions, not framing and not replies. `resp.RequestScanner` is given `TABLE` and sorts by it; the session
answers or rewrites what is TAKEn.
"""

from __future__ import annotations

from .resp import DROP, KEEP, TAKE

#: Server-wide, or across databases, or with replies that cannot be counted: no tenant's business.
REFUSED = frozenset(
    b"""ACL ASKING BGREWRITEAOF BGSAVE CLUSTER CONFIG DEBUG FAILOVER FCALL FCALL_RO FUNCTION LATENCY MIGRATE MODULE
    MONITOR MOVE PFDEBUG PFSELFTEST PSYNC READONLY READWRITE REPLCONF REPLICAOF RESTORE RESTORE-ASKING ROLE SAVE SHUTDOWN
    SLAVEOF SLOWLOG SWAPDB SYNC""".split()
)

#: The session has a method for each (see `session.Session`).
TAKEN = frozenset(
    b"""AUTH CLIENT COPY DISCARD EXEC FLUSHALL HELLO HOST: MULTI POST PSUBSCRIBE PUNSUBSCRIBE QUIT RESET SCRIPT SELECT
    SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE UNWATCH WATCH""".split()
)

#: Subcommands of SCRIPT that act on the whole server, or change how the connection speaks.
REFUSED_SCRIPT = frozenset((b"DEBUG", b"FLUSH", b"KILL"))


def _spellings(names: frozenset[bytes], kind: int) -> dict[bytes, int]:
    """Upper and lower case, the two that clients send, so that most look-ups need no second try."""
    return {spelling: kind for name in names for spelling in (name, name.lower())}


#: Command name -> KEEP, TAKE or DROP, once a session is logged in; DEFAULT for the others.
TABLE = _spellings(REFUSED, DROP) | _spellings(TAKEN, TAKE)
DEFAULT = KEEP

#: Before that everything is looked at: the limits of UNAUTHENTICATED keep it small.
UNAUTHENTICATED_TABLE: dict[bytes, int] = {}
UNAUTHENTICATED_DEFAULT = TAKE


def refusal(name: bytes) -> bytes:
    """The error that answers a refused command. name: as the client spelt it."""
    shown = name.decode("ascii", "replace").lower() if name.isascii() else ""
    shown = "".join(c for c in shown if c.isalnum() or c in "-_.|")[:64]
    return b"-NOPERM the command '%b' is not available here: it reaches beyond the own database\r\n" % shown.encode()
