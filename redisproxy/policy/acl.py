"""The second isolation layer: the ACL user of each tenant. A tenant's upstream connections log in
as this user, so Redis itself enforces what the tenant may do.

Owns the user's name, password and rules. Redis also checks the rules for commands inside scripts.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from ..resp.value import Answer, strings_of
from ..tenants.model import Tenant
from .policy import Policy

#: The names of the proxy's users begin with this. The names of an operator's users must not.
PREFIX = "redisproxy:"
# What `username` returns: a namespace is a DNS label of Kubernetes, an index has no leading zeros.
_USERNAME = re.compile(PREFIX + r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?):(0|[1-9][0-9]{0,8})", re.ASCII)
# A key pattern that no user keeps: see `rules`.
_FIRST = b"~redisproxy"
# Subcommands of CLIENT for client-side caching.
_TRACKING = frozenset((b"CACHING", b"GETREDIR", b"TRACKING", b"TRACKINGINFO"))


def username(tenant: Tenant) -> str:
    """The name of a tenant's user. The database index is a part of it, so a namespace that moves to
    another database gets another user, with other rights.
    """
    return f"{PREFIX}{tenant.namespace}:{tenant.index}"


def owner(name: str) -> Tenant | None:
    """The tenant of a user, or None if the proxy did not make the user. The reverse of
    `username`.
    """
    found = _USERNAME.fullmatch(name)
    return Tenant(found[1], int(found[2])) if found else None


def hashed(secret: bytes) -> bytes:
    """The form in which Redis stores and shows a password: SHA-256 in hexadecimal digits."""
    return hashlib.sha256(secret).hexdigest().encode()


def password(master_password: bytes, name: str) -> bytes:
    """The password of the proxy's user of that name, derived from the master password. So replicas
    of the proxy agree on it without talking to each other.
    """
    return hmac.new(master_password, b"redisproxy user " + name.encode(), hashlib.sha256).hexdigest().encode()


def rules(tenant: Tenant, policy: Policy, secret: bytes, databases: bool, new: bool, tracking: bool = False) -> list[bytes]:
    """The rules of a tenant's user, as arguments that follow ``ACL SETUSER name``.

    secret: the user's password; databases: whether the server knows ``db=N`` (from Valkey 9.1 on);
    new: True for rules that create the user, and fail if it exists; False for rules that update it;
    tracking: whether the tenant may use client-side caching.

    An update keeps the user's channels. Among them are patterns that live sessions are subscribed
    to, also sessions of other processes and replicas of the proxy. It is not enough to ask first
    whether the user exists: another process may create it and add patterns between the question and
    the command.

    An update also keeps the user's other passwords. During a rotation of the master password
    another replica may log in with a password that this process does not know. `acl_users` removes
    them later. Adding a password ends ``nopass``.
    """
    words = [b"on", *([b"resetpass"] if new else []), b"#" + hashed(secret)]
    # Redis refuses to add a key pattern to a user that has all keys, and then refuses the whole
    # command. The proxy's users have all keys, so this fails if the user exists.
    words += [_FIRST, b"resetkeys", b"~*", b"resetchannels"] if new else [b"resetkeys", b"~*"]
    words += channel_rules(tenant)
    if databases:
        words += [b"resetdbs", b"db=%d" % tenant.index]
    words += [b"-@all", *(b"+" + name.encode() for name in policy.forwarded)]
    words += tracking_rules(policy) if tracking else []
    # Never without the index. `-select` takes away what a rule before it may have given.
    return [*words, b"-select", b"+select|%d" % tenant.index] if policy.selects else words


def tracking_rules(policy: Policy) -> list[bytes]:
    """The rules that let a user use client-side caching. The session decides on their arguments."""
    known = policy.known.get(b"CLIENT", frozenset())
    return [b"+client|" + name.lower() for name in sorted(_TRACKING & known)]


def channel_rules(tenant: Tenant) -> list[bytes]:
    """The rules about channels that a tenant's user always has."""
    return [b"&" + tenant.channel_prefix + b"*", *(b"&" + own + b"*" for own in tenant.keyspace_channels)]


def pattern_rules(patterns: Iterable[bytes]) -> list[bytes]:
    """The rules that let a user PSUBSCRIBE to these patterns. Redis compares a pattern with the
    rules letter by letter, without matching.
    """
    return [b"&" + pattern for pattern in patterns]


def only_patterns(tenant: Tenant, stay: Iterable[bytes], secret: bytes) -> list[bytes]:
    """The rules that leave a tenant's user no other patterns than these.

    Redis disconnects only subscribers of what goes. secret: the hash of the user's password. Redis
    refuses all of the rules if the user does not have it any more, so they create no user.
    """
    return [b"!" + secret, b"#" + secret, b"resetchannels", *channel_rules(tenant), *pattern_rules(stay)]


def granted(tenant: Tenant, user: Answer) -> tuple[set[bytes], list[bytes]]:
    """Returns the patterns that a tenant's user may PSUBSCRIBE to besides those that it always may,
    and the hashes of its passwords.

    user: the answer to ACL GETUSER. Both are empty if there is no such user. Redis 6.2 lists
    channels as they are, later servers as rules in one string. Raises ValueError for an answer of
    another form.
    """
    if not isinstance(user, list):
        return set(), []
    fields = {name: value for name, value in zip(user[::2], user[1::2], strict=False) if isinstance(name, bytes)}
    channels, passwords = fields.get(b"channels", []), strings_of(fields.get(b"passwords", []))
    listed = channels.split() if isinstance(channels, bytes) else [b"&" + channel for channel in strings_of(channels)]
    rules = set(listed)
    return {rule[1:] for rule in rules - set(channel_rules(tenant))}, passwords
