"""One line of CLIENT LIST and CLIENT INFO: a session as its tenant's own tools see it.

Owns the line, with all of Redis's fields, because client libraries ask for them by name. A field
that does not concern the tenant, such as the buffers of a connection that others use, is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session


def describe(session: Session, command: bytes = b"") -> bytes:
    """Returns the line, with its line end. The client must be logged in.

    command: the command that the client runs; empty: it is not known, but for a subscriber.
    """
    connection, tenant, subscriptions = session.connection, session.tenant, session.subscriptions
    library = session.client_library
    channels, patterns, sharded = (0, 0, 0) if subscriptions is None else subscriptions.counts()
    flags = b"P" * is_subscriber(session) + b"x" * session.multi + b"b" * session.blocked
    flags += b"t" * bool(session.tracking) + b"c" * session.ended
    return (
        b"id=%d addr=%b laddr=%b fd=0 name=%b age=%d idle=0 flags=%b db=%d sub=%d psub=%d ssub=%d multi=%d watch=%d "
        b"qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=%b "
        b"user=%b redir=%d resp=%d lib-name=%b lib-ver=%b\n"
    ) % (
        connection.id,
        endpoint(connection.peer),
        endpoint(connection.local),
        session.name,
        connection.age,
        flags or b"N",
        tenant.index,
        channels,
        patterns,
        sharded,
        0 if session.multi else -1,
        session.watching,
        command or _command(channels, patterns, sharded),
        tenant.namespace.encode(),
        0 if session.tracking else -1,
        session.protocol,
        library[b"LIB-NAME"],
        library[b"LIB-VER"],
    )


def _command(channels: int, patterns: int, sharded: int) -> bytes:
    """Returns a subscriber's command: tools find subscribers by it. ``NULL``: it is not known."""
    return b"subscribe" if channels else b"psubscribe" if patterns else b"ssubscribe" if sharded else b"NULL"


def endpoint(address: str) -> bytes:
    """Returns an address as a field's value, which has no spaces: a Unix socket has no port."""
    return b"?:0" if " " in address else address.encode()


def is_subscriber(session: Session) -> bool:
    """Returns whether the session is subscribed to anything: Redis's client type ``pubsub``."""
    return bool(session.subscriptions)
