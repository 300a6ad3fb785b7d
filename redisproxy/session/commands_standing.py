"""ROLE, MODULE LIST, ACL WHOAMI and CLUSTER: what tools ask first, to learn what they talk to.

Owns the replies. They tell of the server as the tenant sees it: one master without replicas and
without a cluster, and who the tenant is. Only MODULE LIST asks Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import messages
from ..resp.value import Answer
from .handler import Need, bulk, forbid_subcommand, query, wrong_number

if TYPE_CHECKING:
    from .session import Session

#: Redis's own answer has its replicas' addresses, and how much all tenants have written.
_ROLE = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"


def role(session: Session, words: list[bytes]) -> None:
    """ROLE: a master without replicas."""
    session.answer(_ROLE)


def needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`. Of ACL, CLUSTER and MODULE: Redis 7 checks the subcommand first."""
    unknown = words[1].upper() not in session.policy.known.get(words[0].upper(), ())
    malformed = len(words) != 2 and b"|".join(words[:2]).upper() in (b"ACL|WHOAMI", b"MODULE|LIST")
    return 0 if (unknown or malformed) and not session.policy.before_7 else Need.UNSUBSCRIBED


def acl(session: Session, words: list[bytes]) -> None:
    """ACL WHOAMI: the namespace, as in CLIENT INFO. All other subcommands are refused."""
    if _refused(session, words, b"ACL|WHOAMI"):
        return None
    return session.answer(bulk(session.tenant.namespace.encode()))


def module(session: Session, words: list[bytes]) -> None:
    """MODULE LIST: names and versions, without the modules' files and arguments.

    All other subcommands are refused.
    """
    if _refused(session, words, b"MODULE|LIST"):
        return None

    def then(answers: list[Answer]) -> None:
        session.answer(modules_reply(answers[0], session.protocol, session.policy.before_7))

    return query(session, [[b"MODULE", b"LIST"]], then)


def modules_reply(answer: Answer, protocol: int, before_7: bool) -> bytes:
    """Returns the reply to MODULE LIST.

    answer: Redis's, in RESP2; before_7: whether the reply has only names and versions. From Redis 7
    on it also has a file and arguments, which are empty here.
    """
    replies = []
    for one in answer if isinstance(answer, list) else ():
        fields = dict(zip(one[::2], one[1::2], strict=False)) if isinstance(one, list) else {}
        name, version = fields.get(b"name"), fields.get(b"ver")
        if isinstance(name, bytes) and isinstance(version, int):
            pairs = [bulk(b"name") + bulk(name), bulk(b"ver") + b":%d\r\n" % version]
            if not before_7:
                pairs += [bulk(b"path") + bulk(b""), bulk(b"args") + b"*0\r\n"]
            head = b"%%%d\r\n" % len(pairs) if protocol == 3 else b"*%d\r\n" % (2 * len(pairs))
            replies.append(head + b"".join(pairs))
    return b"*%d\r\n" % len(replies) + b"".join(replies)


def cluster(session: Session, words: list[bytes]) -> None:
    """CLUSTER: refused in the words by which clients know that a server is no cluster."""
    if session.policy.before_7 or words[1].upper() in session.policy.known.get(b"CLUSTER", ()):
        session.forbid(b"cluster|" + words[1], messages.NO_CLUSTER.reply())
    else:
        forbid_subcommand(session, words)


def _refused(session: Session, words: list[bytes], name: bytes) -> bool:
    """Refuses all but this subcommand, which has no arguments. Returns whether it did."""
    if not _answers(session, words, name):
        forbid_subcommand(session, words)
    elif len(words) != 2:
        wrong_number(session, words)
    elif session.multi:
        session.refuse(messages.MULTI_INSIDE.reply(command=name.partition(b"|")[0]))
    else:
        return False
    return True


def _answers(session: Session, words: list[bytes], name: bytes) -> bool:
    """Returns whether the command is this subcommand, and the server has it, and nobody refused
    it.
    """
    return b"|".join(words[:2]).upper() == name and name in session.policy.answered
