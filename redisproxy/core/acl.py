"""The second wall: the ACL user that a tenant's lanes log in as, so that Redis itself holds the tenant's limits.

Owns the user's name, password and rules. Redis checks them for commands inside scripts as well.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from .policy import Policy
from .tenants import Tenant

#: What the names of our users begin with. An operator's own users must not.
PREFIX = "redisproxy:"
# A key pattern that no user keeps.
_FIRST = b"~redisproxy"


def username(tenant: Tenant) -> str:
    """The user of a tenant. With the index in it: a namespace that moves gets another user, with other rights."""
    return f"{PREFIX}{tenant.namespace}:{tenant.index}"


def password(master_password: bytes, name: str) -> bytes:
    """The password of one of our users: whoever has the master password can derive it, so replicas need not talk."""
    return hmac.new(master_password, b"redisproxy user " + name.encode(), hashlib.sha256).hexdigest().encode()


def rules(tenant: Tenant, policy: Policy, secret: bytes, databases: bool, new: bool) -> list[bytes]:
    """What follows ``ACL SETUSER name``.

    secret: its password; databases: whether the server knows ``db=N`` (Valkey 9.1 on); new: to make the user, which
    fails if there is one already; else to bring it up to date. A user that exists keeps its channels: among them are
    patterns that live sessions are subscribed to, of other processes and replicas of the proxy, too. To ask first whether
    it exists would not do: another one may make it, and add patterns, between question and command.
    """
    words = [b"on", b"resetpass", b"#" + hashlib.sha256(secret).hexdigest().encode()]
    # Redis refuses to add a key pattern, and with it the whole command, where the user has all keys: ours have.
    words += [_FIRST, b"resetkeys", b"~*", b"resetchannels"] if new else [b"resetkeys", b"~*"]
    words += [b"&" + tenant.channel_prefix + b"*", *(b"&" + own + b"*" for own in tenant.keyspace_channels)]
    if databases:
        words += [b"resetdbs", b"db=%d" % tenant.index]
    return [*words, b"-@all", *(b"+" + name.encode() for name in policy.forwarded)]


def pattern_rules(patterns: Iterable[bytes]) -> list[bytes]:
    """What lets a user PSUBSCRIBE: Redis compares patterns with the rules letter by letter, and matches nothing."""
    return [b"&" + pattern for pattern in patterns]
