"""A simulated Redis: as much of it as shows whether a proxy in front of it is right.

Owns data, connections, and blocked commands. Like Redis, it runs all that it has read from a
connection before it reads another. It also knows the tenants' passwords, so that the simulated
clients can talk to it without a proxy: the control.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from .kernel import Event, Socket, World

OK, NIL = b"+OK\r\n", {2: b"$-1\r\n", 3: b"_\r\n"}
QUEUED = b"+QUEUED\r\n"
WRONG = b"-ERR wrong number of arguments\r\n"
#: The answer to others while a script runs for too long, and after how many seconds it is given.
BUSY, BUSY_AFTER = b"-BUSY Redis is busy running a script.\r\n", 0.3
#: What Redis takes nevertheless.
_WHILE_BUSY = (b"AUTH", b"HELLO", b"MULTI", b"DISCARD", b"WATCH", b"UNWATCH", b"QUIT")
#: Number of databases.
DATABASES = 32


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def array(items: list[bytes], kind: bytes = b"*") -> bytes:
    """Returns an array, or another aggregate, of encoded items."""
    return b"%b%d\r\n%b" % (kind, len(items), b"".join(items))


class Redis:
    """The server.

    master: the master password; tenants: the database of each tenant's password, for clients
    without a proxy.
    """

    def __init__(self, world: World, master: bytes, tenants: dict[bytes, int]) -> None:
        self.world = world
        self.master = master
        self.tenants = tenants
        self.listens = True
        #: since when Redis does not answer everything at once; None: it does
        self.unwell_since: float | None = None
        #: from when to when it was so before, the latest last
        self.unwell_periods: list[tuple[float, float]] = []
        #: called when a connection is cut: see `cut_one`
        self.cut: Callable[[], object] = lambda: None
        # Until when it loads its data, and until when it has too many clients.
        self._loading_until = self._full_until = 0.0
        self.connections: dict[int, SimulatedConnection] = {}
        self.databases: list[dict[bytes, bytes | deque[bytes]]] = [{} for _ in range(DATABASES)]
        #: when each item of a list was popped, and by which connection
        self.popped: dict[bytes, tuple[float, int]] = {}
        #: how often each key was set by a SET, in all databases
        self.times_set: Counter[bytes] = Counter()
        # The number of the last change, by (database, key), for WATCH.
        self._changed: dict[tuple[int, bytes], int] = {}
        self._changes = 0
        self._stalled: Event | None = None
        # The connection whose script runs, and since when. None: nobody's here.
        self._runs_script: tuple[SimulatedConnection | None, float] | None = None
        # Whether it runs a command that takes long.
        self._runs_long = False
        self._ready: deque[SimulatedConnection] = deque()

    # Faults.

    def stall(self, seconds: float) -> None:
        """Does nothing for so many seconds."""
        if self._stalled is None:
            self._stalled = self.world.after(seconds, self._go_on)
            self._check()

    def _go_on(self) -> None:
        self._stalled = None
        self._check()
        self._run_ready()

    def _run_ready(self) -> None:
        ready, self._ready = self._ready, deque()
        for connection in ready:
            if connection.may_run:
                connection.run()
            else:
                self.wait(connection)

    def run_script(self, connection: SimulatedConnection, seconds: float, reply: bytes) -> None:
        """Runs a script for so many seconds. Its connection gets the reply after that."""
        self._runs_script = connection, self.world.now
        if seconds > BUSY_AFTER:
            self.world.after(BUSY_AFTER, self._run_ready)
        self.world.after(seconds, self._script_ended, connection, reply)

    def run_long(self, connection: SimulatedConnection, seconds: float, reply: bytes) -> None:
        """Runs a command for so many seconds, and nothing else meanwhile. Its connection gets the
        reply after that, and goes on first: Redis runs all that it has read from it.
        """
        self._runs_long = True
        self.world.after(seconds, self._long_ended, connection, reply)

    def _long_ended(self, connection: SimulatedConnection, reply: bytes) -> None:
        self._runs_long = False
        connection.unblock(reply)
        self._run_ready()

    def keep_busy(self, seconds: float) -> None:
        """Runs somebody else's script for so many seconds more. It takes too long already."""
        if self._runs_script is None:
            self._runs_script = None, self.world.now - BUSY_AFTER
            self.world.after(seconds, self._script_ended)

    def _script_ended(self, connection: SimulatedConnection | None = None, reply: bytes = b"") -> None:
        self._runs_script = None
        if connection is not None:
            connection.say(reply)
            self.wait(connection)
        self._run_ready()

    @property
    def stalled(self) -> bool:
        """Whether Redis does nothing now."""
        return self._runs_long or self._stalled is not None or (self._runs_script is not None and not self.busy)

    @property
    def busy(self) -> bool:
        """Whether a script runs for too long."""
        return self._runs_script is not None and self.world.now - self._runs_script[1] >= BUSY_AFTER - 1e-9

    def runs_script_of(self, connection: SimulatedConnection) -> bool:
        """Whether the script that runs now came over this connection."""
        return self._runs_script is not None and self._runs_script[0] is connection

    def wait(self, connection: SimulatedConnection) -> None:
        """Lets a connection run when Redis goes on."""
        if connection not in self._ready:
            self._ready.append(connection)

    def stop(self) -> None:
        """Crashes: connections are reset, and none is accepted until `start`. The data stays."""
        self.listens = False
        self._check()
        for connection in list(self.connections.values()):
            connection.leave()
            connection.end.reset_peer()

    def start(self, loading: float = 0.0) -> None:
        """Listens again. loading: seconds for which it loads its data."""
        self.listens = True
        if loading:
            self._loading_until = self.world.now + loading
            self.world.after(loading, self._check)
        self._check()

    def fill(self, seconds: float) -> None:
        """Has too many clients for so many seconds: takes no further ones."""
        self._full_until = max(self._full_until, self.world.now + seconds)
        self.world.after(seconds, self._check)
        self._check()

    @property
    def loading(self) -> bool:
        """Whether it loads its data."""
        return self.world.now < self._loading_until

    @property
    def full(self) -> bool:
        """Whether it takes no further clients."""
        return self.world.now < self._full_until

    def _check(self) -> None:
        """Notes whether it is well."""
        if self.listens and not (self._stalled is not None or self.loading or self.full):
            if self.unwell_since is not None:
                self.unwell_periods.append((self.unwell_since, self.world.now))
            self.unwell_since = None
        elif self.unwell_since is None:
            self.unwell_since = self.world.now

    def was_unwell(self, since: float) -> bool:
        """Whether it was unwell at any time since then."""
        last = self.unwell_periods[-1][1] if self.unwell_periods else 0.0
        return self.unwell_since is not None or last >= since

    def seconds_well(self, since: float) -> float:
        """Returns for how many seconds it was well since then."""
        now = self.world.now
        periods = [*self.unwell_periods, (now if self.unwell_since is None else self.unwell_since, now)]
        return now - since - sum(max(0.0, until - max(began, since)) for began, until in periods)

    def cut_one(self) -> None:
        """Has one connection end within what it sends next, after any number of bytes."""
        if self.connections:
            connection = self.world.rng.choice(list(self.connections.values()))
            connection.cut_after = self.world.rng.choice([0, 1, 3, 5, 8, 20, 100, 5000])

    def cut_anywhere(self, reading: bool) -> None:
        """Has one connection end within what it sends, or reads, after any number of bytes."""
        if self.connections:
            connection = self.world.rng.choice(list(self.connections.values()))
            size = int(2 ** self.world.rng.uniform(0, 18))
            if reading:
                connection.cut_reading = size
            else:
                connection.cut_after = size

    def vanish(self) -> None:
        """Its machine is gone: nobody answers, and no connection ends. The data stays."""
        self.listens = False
        self._check()
        for connection in list(self.connections.values()):
            connection.leave()

    def kick(self, seconds: float) -> None:
        """Closes all connections, and takes no further ones for so many seconds."""
        self.fill(seconds)
        for connection in list(self.connections.values()):
            connection.leave()
            connection.end.close()

    def kill_one(self) -> None:
        """Closes one connection, like CLIENT KILL."""
        if self.connections:
            connection = self.world.rng.choice(list(self.connections.values()))
            connection.leave()
            connection.end.close()

    # Data.

    def touch(self, database: int, key: bytes) -> None:
        """Notes that a key has changed."""
        self._changes += 1
        self._changed[database, key] = self._changes

    def version(self, database: int, key: bytes) -> int:
        """Returns a number that differs after each change of the key."""
        return self._changed.get((database, key), 0)

    def serve(self, database: int, key: bytes) -> None:
        """Gives the items of a list to the clients that wait for it, in the order in which they
        began to wait.
        """
        waiting = [each for each in self.connections.values() if each.blocked_on == (database, key)]
        for each in sorted(waiting, key=lambda each: each.blocked_since):
            if not self.databases[database].get(key):
                return
            each.unblock(each.pop(key))

    def publish(self, channel: bytes, message: bytes) -> int:
        heard = 0
        for each in list(self.connections.values()):
            if channel in each.channels:
                heard += 1
                each.say(array([bulk(b"message"), bulk(channel), bulk(message)], each.pushes))
        return heard


class SimulatedConnection:
    """One connection of the simulated Redis."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.number = redis.world.number()
        self.end = Socket(redis.world)
        self.end.changed = self._changed
        self.database = 0
        self.protocol = 2
        self.channels: dict[bytes, None] = {}
        self.blocked_on: tuple[int, bytes] | None = None
        self.blocked_since = 0
        self._timeout: Event | None = None
        self._logged_in = False
        self._buffer = bytearray()
        self._replies = bytearray()
        self._queued: list[list[bytes]] | None = None
        self._spoiled = False
        self._watched: dict[tuple[int, bytes], int] = {}
        self._gone = False
        # Whether it ends when all replies are written, after a QUIT.
        self._quits = False
        #: how many bytes it still sends, or reads, before its connection ends; None: any number
        self.cut_after: int | None = None
        self.cut_reading: int | None = None
        redis.connections[self.number] = self

    def begin(self) -> None:
        """It is connected: Redis may have too many clients."""
        if self.redis.full:
            self.say(b"-ERR max number of clients reached\r\n")
            self.leave()
            self.end.close()

    @property
    def pushes(self) -> bytes:
        """The type byte of messages."""
        return b">" if self.protocol == 3 else b"*"

    def leave(self) -> None:
        """Removes the connection from Redis."""
        if not self._gone:
            self._gone = True
            self.redis.connections.pop(self.number)
            if self._timeout is not None:
                self._timeout.cancel()
            self.blocked_on = None

    def _changed(self) -> None:
        if self._gone and not self._quits:
            return
        if self._replies:
            self._write()
        if self.end.readable and not self._gone:
            if self.may_run:
                self.run()
            else:
                self.redis.wait(self)

    @property
    def may_run(self) -> bool:
        """Whether Redis reads this connection now."""
        return not (self.redis.stalled or self.redis.runs_script_of(self))

    def run(self) -> None:
        """Reads, and runs the commands."""
        if self._gone:
            return
        try:
            while data := self.end.recv(65536 if self.cut_reading is None else min(65536, self.cut_reading)):
                self._buffer += data
                if self.cut_reading is not None:
                    self.cut_reading -= len(data)
                    if not self.cut_reading:
                        return self._cut_now()
            ended = True
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if not ended:
            self._do_all()
            return
        # Redis notices the end of file of a blocked client and frees it. The commands of a client
        # that is not blocked run first.
        if self.blocked_on is None:
            self._do_all()
        self.leave()
        self.end.close()

    def _cut_now(self) -> None:
        """The connection ends, perhaps within a command. What is whole is run."""
        self._do_all()
        self.leave()
        self.end.close()
        self.redis.cut()

    def _do_all(self) -> None:
        while self.blocked_on is None and not self._gone and self.may_run and (words := self._words()) is not None:
            reply = self._do(words)
            if reply:
                self.say(reply)

    def _words(self) -> list[bytes] | None:
        buffer = self._buffer
        if not buffer.startswith(b"*") or (position := buffer.find(b"\r\n")) < 0:
            return None
        words = []
        count, position = int(buffer[1:position]), position + 2
        for _ in range(count):
            end = buffer.find(b"\r\n", position)
            if end < 0:
                return None
            size = int(buffer[position + 1 : end])
            if len(buffer) < end + 4 + size:
                return None
            words.append(bytes(buffer[end + 2 : end + 2 + size]))
            position = end + 4 + size
        del buffer[:position]
        return words

    def say(self, reply: bytes) -> None:
        self._replies += reply
        self._write()

    def _write(self) -> None:
        try:
            while self._replies:
                if self.cut_after is not None and self.cut_after <= len(self._replies):
                    if self.cut_after:
                        self.end.send(self._replies[: self.cut_after])
                    self._replies.clear()
                    self.leave()
                    self.end.close()
                    self.redis.cut()
                    return
                size = self.end.send(self._replies)
                if self.cut_after is not None:
                    self.cut_after -= size
                del self._replies[:size]
        except BlockingIOError:
            return
        except OSError:
            self._replies.clear()
        if self._quits:
            self.end.close()

    # Blocking.

    def _block(self, key: bytes, seconds: float) -> None:
        self.blocked_on = (self.database, key)
        self.blocked_since = self.redis.world.number()
        if seconds:
            self._timeout = self.redis.world.after(seconds, self.unblock, b"*-1\r\n" if self.protocol == 2 else b"_\r\n")

    def unblock(self, reply: bytes) -> None:
        """Ends the wait of a blocked command with this reply."""
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        self.blocked_on = None
        self.say(reply)
        if self.may_run:
            self._do_all()
        else:
            self.redis.wait(self)

    def pop(self, key: bytes) -> bytes:
        """Takes the first item of a list. Returns the reply to BLPOP."""
        items = self.redis.databases[self.database][key]
        item = items.popleft()
        if not items:
            del self.redis.databases[self.database][key]
        self.redis.popped[item] = (self.redis.world.now, self.number)
        self.redis.touch(self.database, key)
        return array([bulk(key), bulk(item)])

    # Commands.

    def _do(self, words: list[bytes]) -> bytes:
        name = words[0].upper()
        command = _COMMANDS.get(name)
        if command is None:
            self._spoiled = True
            return b"-ERR unknown command '%b'\r\n" % words[0]
        if not self._logged_in and name not in (b"AUTH", b"HELLO"):
            return b"-NOAUTH Authentication required.\r\n"
        if self.redis.loading and name not in (b"AUTH", b"HELLO", b"SELECT", b"QUIT"):
            return b"-LOADING Redis is loading the dataset in memory\r\n"
        if self.redis.busy and name not in _WHILE_BUSY:
            self._spoiled = True
            if name == b"EXEC" and self._queued is not None:
                self._queued = None
                self._watched.clear()
                return b"-EXECABORT Transaction discarded because of: " + BUSY[1:]
            return BUSY
        if self._queued is not None and name not in (b"MULTI", b"EXEC", b"DISCARD", b"WATCH"):
            if name == b"SELECT" and len(words) != 2:
                self._spoiled = True
                return WRONG
            self._queued.append(words)
            return QUEUED
        try:
            return command(self, words[1:])
        except IndexError:
            return WRONG

    def _auth(self, words: list[bytes]) -> bytes:
        password = words[-1]
        if password == self.redis.master:
            self._logged_in = True
        elif password in self.redis.tenants:
            self._logged_in = True
            self.database = self.redis.tenants[password]
        else:
            return b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        return OK

    def _hello(self, words: list[bytes]) -> bytes:
        if len(words) >= 4 and words[1].upper() == b"AUTH":
            reply = self._auth(words[2:4])
            if reply != OK:
                return reply
        if not self._logged_in:
            return b"-NOAUTH HELLO must be called with the client already authenticated\r\n"
        if words:
            self.protocol = int(words[0])
        fields = [bulk(b"server"), bulk(b"redis"), bulk(b"proto"), b":%d\r\n" % self.protocol]
        if self.protocol == 3:
            return b"%%%d\r\n%b" % (len(fields) // 2, b"".join(fields))
        return array(fields)

    def _select(self, words: list[bytes]) -> bytes:
        if len(words) != 1:
            return WRONG
        self.database = int(words[0])
        return OK

    def _get(self, words: list[bytes]) -> bytes:
        value = self._data.get(words[0])
        return NIL[self.protocol] if value is None else bulk(value)

    def _set(self, words: list[bytes]) -> bytes:
        self._data[words[0]] = words[1]
        self.redis.times_set[words[0]] += 1
        self.redis.touch(self.database, words[0])
        return OK

    def _delete(self, words: list[bytes]) -> bytes:
        return b":%d\r\n" % (self._data.pop(words[0], None) is not None)

    def _incr(self, words: list[bytes]) -> bytes:
        value = int(self._data.get(words[0], b"0")) + 1
        self._data[words[0]] = b"%d" % value
        self.redis.touch(self.database, words[0])
        return b":%d\r\n" % value

    def _eval(self, words: list[bytes]) -> bytes:
        """Runs a script. Its text says which: ``get``; ``slow`` and the seconds that it takes;
        ``nested`` and how deep its reply is; else it increases a key.
        """
        if words[0] == b"get":
            return self._get(words[2:])
        if words[0].startswith(b"nested "):
            return self._nested(int(words[0][7:]), words[2])
        reply = self._incr(words[2:])
        if words[0].startswith(b"slow ") and self._queued is None:
            self.redis.run_script(self, float(words[0][5:]), reply)
            return b""
        return reply

    def _nested(self, depth: int, message: bytes) -> bytes:
        """Replies with arrays in arrays, and publishes a message within the innermost."""
        self.say((b"*2\r\n" + bulk(b"level")) * depth + b"*2\r\n" + bulk(b"before"))
        for channel in list(self.channels):
            self.redis.publish(channel, message)
        return bulk(b"behind")

    def _rpush(self, words: list[bytes]) -> bytes:
        items = self._data.setdefault(words[0], deque())
        items.append(words[1])
        self.redis.touch(self.database, words[0])
        size = len(items)
        if self._queued is None:
            self.say(b":%d\r\n" % size)
            self.redis.serve(self.database, words[0])
            return b""
        return b":%d\r\n" % size

    def _lrange(self, words: list[bytes]) -> bytes:
        return array([bulk(item) for item in self._data.get(words[0], ())])

    def _bitcount(self, words: list[bytes]) -> bytes:
        """Replies with the length of a value. If that is ``long`` and a number, it takes so many
        seconds.
        """
        value = self._data.get(words[0], b"")
        reply = b":%d\r\n" % len(value)
        if value.startswith(b"long ") and self._queued is None:
            self.redis.run_long(self, float(value[5:]), reply)
            return b""
        return reply

    def _time(self, words: list[bytes]) -> bytes:
        micros = round(self.redis.world.now * 1_000_000)
        return array([bulk(b"%d" % (micros // 1_000_000)), bulk(b"%d" % (micros % 1_000_000))])

    def _blpop(self, words: list[bytes]) -> bytes:
        if self._data.get(words[0]):
            return self.pop(words[0])
        self._block(words[0], float(words[1]))
        return b""

    def _quit(self, words: list[bytes]) -> bytes:
        self.leave()
        self._quits = True
        self.say(OK)
        return b""

    def _ping(self, words: list[bytes]) -> bytes:
        if self.channels and self.protocol == 2:
            return array([bulk(b"pong"), bulk(words[0] if words else b"")])
        return bulk(words[0]) if words else b"+PONG\r\n"

    def _echo(self, words: list[bytes]) -> bytes:
        return bulk(words[0])

    def _publish(self, words: list[bytes]) -> bytes:
        return b":%d\r\n" % self.redis.publish(words[0], words[1])

    def _subscribe(self, words: list[bytes]) -> bytes:
        replies = []
        for channel in words:
            self.channels[channel] = None
            replies.append(array([bulk(b"subscribe"), bulk(channel), b":%d\r\n" % len(self.channels)], self.pushes))
        return b"".join(replies)

    def _unsubscribe(self, words: list[bytes]) -> bytes:
        replies = []
        for channel in words or list(self.channels):
            self.channels.pop(channel, None)
            replies.append(array([bulk(b"unsubscribe"), bulk(channel), b":%d\r\n" % len(self.channels)], self.pushes))
        if not replies:
            nothing = NIL[self.protocol]
            replies.append(array([bulk(b"unsubscribe"), nothing, b":0\r\n"], self.pushes))
        return b"".join(replies)

    def _info(self, words: list[bytes]) -> bytes:
        return bulk(b"# Server\r\nredis_version:7.0.0\r\n" + b"x:1\r\n" * 50)

    def _multi(self, words: list[bytes]) -> bytes:
        if self._queued is not None:
            return b"-ERR MULTI calls can not be nested\r\n"
        self._queued, self._spoiled = [], False
        return OK

    def _exec(self, words: list[bytes]) -> bytes:
        if self._queued is None:
            return b"-ERR EXEC without MULTI\r\n"
        queued = self._queued
        watched, self._watched = self._watched, {}
        if self._spoiled:
            self._queued = None
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        if any(self.redis.version(*key) != version for key, version in watched.items()):
            self._queued = None
            return NIL[3] if self.protocol == 3 else b"*-1\r\n"
        # Like Redis before 7.2: in RESP3 a message to this client comes within the reply.
        self.say(b"*%d\r\n" % len(queued))
        for words in queued:
            self.say(_COMMANDS[words[0].upper()](self, words[1:]))
        self._queued = None
        for words in queued:
            if words[0].upper() == b"RPUSH":
                self.redis.serve(self.database, words[1])
        return b""

    def _discard(self, words: list[bytes]) -> bytes:
        if self._queued is None:
            return b"-ERR DISCARD without MULTI\r\n"
        self._queued = None
        self._watched.clear()
        return OK

    def _watch(self, words: list[bytes]) -> bytes:
        if self._queued is not None:
            return b"-ERR WATCH inside MULTI is not allowed\r\n"
        for key in words:
            self._watched.setdefault((self.database, key), self.redis.version(self.database, key))
        return OK

    def _client(self, words: list[bytes]) -> bytes:
        assert words[0] == b"SETNAME", words
        return OK

    def _unwatch(self, words: list[bytes]) -> bytes:
        self._watched.clear()
        return OK

    @property
    def _data(self) -> dict:
        return self.redis.databases[self.database]


_COMMANDS: dict[bytes, Callable[[SimulatedConnection, list[bytes]], bytes]] = {
    b"AUTH": SimulatedConnection._auth,
    b"HELLO": SimulatedConnection._hello,
    b"CLIENT": SimulatedConnection._client,
    b"SELECT": SimulatedConnection._select,
    b"GET": SimulatedConnection._get,
    b"SET": SimulatedConnection._set,
    b"DEL": SimulatedConnection._delete,
    b"INCR": SimulatedConnection._incr,
    b"EVAL": SimulatedConnection._eval,
    b"RPUSH": SimulatedConnection._rpush,
    b"LRANGE": SimulatedConnection._lrange,
    b"BITCOUNT": SimulatedConnection._bitcount,
    b"TIME": SimulatedConnection._time,
    b"BLPOP": SimulatedConnection._blpop,
    b"PING": SimulatedConnection._ping,
    b"QUIT": SimulatedConnection._quit,
    b"ECHO": SimulatedConnection._echo,
    b"PUBLISH": SimulatedConnection._publish,
    b"SUBSCRIBE": SimulatedConnection._subscribe,
    b"UNSUBSCRIBE": SimulatedConnection._unsubscribe,
    b"INFO": SimulatedConnection._info,
    b"MULTI": SimulatedConnection._multi,
    b"EXEC": SimulatedConnection._exec,
    b"DISCARD": SimulatedConnection._discard,
    b"WATCH": SimulatedConnection._watch,
    b"UNWATCH": SimulatedConnection._unwatch,
}
