"""Every limit of the data path: bytes, counts and seconds, in one table. Imports nothing of the
project.

Each limit has its reason above it. A name ends in its unit, _BYTES or _SECONDS; any other limit is
a count of what it names. Code reads a limit as `bounds.NAME` when it needs it, so a test that
patches this module changes the limit everywhere. Only error texts, defaults of parameters and
`framing.Limits` are made when their module is imported.

`Annotated[int, 512]` gives the extreme value that the simulation (`tests/sim`) may draw instead. An
extreme makes a rare branch common, and clients must notice nothing but the delay. A limit has no
extreme if reaching it refuses or closes something, if it belongs to the protocol, or if the
simulation does not run what it bounds.

Not here: limits of reading the configuration (API pages, watches, files), of logs and of the status
endpoint, and delays before another attempt (`ops.retry.Backoff`). The module that has such a limit
names it.

`docs/decisions/bounds.md` says what happens at each limit; `tests/test_bounds.py` compares that
page with this table.
"""

from __future__ import annotations

from typing import Annotated

# Sockets: net/protocol.py, listen/endpoints.py, listen/proxy_header.py.

#: One read of a socket, and the unsent bytes above which a transport asks its producer to pause. As
#: Twisted has it.
READ_BYTES = 64 * 1024
#: One read while large values pass. Not always, because each read allocates a buffer of this size.
WIDE_READ_BYTES: Annotated[int, 64 * 1024] = 256 * 1024
#: A read of fewer bytes ends the wide reads. Also one read of small messages, and the smallest read
#: of a tenant with rates.
SMALL_READ_BYTES = 4 * 1024
#: Connections that the kernel may hold until the proxy accepts them. Fewer if net.core.somaxconn is
#: lower.
ACCEPT_QUEUE = 4096
#: A PROXY header of version 1, with CR LF. The specification has no longer one.
PROXY_LINE_BYTES = 107
#: A PROXY header of version 2. The specification allows 64 KiB; nginx takes as much as this.
PROXY_HEADER_BYTES = 4096

# RESP framing: resp/framing.py. Redis's own limits, where a source is named.

#: A length header with type byte and CR LF. The longest number that Redis reads has 20 characters.
HEADER_BYTES = 32
#: A command's name. No server has a longer one.
COMMAND_NAME_BYTES = 128
#: A plain command up to this size is forwarded only when it is whole. A larger one is streamed.
WHOLE_COMMAND_BYTES: Annotated[int, 128] = 64 * 1024
#: All arguments of an inspected command, which is kept until it is whole. A larger one is refused.
INSPECTED_BYTES = 1024 * 1024
#: What each argument of an inspected command counts besides its own bytes, because it is a Python
#: object.
ARGUMENT_COST_BYTES = 32
#: The line of an inline command (PROTO_INLINE_MAX_SIZE in server.h).
INLINE_BYTES = 64 * 1024
#: Arguments of a command (networking.c, processMultibulkBuffer).
ARGUMENTS = 2**31 - 1
#: One argument of a command (proto-max-bulk-len).
ARGUMENT_BYTES = 512 * 1024 * 1024
#: Arguments of a command before log-in (networking.c, processMultibulkBuffer).
UNAUTHENTICATED_ARGUMENTS = 10
#: One argument of a command before log-in (networking.c, processMultibulkBuffer).
UNAUTHENTICATED_ARGUMENT_BYTES = 16384
#: Elements that a reply may still lack. Redis has memory for far fewer. A few headers more would
#: exceed a C long long.
REPLY_ELEMENTS = 2**62

# Clients before log-in: clients/, session/session.py, tenants/login_backoff.py.

#: Read from a client that waits for a slot: enough for a log-in and a few commands.
WAITING_CLIENT_BYTES: Annotated[int, 64] = 16 * 1024
#: Sent by a client in all before it has logged in. A log-in needs some hundred.
UNAUTHENTICATED_BYTES = 1024 * 1024
#: Unsent to a client that is not logged in. Its refusals must not fill memory.
UNAUTHENTICATED_BACKLOG_BYTES = 1024
#: Login deadline while others wait for a slot, so that idle connections cannot hold all slots.
CROWDED_LOGIN_SECONDS = 3.0
#: Between two checks who has exceeded that deadline.
CROWDED_CHECK_SECONDS = 0.5
#: Wrong passwords of one address that are answered at once: a deployment with an old secret, say.
UNDELAYED_WRONG_PASSWORDS = 5
#: The first delay of such an answer. It doubles with each further wrong password.
FIRST_LOGIN_DELAY_SECONDS = 0.1
#: The longest delay of such an answer.
LOGIN_DELAY_SECONDS = 5.0
#: An address without a wrong password for so long is forgotten.
LOGIN_BACKOFF_SECONDS = 300.0
#: Addresses that are remembered. The one whose wrong password is oldest is forgotten first.
LOGIN_BACKOFF_ADDRESSES = 10_000
#: Wrong passwords on one connection before it is closed.
WRONG_PASSWORDS = 20

# Sessions: session/, policy/server_config.py.

#: Read from a client whose session waits. The client is read until then, because only a read shows
#: that it left.
BUFFERED_BYTES: Annotated[int, 512] = 64 * 1024
#: Replies that one session may wait for. It takes commands again at half of that.
PENDING_REPLIES: Annotated[int, 64] = 1_000_000
#: The proxy's own answers that wait for their place behind pending replies.
OWN_REPLIES_BYTES: Annotated[int, 64] = 64 * 1024
#: Between two checks whether clients that are not read have left.
PAUSED_CHECK_SECONDS: Annotated[float, 0.1] = 5.0
#: A client's name, and what it says of its library.
CLIENT_NAME_BYTES = 4096
#: All patterns of one CONFIG GET. Reading them takes time, and no setting has a longer name.
CONFIG_PATTERN_BYTES = 256
#: Channels, patterns and sharded channels of one session, together.
SUBSCRIPTIONS = 10_000
#: Their names.
SUBSCRIPTION_BYTES = 2 * 1024 * 1024
#: Subscriptions of several sessions that are compared with each other when they are counted.
COUNTED_SUBSCRIPTIONS = 10_000
#: A message up to its payload: two names, each as long as a session may subscribe to.
MESSAGE_HEAD_BYTES = 4 * 1024 * 1024
#: Messages that are smaller on average make the connection read SMALL_READ_BYTES at once: each of
#: them costs time.
SMALL_MESSAGE_BYTES = 512

# Connections that carry commands to Redis: upstream/connection.py, multiplexed.py, pool.py,
# handover.py, latency.py.

#: Bytes that wait for the end of the turn before a multiplexed connection takes no more.
QUEUED_BYTES: Annotated[int, 1024] = 256 * 1024
#: Reply batches (at least as many commands) of one multiplexed connection. It takes more again at
#: half of that.
PENDING_BATCHES: Annotated[int, 8] = 16 * 1024
#: Replies of one multiplexed connection that clients have not read. Then it is not read, and other
#: sessions leave it.
BACKLOG_BYTES: Annotated[int, 16 * 1024] = 4 * 1024 * 1024
#: How long others may wait for such a slow reader before it is closed.
SLOW_READER_SECONDS = 1.0
#: Multiplexed connections of a tenant in one protocol version: the one in use, and those left to
#: slow readers.
MULTIPLEXED_CONNECTIONS: Annotated[int, 2] = 4
#: Connections that are acquired at the same time, of all tenants together. More at once would each
#: take too long.
ACQUIRING: Annotated[int, 2] = 256
#: For so long after its last use an idle connection is used again without a PING.
FRESH_SECONDS: Annotated[float, 0.0] = 1.0
#: A connection that nobody used and that ends sooner counts as a failure.
SHORT_LIVED_SECONDS = 1.0
#: One reply during the log-in. All are one line, but for the one to HELLO, which names Redis's
#: modules.
LOGIN_REPLY_BYTES = 64 * 1024
#: Between two TCP keepalive probes of an idle connection.
KEEPALIVE_SECONDS = 5
#: Without an acknowledgement from Redis's machine, before a connection is given up. A busy Redis
#: still acknowledges.
UNACKNOWLEDGED_SECONDS = 15
#: For replies that the former owner of a database still waits for, while the new owner waits. Then
#: its connections are cut.
HANDOVER_SECONDS = 1.0
#: For other processes to say that they have no such connections. One that is stuck must not keep
#: the new owner out.
HANDOVER_ELSEWHERE_SECONDS = 10.0
#: Connections whose latency is sampled once a second.
SAMPLED_CONNECTIONS: Annotated[int, 1] = 20
#: Connections that begin, once a second, to wait for a tenant's next commands, whose time is taken.
#: A PING for each.
TIMED_CONNECTIONS: Annotated[int, 1] = 100

# What the proxy itself asks of Redis: upstream/client.py, control.py, queries.py, acl_users.py,
# sentinel.py.

#: One reply: CLIENT LIST of 100,000 connections, say. A larger one is discarded while it comes, and
#: its command fails.
CONTROL_REPLY_BYTES = 64 * 1024 * 1024
#: Until a reply has come.
CONTROL_REPLY_SECONDS = 10.0
#: Between two PINGs that ask whether Redis is there.
HEALTH_CHECK_SECONDS = 1.0
#: Until a Redis that has not answered a PING counts as hung. More than the 5 s after which it says
#: that a script is at work.
HUNG_SECONDS = 6.0
#: Until a proxy whose Redis hangs is not ready. Clients wait meanwhile, as they would straight at
#: Redis: a fork, or a slow command, is over by then.
HUNG_UNREADY_SECONDS = 15.0
#: The answer to one tenant's control query. Reading a larger one would keep all other tenants
#: waiting.
QUERY_REPLY_BYTES = 1024 * 1024
#: Until such an answer has come.
QUERY_SECONDS = 10.0
#: The pause of a tenant after a slow control query, which kept Redis busy.
QUERY_PAUSE_SECONDS: Annotated[float, 0.01] = 2.0
#: The connection for control queries is closed after so long without one.
QUERY_IDLE_SECONDS: Annotated[float, 0.1] = 30.0
#: Patterns that the sessions of one tenant may have Redis allow, while this process lives.
TENANT_PATTERNS = 10_000
#: Those patterns' bytes.
TENANT_PATTERN_BYTES = 1024 * 1024
#: Patterns in one ACL SETUSER. Redis compares each with all that there are, and does nothing else
#: meanwhile.
PATTERNS_PER_CALL = 500
#: One reply of a sentinel.
SENTINEL_REPLY_BYTES = 64 * 1024
#: To log in to a sentinel, and until it has replied. A sentinel has little else to do.
SENTINEL_REPLY_SECONDS = 2.0

# Tenants' limits: tenants/limits.py, net/rate_limit.py.

#: A tenant that did nothing may do at once what its rates allow in this time.
BURST_SECONDS = 1.0
#: The largest limit of connections that an annotation may give.
TENANT_CONNECTIONS = 1_000_000
#: The largest rate, of commands or bytes, that an annotation may give.
TENANT_PER_SECOND = 1_000_000_000
#: Clients of a tenant that go on in one turn of the reactor, after the tenant was over its rate.
RATE_RESUMED_PER_TURN = 50
#: The shortest wait for a rate. A shorter one is not worth a turn of the reactor.
RATE_TICK_SECONDS = 0.001
#: One read of a tenant with rates is what they allow in this time, but at least SMALL_READ_BYTES. A
#: larger read keeps the reactor and Redis busy, and that makes the neighbours' p99.
RATE_READ_SECONDS = 0.05

# What is counted of a tenant: tenants/account.py.

#: Refused commands of one tenant that are counted by name. A tenant can try each command and
#: subcommand of the server.
REFUSED_NAMES = 50

# The end of a connection: clients/.

#: For a client to take its last bytes, before it is cut off.
CLOSE_SECONDS = 10.0
#: For the client to close after that, before the proxy does.
LINGER_SECONDS = 2.0
#: The same for a client that was idle when the proxy began to end: time for its last reply to
#: arrive.
IDLE_LINGER_SECONDS = 0.5
#: For the pending replies of a client that sent its end of file. Redis gives it no time, but the
#: proxy adds a hop.
HALF_CLOSED_SECONDS = 5.0
#: The same on a dedicated connection. The client may have left, and then its BLPOP must not take an
#: item.
HALF_CLOSED_DEDICATED_SECONDS = 0.5
#: For the pending replies of a revoked session, before it gives up its connections to Redis.
REVOKED_SECONDS = 10.0
#: Clients that are closed in one turn of the reactor because their credentials were revoked.
REVOKED_PER_TURN: Annotated[int, 1] = 200
#: Between two checks of the wall clock: how late a credential may expire after the clock was set.
WALL_CLOCK_CHECK_SECONDS = 1.0

# The end of a process: clients/drain.py, processes/.

#: Clients a second that a drain asks to leave, so that the next proxy does not get all at once.
#: More, if half of the drain's time would not be enough for all.
DRAINED_PER_SECOND = 200
#: Between two turns of a drain.
DRAIN_TURN_SECONDS = 0.05
#: Before the end of a drain, when blocked commands are ended: a quarter of the drain's time, if
#: that is less.
DRAIN_MARGIN_SECONDS = 1.0
#: For a worker to end, after the time that its clients have to leave.
WORKER_END_SECONDS = 1.5
#: For a worker to answer its parent.
WORKER_ANSWER_SECONDS = 5.0
#: One message between a worker and its parent. A snapshot of all tenants is one.
CHANNEL_MESSAGE_BYTES = 1 << 30


def _check() -> None:
    """Limits that depend on each other. An extreme may break one of these: the proxy is slower
    then, but not wrong.
    """
    for holds, relation in (
        (SMALL_READ_BYTES < READ_BYTES <= WIDE_READ_BYTES, "a wide read is a larger one"),
        (READ_BYTES <= BACKLOG_BYTES, "one read of replies does not make a slow reader"),
        (READ_BYTES <= QUEUED_BYTES, "one read of commands does not fill a multiplexed connection"),
        (READ_BYTES <= BUFFERED_BYTES, "one read does not pause a client whose session waits"),
        (SMALL_MESSAGE_BYTES < SMALL_READ_BYTES, "a small read has several small messages"),
        (PROXY_LINE_BYTES < PROXY_HEADER_BYTES <= UNAUTHENTICATED_BYTES, "a PROXY header is no larger than a log-in may be"),
        (min(PENDING_REPLIES, PENDING_BATCHES) >= 2, "half of a limit is not zero"),
        (HEADER_BYTES < COMMAND_NAME_BYTES < WHOLE_COMMAND_BYTES, "a refused command's name is there before it is streamed"),
        (INLINE_BYTES <= INSPECTED_BYTES, "an inline command can be inspected"),
        (UNAUTHENTICATED_ARGUMENTS <= ARGUMENTS, "a log-in allows more arguments"),
        (UNAUTHENTICATED_ARGUMENT_BYTES <= ARGUMENT_BYTES, "a log-in allows larger arguments"),
        (
            UNAUTHENTICATED_ARGUMENTS * (UNAUTHENTICATED_ARGUMENT_BYTES + ARGUMENT_COST_BYTES) <= INSPECTED_BYTES,
            "any command before log-in can be inspected",
        ),
        (INSPECTED_BYTES <= UNAUTHENTICATED_BYTES, "the largest AUTH is not too large before log-in"),
        (WAITING_CLIENT_BYTES < UNAUTHENTICATED_BYTES, "a client is not closed for what it sent while it waited"),
        (CROWDED_CHECK_SECONDS < CROWDED_LOGIN_SECONDS, "the deadline is checked in time"),
        (UNDELAYED_WRONG_PASSWORDS < WRONG_PASSWORDS, "an answer is delayed before the connection is closed"),
        (
            FIRST_LOGIN_DELAY_SECONDS <= LOGIN_DELAY_SECONDS < LOGIN_BACKOFF_SECONDS,
            "delays grow, and end before they are forgotten",
        ),
        (max(CLIENT_NAME_BYTES, CONFIG_PATTERN_BYTES) < INSPECTED_BYTES, "the error names the limit that was reached"),
        (2 * SUBSCRIPTION_BYTES <= MESSAGE_HEAD_BYTES, "a message names its pattern and its channel"),
        (PATTERNS_PER_CALL <= TENANT_PATTERNS, "one call does not exceed the tenant's patterns"),
        (KEEPALIVE_SECONDS < UNACKNOWLEDGED_SECONDS, "there is a probe before a connection is given up"),
        (HANDOVER_SECONDS < HANDOVER_ELSEWHERE_SECONDS, "other processes have time to cut their connections"),
        (
            HEALTH_CHECK_SECONDS + HUNG_SECONDS < CONTROL_REPLY_SECONDS < HUNG_UNREADY_SECONDS,
            "a Redis that hangs is logged, then its connection given up, then the proxy not ready",
        ),
        (QUERY_REPLY_BYTES <= CONTROL_REPLY_BYTES, "a tenant's query gets no larger reply than the proxy's own"),
        (QUERY_PAUSE_SECONDS < QUERY_IDLE_SECONDS, "a paused tenant's next query finds the connection open"),
        (RATE_TICK_SECONDS < RATE_READ_SECONDS < BURST_SECONDS, "a burst has several reads"),
        (IDLE_LINGER_SECONDS <= LINGER_SECONDS <= CLOSE_SECONDS, "a client has more time to read than to close"),
        (HALF_CLOSED_DEDICATED_SECONDS <= HALF_CLOSED_SECONDS, "a dedicated connection is given up first"),
        (HALF_CLOSED_SECONDS <= REVOKED_SECONDS, "a client that left does not outlast a revoked one"),
        (IDLE_LINGER_SECONDS < DRAIN_MARGIN_SECONDS, "a client that leaves late in a drain has time to close"),
        (DRAIN_TURN_SECONDS < DRAIN_MARGIN_SECONDS < WORKER_END_SECONDS, "a worker drains before its parent ends it"),
    ):
        if not holds:
            raise ValueError(f"redisproxy/bounds.py: limits contradict each other: {relation}")


_check()
