"""Every limit of the data path in one table: bytes, counts and seconds.

This module is longer than other modules because it is one table. It imports nothing of the project.
The comment above a limit says what it limits, and why.
The end of a name is the unit, _BYTES or _SECONDS. A limit without a unit counts what its name says.
Code reads a limit as `bounds.NAME` when it needs it, so a test that patches this module changes the
limit everywhere. Only error texts, defaults of parameters and `framing.Limits` are made when their
module is imported.

`Annotated[int, 512]` gives the extreme value that the simulation (`tests/sim`) may draw instead. An
extreme makes a rare branch common, and clients must notice nothing but the delay. A limit has no
extreme if reaching it refuses or closes something, if it belongs to the protocol, or if the
simulation does not run the code that it limits.

Not here are limits of reading the configuration (API pages, watches, files), of logs and of the
status endpoint, and delays before another attempt (`ops.retry.Backoff`). Each of them is a constant
in the module that uses it.

`docs/decisions/bounds.md` says what happens at each limit; `tests/test_bounds.py` compares that
page with this table.
"""

from __future__ import annotations

from typing import Annotated

# Sockets: net/protocol.py, listen/endpoints.py, listen/proxy_header.py.

#: One read of a socket. Also the unsent bytes above which a transport asks its producer to pause.
#: The value is Twisted's.
READ_BYTES = 64 * 1024
#: One read while large values pass. Not always, because each read allocates a buffer of this size.
WIDE_READ_BYTES: Annotated[int, 64 * 1024] = 256 * 1024
#: A read of fewer bytes ends the wide reads. Also one read while small messages come, and the
#: smallest read of a tenant with rates.
SMALL_READ_BYTES = 4 * 1024
#: The kernel's buffer of a logged-in client's socket, and of one to Redis, each way. The kernel
#: counts its own overhead, and allows twice as much. Of less than 64 KiB, one packet over loopback
#: is all.
SOCKET_BYTES = 256 * 1024
#: What a client sends, at most, until it is logged in, if it means to.
LOG_IN_BYTES: Annotated[int, 16] = 1024
#: The same buffer for what a client sends that has sent more, and is not logged in.
UNAUTHENTICATED_RECEIVED_BYTES = 16 * 1024
#: The same buffer before log-in, for what a client is sent.
UNAUTHENTICATED_SENT_BYTES = 4 * 1024
#: Time between two checks what the kernel keeps for clients.
KERNEL_CHECK_SECONDS = 0.25
#: While all TCP sockets of the machine use less, this is not checked for each client.
KERNEL_FREE_BYTES: Annotated[int, 4096] = 32 * 1024 * 1024
#: What the kernel keeps for one client, and costs nothing.
KERNEL_CLIENT_BYTES: Annotated[int, 1024] = 32 * 1024
#: If clients use so much less than before, free memory is given back to the system.
RELEASED_BYTES: Annotated[int, 4096] = 32 * 1024 * 1024
#: Connections that wait in the kernel until the proxy accepts them. Fewer if net.core.somaxconn is
#: lower.
ACCEPT_QUEUE = 4096
#: A PROXY header of version 1, with CR LF. The specification has no longer one.
PROXY_LINE_BYTES = 107
#: A PROXY header of version 2. The specification allows 64 KiB; nginx takes as much as this.
PROXY_HEADER_BYTES = 4096

# RESP framing: resp/framing.py. Redis's own limits, where a source is named.

#: A length header, with type byte and CR LF. The longest number that Redis reads has 20 characters.
HEADER_BYTES = 32
#: A command's name. No server has a longer one.
COMMAND_NAME_BYTES = 128
#: A plain command up to this size is forwarded only when it is whole. A larger one is streamed.
WHOLE_COMMAND_BYTES: Annotated[int, 128] = 64 * 1024
#: All arguments of an inspected command, which is kept until it is whole. A larger one is refused.
INSPECTED_BYTES = 1024 * 1024
#: Counts as bytes of an inspected command for each argument, because each is a Python object.
ARGUMENT_COST_BYTES = 32
#: What each word of a command that is kept is charged, besides its bytes: it is a Python object.
WORD_BYTES = 70
#: Pieces of a large argument that are kept one by one until they are joined. A client may send each
#: byte in a piece of its own.
CHUNKS: Annotated[int, 2] = 256
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
#: Elements that a reply may still lack. Redis has memory for far fewer. Without this limit a few
#: headers would exceed a C long long.
REPLY_ELEMENTS = 2**62

# Clients before log-in: clients/, session/session.py, tenants/login_backoff.py.

#: Sent in all by a client that has not logged in. A log-in needs some hundred bytes.
UNAUTHENTICATED_BYTES = 1024 * 1024
#: Unsent replies to a client that is not logged in. Its error replies must not fill memory.
UNAUTHENTICATED_BACKLOG_BYTES = 1024
#: The part of the slots, here a quarter, that are places besides the slots and the queue, so that
#: clients can log in although all of these are taken.
LOG_IN_ROOM_PART = 4
#: The same at least, where there are few slots.
LOG_IN_ROOM = 16
#: Sessions of the tenant with most that are compared, when one of them has to end for another
#: tenant.
SESSIONS_COMPARED: Annotated[int, 1] = 1000
#: Wrong passwords of one address that are answered at once. A deployment may still have an old
#: secret.
UNDELAYED_WRONG_PASSWORDS: Annotated[int, 1] = 5
#: Delay of the first answer to a wrong password after those. It doubles with each further one.
FIRST_LOGIN_DELAY_SECONDS = 0.1
#: The longest delay of the answer to a wrong password.
LOGIN_DELAY_SECONDS = 5.0
#: The wrong passwords of an address are forgotten after so long without another one.
LOGIN_BACKOFF_SECONDS = 300.0
#: Addresses whose wrong passwords are remembered. The one with the oldest is forgotten first.
LOGIN_BACKOFF_ADDRESSES = 10_000
#: Wrong passwords on one connection before it is closed.
WRONG_PASSWORDS = 20

# Sessions: session/, policy/server_config.py.

#: Read from a client whose session waits. Up to this the proxy reads on, because only a read shows
#: that the client left.
BUFFERED_BYTES: Annotated[int, 512] = 64 * 1024
#: Kept bytes of one kind of one session that cost nothing: a command that is not whole, one that
#: waits, subscriptions. Most sessions never keep more, and are not charged.
HELD_BYTES: Annotated[int, 256] = 8 * 1024
#: What each subscription is charged, besides its name: it is an object in two sets.
SUBSCRIPTION_COST_BYTES = 150
#: Pending replies of one session that cost nothing. From this on the tenant's account is charged.
PENDING_REPLIES: Annotated[int, 64] = 10_000
#: The queue of replies of one session that costs nothing: its items, with the proxy's own replies
#: that wait behind pending ones.
OWN_REPLIES_BYTES: Annotated[int, 64] = 16 * 1024
#: The smallest `--memory`. The proxy itself needs about as much.
LEAST_MEMORY_BYTES = 64 * 1024 * 1024
#: `--memory` if the container has no limit.
USUAL_MEMORY_BYTES = 512 * 1024 * 1024
#: What each pending reply is charged: Redis keeps at least this much of it.
PENDING_REPLY_BYTES = 8
#: What each item of a long queue of replies is charged: it is a Python object.
QUEUED_REPLY_BYTES = 128
#: Replies of a batch with discarded ones that have come before its memory is given back.
MUTED_REPLIES: Annotated[int, 2] = 4096
#: Time between two checks whether clients that are not read have left.
PAUSED_CHECK_SECONDS: Annotated[float, 0.1] = 5.0
#: The same for clients with a blocked command, which must not take an item for a client that left.
BLOCKED_CHECK_SECONDS = 0.1
#: A client's name, the name of its library, and the library's version: each of them.
CLIENT_NAME_BYTES = 4096
#: The answer to one CLIENT LIST. A line has some 330 bytes, and up to 12 KiB with long names.
CLIENT_LIST_BYTES = 8 * 1024 * 1024
#: Different ids in the filter of one CLIENT LIST or CLIENT KILL. Each tenant's visits wait for each
#: other, and the filters of those that wait use memory.
CLIENT_FILTER_IDS = 1000
#: Channels that one control query counts for a PUBSUB NUMSUB. To take its answer apart takes 1 us
#: for each.
CHANNELS_PER_ANSWER: Annotated[int, 1] = 1000
#: Sessions that a CLIENT LIST or a CLIENT KILL visits in one turn of the reactor.
VISITED_PER_TURN: Annotated[int, 1] = 100
#: The longest pause of a tenant after such a visit of its sessions, which kept the proxy busy.
VISIT_PAUSE_SECONDS: Annotated[float, 0.01] = 2.0
#: `--command-max-keys`: keys of one WATCH, or of one command that blocks. Redis looks for each of
#: them in a list of all. It takes 1 to 10 ms for so many.
COMMAND_KEYS = 1000
#: How often one key may be named in a command that goes through the values of all its keys.
KEY_REPEATED = 16
#: `--command-max-count`: elements of a random choice that may repeat elements. It takes 20 ms.
COMMAND_COUNT = 100_000
#: `--tenant-transaction-bytes`: sent since MULTI, by all sessions of a tenant in one process. Redis
#: keeps it until EXEC. Tiny arguments take it up to six times as much.
TRANSACTION_BYTES = 64 * 1024 * 1024
#: All patterns of one CONFIG GET. Matching takes time, and no setting has a longer name.
CONFIG_PATTERN_BYTES = 256
#: Channels, patterns and sharded channels of one session, together.
SUBSCRIPTIONS = 10_000
#: The names of one session's channels, patterns and sharded channels, together.
SUBSCRIPTION_BYTES = 2 * 1024 * 1024
#: Patterns of one session that also match channels of notifications about keys, under another name
#: in Redis. To find these names takes time.
KEY_EVENT_PATTERNS = 500
#: The longest of them. A longer pattern matches the tenant's own channels alone.
KEY_EVENT_PATTERN_BYTES = 256
#: Attempts to find a name in Redis for such a pattern that no other pattern of the session has.
KEY_EVENT_SPELLINGS = 64
#: The longest channel that is matched here. A message of a longer one may come twice, where two
#: patterns in Redis match it that stand for one of the client.
MATCHED_CHANNEL_BYTES = 1024
#: Subscriptions of several sessions that are compared with each other when they are counted.
COUNTED_SUBSCRIPTIONS = 10_000
#: Scripts of one tenant that publish, whose SHAs are known: two SHAs of 40 bytes each. The one that
#: was not used for the longest time is forgotten first. Its clients send its text again.
PUBLISHING_SCRIPTS = 1000
#: A reply that is rewritten, which needs all of it: an error of a script that publishes, or the
#: text of such a script. A text that can be loaded is smaller: see INSPECTED_BYTES.
REWRITTEN_BYTES = 2 * 1024 * 1024
#: A message up to its payload: two names, each as long as a session may subscribe to.
MESSAGE_HEAD_BYTES = 4 * 1024 * 1024
#: If messages are smaller on average, the connection reads SMALL_READ_BYTES at once, because each
#: message costs time.
SMALL_MESSAGE_BYTES = 512

# Connections that carry commands to Redis: upstream/connection.py, multiplexed.py,
# tenant_pool.py, pool.py, handover.py, latency.py.

#: Commands that wait for the end of the turn. At this size a multiplexed connection takes no more.
QUEUED_BYTES: Annotated[int, 1024] = 256 * 1024
#: Pending reply batches (at least as many commands) of one multiplexed connection. At half of that
#: it takes commands again.
PENDING_BATCHES: Annotated[int, 8] = 16 * 1024
#: Replies of one multiplexed connection that clients have not read. Above this other sessions leave
#: the connection, and it is read only if a session waits for that.
BACKLOG_BYTES: Annotated[int, 16 * 1024] = 4 * 1024 * 1024
#: Time in which a client that waits for memory must read something, or it is closed.
SLOW_READER_SECONDS = 10.0
#: Time that sessions wait for the connection that replaces one whose clients do not read. After
#: that they use the present one.
REPLACING_SECONDS = 0.1
#: Time in which a connection sends what waits there for places in its tenant's window, though it is
#: left because the tenant is paused or Redis is elsewhere.
ROUNDS_SECONDS = 1.0
#: Multiplexed connections of a tenant in one protocol version: the one in use, and those left to
#: slow readers. As many again for scripts.
MULTIPLEXED_CONNECTIONS: Annotated[int, 2] = 4
#: Time between two checks whether the connection for a tenant's scripts has replied. After one to
#: two times as long without a reply, it takes no more scripts: they use connections of their own.
SCRIPT_CHECK_SECONDS: Annotated[float, 0.001] = 0.05
#: Time between the first look at a script that keeps Redis busy, and its end: by then it is known
#: what Redis has answered to others. Also the time for Redis's error to reach the script's session.
SCRIPT_GRACE_SECONDS = 0.1
#: After a tenant's script was ended, its scripts are refused for so many times as long as it may
#: run; twice as long after each further one.
SCRIPT_PAUSE_FACTOR = 10
#: The longest time for which a tenant's scripts are refused. Also the time without another such
#: script until the tenant's former ones are forgotten.
SCRIPT_PAUSE_SECONDS = 3600.0
#: Namespaces that one line names whose script it may be.
SCRIPT_SUSPECTS = 5
#: Acquisitions of connections at the same time, by all tenants together. With more, each would take
#: too long.
ACQUIRING: Annotated[int, 2] = 256
#: Time until a connection to a full Redis is cut off, whose session had to end for another tenant.
GIVING_WAY_SECONDS: Annotated[float, 0.1] = 1.0
#: Time after its last use in which an idle connection is used again without a PING.
FRESH_SECONDS: Annotated[float, 0.0] = 1.0
#: Time that a command waits for a tenant's command that was read before, and waits for a dedicated
#: connection. After that the order is given up, until a connection can be had again.
ORDER_SECONDS: Annotated[float, 0.05] = 1.0
#: A connection that ends sooner, and that nobody used, counts as a failure.
SHORT_LIVED_SECONDS = 1.0
#: One reply during a log-in to Redis. Each is one line, but the one to HELLO names Redis's modules.
LOGIN_REPLY_BYTES = 64 * 1024
#: Time between two TCP keepalive probes of an idle connection.
KEEPALIVE_SECONDS = 5
#: Time without an acknowledgement from Redis's machine, before the proxy gives up a connection. The
#: machine of a busy Redis still acknowledges.
UNACKNOWLEDGED_SECONDS = 15
#: Time for the pending replies of a database's former owner, while the new owner waits. Then the
#: former owner's connections are cut.
HANDOVER_SECONDS = 1.0
#: Time for other processes to say that they have no connections of the former owner. A process that
#: is stuck must not keep the new owner out.
HANDOVER_ELSEWHERE_SECONDS = 10.0
#: Connections whose latency is sampled once a second.
SAMPLED_CONNECTIONS: Annotated[int, 1] = 20
#: Connections, once a second, whose next commands are timed for their tenant. Each costs a PING.
TIMED_CONNECTIONS: Annotated[int, 1] = 100

# Commands of the proxy itself to Redis: upstream/client.py, control.py, nets.py, queries.py,
# acl_users.py, sentinel.py.

#: One reply, such as CLIENT LIST of 100,000 connections. A larger one is discarded while it comes,
#: and its command fails.
CONTROL_REPLY_BYTES = 64 * 1024 * 1024
#: Time until a reply has come.
CONTROL_REPLY_SECONDS = 10.0
#: Time between two PINGs that check Redis.
HEALTH_CHECK_SECONDS = 1.0
#: Time without an answer to a PING until Redis counts as hung. Longer than the 5 s after which
#: Redis answers that a script is running.
HUNG_SECONDS = 6.0
#: The answer to one tenant's control query. Reading a larger one would keep all other tenants
#: waiting.
QUERY_REPLY_BYTES = 1024 * 1024
#: Time until the answer to a control query has come.
QUERY_SECONDS = 10.0
#: The longest pause of a tenant after a slow control query, which kept Redis busy.
QUERY_PAUSE_SECONDS: Annotated[float, 0.01] = 2.0
#: Time between two questions for Redis's own limits, which an operator may set while it runs.
NETS_SECONDS = 60.0
#: Time between two looks at Redis's log of slow commands.
SLOW_LOG_SECONDS = 5.0
#: Entries of that log that are read at once. As many as Redis keeps by default; each may have 5 KB.
SLOW_LOG_ENTRIES: Annotated[int, 2] = 128
#: Looks that are left out after Redis has refused one.
SLOW_LOG_REFUSED_ROUNDS: Annotated[int, 1] = 59
#: Entries of one command that confirm that it is slow: upstream/slow_commands.py. A Redis that was
#: stopped for a while logs one.
CONFIRM_ENTRIES: Annotated[int, 1] = 3
#: The time within which these entries are.
CONFIRM_SECONDS = 60.0
#: Time since the last entry until a command that was confirmed counts as quick again. Quick ones
#: meanwhile only cost their own tenant a little, because its window is wide then.
CONFIRMED_SECONDS: Annotated[float, 1.0] = 300.0
#: A limit of unread replies below this is reached by sessions that share a connection to Redis, and
#: that only read slowly.
LOW_OUTPUT_LIMIT_BYTES = 256 * 1024 * 1024
#: Time without a control query until the connection for control queries is closed.
QUERY_IDLE_SECONDS: Annotated[float, 0.1] = 30.0
#: The bytes of all different patterns of one tenant, in all processes and replicas.
TENANT_PATTERN_BYTES = 256 * 1024
#: Patterns in one ACL SETUSER. Redis compares each of them with all existing ones, and serves
#: nobody meanwhile.
PATTERNS_PER_CALL = 500
#: Patterns that one tenant's sessions in this process have left, and that were not removed from the
#: ACL yet. Redis reads all of them each time it is asked to allow another one.
UNUSED_PATTERNS = 1000
#: Time between two looks for patterns that nobody uses. A process whose connection was lost says
#: within that time again what its sessions use.
UNUSED_PATTERN_SECONDS = 30.0
#: Time until a process first looks for such patterns. Replicas of an earlier version do not say
#: what their sessions use. In a rolling update they have ended by then.
FIRST_CLEANING_SECONDS = 300.0
#: One reply of a sentinel.
SENTINEL_REPLY_BYTES = 64 * 1024
#: Time to log in to a sentinel, and time until it has replied. A sentinel has little else to do.
SENTINEL_REPLY_SECONDS = 2.0

# Tenants' limits: tenants/limits.py, net/rate_limit.py.

#: A tenant that was idle may do at once what its rates allow in this time.
BURST_SECONDS = 1.0
#: Temporary secrets of a namespace that are valid: the newest ones.
TEMPORARY_SECRETS = 100
#: Bytes of the values of one secret, as written: most are base64.
SECRET_BYTES = 256 * 1024
#: Bytes of one page of a list, or of one secret with its metadata. Its JSON is parsed in one piece,
#: in which no client is served. A larger page is read again with fewer items.
LIST_BYTES = 512 * 1024
#: Bytes of one object's metadata, and of any other answer of the Kubernetes API. etcd takes no
#: object of more than 1.5 MiB, and base64 adds a third.
OBJECT_BYTES = 4 * 1024 * 1024
#: The largest limit of connections that an annotation may set.
TENANT_CONNECTIONS = 1_000_000
#: The largest limit of patterns that an annotation may set. The list of so many is smaller than
#: QUERY_REPLY_BYTES.
TENANT_PATTERNS = 5000
#: The largest rate, of commands or bytes a second, that an annotation may set.
TENANT_PER_SECOND = 1_000_000_000
#: Clients of a tenant that go on in one turn of the reactor, after the tenant was over its rate.
RATE_RESUMED_PER_TURN = 50
#: The shortest wait for a rate. A shorter one is not worth a turn of the reactor.
RATE_TICK_SECONDS = 0.001
#: One read of a tenant with rates is what they allow in this time, but at least SMALL_READ_BYTES. A
#: larger read keeps the reactor and Redis busy, and so raises the p99 of other tenants.
RATE_READ_SECONDS = 0.05

# The proxy's own work for clients' commands: tenants/work.py.

#: Units of work that the sessions of one tenant have together in one turn of the reactor. An
#: inspected command is one unit: 10 to 30 us.
WORK_BUDGET: Annotated[int, 2] = 64
#: Words of an inspected command that are another unit.
WORK_WORDS = 16
#: Empty lines and empty arrays that the scanner passes over before the session looks at its units.
EMPTY_LINES: Annotated[int, 1] = 256
#: Small pieces of a read that are another unit: messages of channels, confirmations, TLS records.
WORK_PIECES = 2
#: Bytes of a large read (SMALL_READ_BYTES or more) that are another unit: plain commands of 64 KiB
#: take 100 to 300 us. Smaller reads are no work, so that most clients pay nothing for this.
WORK_BYTES = 8 * 1024
#: Units that a connection of its own to Redis is: to open one, and to log in, takes about 0.5 ms.
WORK_CONNECTION: Annotated[int, 0] = 8
#: Units that a client's end of file is: it takes 50 us, and more if another one gets its slot.
WORK_END: Annotated[int, 0] = 4
#: Units that a session which had to wait has at once, before the next session has its turn.
WORK_SLICE: Annotated[int, 1] = 16
#: The same for a session that is not logged in.
UNAUTHENTICATED_WORK_SLICE: Annotated[int, 1] = 4
#: Commands that a client sends, at most, until it is logged in, if it means to. One that has sent
#: more comes last.
LOG_IN_COMMANDS: Annotated[int, 0] = 10
#: Time in which sessions that had to wait are served, in one turn of the reactor. Others wait that
#: long for their own work.
WORK_TURN_SECONDS = 0.002
#: Units in which they are served: where the clock stands still, and where it is coarse.
WORK_TURN_UNITS: Annotated[int, 1] = 128

#: Time for TLS handshakes in one turn of the reactor: listen/handshakes.py. One with an RSA key of
#: 2048 bits takes about 1 ms.
HANDSHAKE_TURN_SECONDS = 0.002
#: Steps of handshakes in one turn of the reactor: where the clock stands still, and where it is
#: coarse.
HANDSHAKES_PER_TURN = 16
#: What a client sends before its handshake goes on, from which on it is not read. A client has
#: nothing more to say until then.
HANDSHAKE_BYTES = 32 * 1024
#: Records of TLS in one read from which on they are counted as work.
TLS_RECORDS = 16

#: Of many that wait for the same event, or notice the same loss, those that go on in one turn of
#: the reactor: sessions when Redis is back, when a pause ends, or when a connection is lost.
RESUMED_PER_TURN: Annotated[int, 1] = 25

# Commands that may keep Redis busy: tenants/window.py, session/windowed.py.

#: Time from which on an answer is late: as for slowlog-log-slower-than. Redis serves nobody else
#: meanwhile.
LATE_SECONDS: Annotated[float, 0.001] = 0.01
#: Such commands of a tenant that are under way at first, and that a tenant keeps after late ones.
WINDOW_FIRST: Annotated[int, 1] = 2
#: The most that are. So many long ones hold Redis up, once, before the window shrinks. While it is
#: as wide, the tenant's sessions do not wait for places: their multiplexed connection does.
WINDOW_MOST: Annotated[int, 2] = 16
#: With more than these under way, Redis tells how long one of some takes.
WINDOW_UNTIMED: Annotated[int, 0] = 4
#: Commands of which one is timed then: few enough that the window cannot fill without one.
WINDOW_SAMPLE: Annotated[int, 1] = 8
#: Time after a late answer in which Redis tells how long each takes, and a tenant's window that has
#: shrunk stays smaller.
WINDOW_DOUBT_SECONDS = 60.0
#: Time from which on commands of a tenant make its largest window smaller, too. A busy machine
#: makes a Redis late by some 10 ms that runs nothing.
WINDOW_LONG_SECONDS: Annotated[float, 0.002] = 0.1
#: Times as long as a tenant's commands kept Redis busy, its window stays at one command.
WINDOW_REST: Annotated[int, 1] = 10
#: Time for Redis to end commands whose session has ended.
WINDOW_LOST_SECONDS = 1.0

#: Connections that a port accepts in one turn of the reactor: listen/bound_port.py.
ACCEPTED_PER_TURN = 16

# Counters of a tenant: tenants/account.py.

#: Refused commands of one tenant that are counted by name. A tenant can try each command and
#: subcommand of the server.
REFUSED_NAMES = 50

# The end of a connection: clients/.

#: Time in which a client that is being closed must read something, before it is cut off.
CLOSE_SECONDS = 10.0
#: Time for the client to close after that, before the proxy does.
LINGER_SECONDS = 2.0
#: The same for a client that was idle when a drain began: time for its last reply to arrive.
IDLE_LINGER_SECONDS = 0.5
#: Time for the pending replies of a client that sent EOF. It begins anew when the client has read
#: some. Redis gives a client no time then, but the proxy adds a hop.
HALF_CLOSED_SECONDS = 5.0
#: Time after EOF in which a command that may block is still sent. Straight to Redis it would be
#: there before the EOF, but here it may have to wait for a connection. Later it is not run: the
#: client may be gone, and then its BLPOP must not take an item.
HALF_CLOSED_BLOCKING_SECONDS = 0.05
#: Time for the pending replies of a revoked session, before it gives up its connections to Redis.
REVOKED_SECONDS = 10.0
#: Clients that are closed in one turn of the reactor because their credentials were revoked.
REVOKED_PER_TURN: Annotated[int, 1] = 25
#: Time between two checks of the wall clock. After the clock was set, a credential may expire this
#: late.
WALL_CLOCK_CHECK_SECONDS = 1.0

# The end of a process: clients/drain.py, processes/.

#: Clients a second that a drain asks to leave, so that the next proxy does not get all of them at
#: once. More if half of the drain's time would not be enough for all.
DRAINED_PER_SECOND = 200
#: Time between two turns of a drain.
DRAIN_TURN_SECONDS = 0.05
#: Time between two rounds in which a drain ends blocked commands. Each asks CLIENT LIST once.
DRAIN_UNBLOCK_SECONDS = 0.5
#: Time before the end of a drain from which on no further command is sent. A quarter of the drain's
#: time, if that is less.
DRAIN_MARGIN_SECONDS = 1.0
#: Time for a worker to end, after the time for its drain.
WORKER_END_SECONDS = 1.5
#: Time for a worker to answer its parent.
WORKER_ANSWER_SECONDS = 5.0
#: One message between a worker and its parent. A snapshot of all tenants is one message.
CHANNEL_MESSAGE_BYTES = 1 << 30


def _check() -> None:
    """Checks limits that depend on each other. Raises ValueError.

    An extreme may break one of these relations. Then the proxy is slower, but not wrong.
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
        (ARGUMENT_COST_BYTES <= WORD_BYTES, "an argument is charged what it is counted as"),
        (HELD_BYTES <= BUFFERED_BYTES, "a client that is not read is charged for what it sent"),
        (INLINE_BYTES <= INSPECTED_BYTES, "an inline command can be inspected"),
        (INSPECTED_BYTES + WHOLE_COMMAND_BYTES <= REWRITTEN_BYTES, "the text of a script that was rewritten can be shown"),
        (UNAUTHENTICATED_ARGUMENTS <= ARGUMENTS, "a log-in allows more arguments"),
        (UNAUTHENTICATED_ARGUMENT_BYTES <= ARGUMENT_BYTES, "a log-in allows larger arguments"),
        (
            UNAUTHENTICATED_ARGUMENTS * (UNAUTHENTICATED_ARGUMENT_BYTES + ARGUMENT_COST_BYTES) <= INSPECTED_BYTES,
            "any command before log-in can be inspected",
        ),
        (INSPECTED_BYTES <= UNAUTHENTICATED_BYTES, "the largest AUTH is not too large before log-in"),
        (BUFFERED_BYTES + READ_BYTES < UNAUTHENTICATED_BYTES, "a client is not closed for what it sent while it waited"),
        (UNDELAYED_WRONG_PASSWORDS < WRONG_PASSWORDS, "an answer is delayed before the connection is closed"),
        (
            FIRST_LOGIN_DELAY_SECONDS <= LOGIN_DELAY_SECONDS < LOGIN_BACKOFF_SECONDS,
            "delays grow, and end before they are forgotten",
        ),
        (max(CLIENT_NAME_BYTES, CONFIG_PATTERN_BYTES) < INSPECTED_BYTES, "the error names the limit that was reached"),
        (2 * SUBSCRIPTION_BYTES <= MESSAGE_HEAD_BYTES, "a message names its pattern and its channel"),
        (SECRET_BYTES + 256 * 1024 <= LIST_BYTES <= OBJECT_BYTES, "a secret has room for its annotations"),
        (PATTERNS_PER_CALL <= TENANT_PATTERNS, "one call does not exceed the tenant's patterns"),
        # Each is listed with a prefix and the namespace.
        (130 * TENANT_PATTERNS + TENANT_PATTERN_BYTES < QUERY_REPLY_BYTES, "all of a tenant's patterns can be listed"),
        (PATTERNS_PER_CALL < UNUSED_PATTERNS, "a tenant may leave what one call allowed"),
        (KEEPALIVE_SECONDS < UNACKNOWLEDGED_SECONDS, "there is a probe before a connection is given up"),
        (HANDOVER_SECONDS < HANDOVER_ELSEWHERE_SECONDS, "other processes have time to cut their connections"),
        (
            HEALTH_CHECK_SECONDS + HUNG_SECONDS < CONTROL_REPLY_SECONDS,
            "a Redis that hangs is logged, then its connection given up",
        ),
        (QUERY_REPLY_BYTES <= CONTROL_REPLY_BYTES, "a tenant's query gets no larger reply than the proxy's own"),
        (QUERY_PAUSE_SECONDS < QUERY_IDLE_SECONDS, "a paused tenant's next query finds the connection open"),
        (
            max(WORK_SLICE, UNAUTHENTICATED_WORK_SLICE) < WORK_BUDGET <= WORK_TURN_UNITS,
            "who waits for a share gets no more of it than who does not",
        ),
        (WINDOW_FIRST <= WINDOW_MOST, "a window grows"),
        (WINDOW_UNTIMED + WINDOW_SAMPLE <= WINDOW_MOST, "no window is full without a timed command"),
        (LATE_SECONDS < WINDOW_LONG_SECONDS, "what takes long is late"),
        (SLOW_LOG_SECONDS < CONFIRM_SECONDS < CONFIRMED_SECONDS, "the log is read several times before a command is quick"),
        (LATE_SECONDS < WINDOW_LOST_SECONDS < WINDOW_DOUBT_SECONDS, "a late answer comes before doubts end"),
        (RATE_TICK_SECONDS < RATE_READ_SECONDS < BURST_SECONDS, "a burst has several reads"),
        (IDLE_LINGER_SECONDS <= LINGER_SECONDS <= CLOSE_SECONDS, "a client has more time to read than to close"),
        (HALF_CLOSED_BLOCKING_SECONDS <= HALF_CLOSED_SECONDS, "a command that is still sent has time for its reply"),
        (BLOCKED_CHECK_SECONDS <= PAUSED_CHECK_SECONDS, "a client that waits for an item is missed first"),
        (HALF_CLOSED_SECONDS <= REVOKED_SECONDS, "a client that left does not outlast a revoked one"),
        (IDLE_LINGER_SECONDS < DRAIN_MARGIN_SECONDS, "a client that leaves late in a drain has time to close"),
        (DRAIN_TURN_SECONDS < DRAIN_MARGIN_SECONDS < WORKER_END_SECONDS, "a worker drains before its parent ends it"),
    ):
        if not holds:
            raise ValueError(f"redisproxy/bounds.py: limits contradict each other: {relation}")


_check()
