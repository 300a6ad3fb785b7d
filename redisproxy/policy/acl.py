"""The second layer: the ACL user that a tenant's upstream connections log in as, so that Redis
itself holds the tenant's limits.

Owns the user's name, password and rules. Redis checks them for commands inside scripts as well.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from ..tenants.model import Tenant
from .policy import Policy

#: What the names of our users begin with. An operator's own users must not.
PREFIX = "redisproxy:"
# What `username` makes: a namespace is a DNS label of Kubernetes, an index has no leading zeros.
_USERNAME = re.compile(PREFIX + r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?):(0|[1-9][0-9]{0,8})", re.ASCII)
# A key pattern that no user keeps.
_FIRST = b"~redisproxy"


def username(tenant: Tenant) -> str:
    """The user of a tenant. With the index in it: a namespace that moves gets another user, with
    other rights.
    """
    return f"{PREFIX}{tenant.namespace}:{tenant.index}"


def owner(name: str) -> Tenant | None:
    """Whose user it is; None: it is none of ours. The reverse of `username`."""
    found = _USERNAME.fullmatch(name)
    return Tenant(found[1], int(found[2])) if found else None


def hashed(secret: bytes) -> bytes:
    """What Redis keeps of a password, and names it by: SHA-256 in hexadecimal digits."""
    return hashlib.sha256(secret).hexdigest().encode()


def password(master_password: bytes, name: str) -> bytes:
    """The password of one of our users: whoever has the master password can derive it, so replicas
    need not talk.
    """
    return hmac.new(master_password, b"redisproxy user " + name.encode(), hashlib.sha256).hexdigest().encode()


def rules(tenant: Tenant, policy: Policy, secret: bytes, databases: bool, new: bool) -> list[bytes]:
    """What follows ``ACL SETUSER name``.

    secret: its password; databases: whether the server knows ``db=N`` (Valkey 9.1 on); new: to make
    the user, which fails if there is one already; else to bring it up to date. A user that exists
    keeps its channels: among them are patterns that live sessions are subscribed to, of other
    processes and replicas of the proxy, too. To ask first whether it exists would not do: another
    one may make it, and add patterns, between question and command. It keeps its other passwords,
    too: during a rotation of the master password another replica may log in with one that this
    process does not know. `acl_users` removes them later. Adding a password ends ``nopass``.
    """
    words = [b"on", *([b"resetpass"] if new else []), b"#" + hashed(secret)]
    # Redis refuses to add a key pattern, and with it the whole command, where the user has all
    # keys: ours have.
    words += [_FIRST, b"resetkeys", b"~*", b"resetchannels"] if new else [b"resetkeys", b"~*"]
    words += [b"&" + tenant.channel_prefix + b"*", *(b"&" + own + b"*" for own in tenant.keyspace_channels)]
    if databases:
        words += [b"resetdbs", b"db=%d" % tenant.index]
    return [*words, b"-@all", *(b"+" + name.encode() for name in policy.forwarded)]


def pattern_rules(patterns: Iterable[bytes]) -> list[bytes]:
    """What lets a user PSUBSCRIBE: Redis compares patterns with the rules letter by letter, and
    matches nothing.
    """
    return [b"&" + pattern for pattern in patterns]
