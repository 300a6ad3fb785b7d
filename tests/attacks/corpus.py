"""Attempts of one tenant to see, change, slow or stop another: the bytes to send, in several forms.

The attacker is team-blue, database 3. The victim is team-green, database 5. Whatever the attacker
sends, nothing of the victim's may change, and no answer may contain one of its SECRETS.
"""

from __future__ import annotations

from collections.abc import Iterator

from redisproxy.resp.framing import encode
from redisproxy.session.scripts import Scripts

VICTIM_KEY = b"victims-key"
VICTIM_VALUE = b"victims-value"
VICTIM_CHANNEL = b"victims-channel"
VICTIM_NAME = b"victims-connection"
#: None of these may ever reach the attacker. It may name them itself: `spoken` removes an echo of
#: its own words.
SECRETS = (VICTIM_VALUE, b"team-green", b"victims-second-key")

#: One command per line, in words.
COMMANDS = [
    line.split()
    for line in b"""
    SELECT 5
    SELECT 0
    SELECT 05
    SELECT -1
    SELECT 5.0
    SELECT +5
    SELECT 4294967301
    SWAPDB 3 5
    SWAPDB 5 3
    SWAPDB 0 5
    MOVE attackers-key 5
    COPY attackers-key victims-key DB 5 REPLACE
    COPY attackers-key victims-key REPLACE DB 5
    COPY attackers-key victims-key DB 3 DB 5
    COPY victims-key attackers-key DB 5
    FLUSHALL
    FLUSHALL SYNC
    FLUSHALL ASYNC
    MIGRATE 127.0.0.1 6379 attackers-key 5 1000
    MIGRATE 127.0.0.1 6379 victims-key 5 1000 COPY REPLACE
    RESTORE victims-key 0 x
    RESTORE-ASKING victims-key 0 x
    DEBUG SLEEP 60
    DEBUG RELOAD
    DEBUG FLUSHALL
    DEBUG OBJECT victims-key
    DEBUG DIGEST
    CONFIG GET requirepass
    CONFIG GET *
    CONFIG GET *pass
    CONFIG GET databases requirepass
    CONFIG GET [r]equirepas?
    CONFIG GET save* *auth *
    CONFIG SET requirepass owned
    CONFIG SET maxmemory 1
    CONFIG SET databases 1
    CONFIG REWRITE
    CONFIG RESETSTAT
    ACL LIST
    ACL WHOAMI
    ACL USERS
    ACL SETUSER evil on nopass ~* &* +@all
    ACL SETUSER default on nopass
    ACL DELUSER redisproxy:team-green:5
    ACL GETUSER redisproxy:team-green:5
    ACL LOG
    ACL CAT
    AUTH default master-password
    AUTH team-green blue-password
    AUTH redisproxy:team-green:5 x
    CLIENT LIST
    CLIENT LIST TYPE pubsub
    CLIENT LIST ID 1 2 3 4 5 6 7 8 9 10
    CLIENT LIST USER team-green
    CLIENT LIST SKIPME yes TYPE normal
    CLIENT KILL TYPE normal
    CLIENT KILL TYPE normal SKIPME no
    CLIENT KILL ID 1 2 3 4 5 6 7 8 9 10
    CLIENT KILL ID 1 ID 2 SKIPME no
    CLIENT KILL USER team-green
    CLIENT KILL MAXAGE 1 SKIPME no
    CLIENT KILL TYPE pubsub
    CLIENT KILL USER redisproxy:team-green:5
    CLIENT PAUSE 60000
    CLIENT PAUSE 60000 ALL
    CLIENT UNPAUSE
    CLIENT NO-EVICT ON
    CLIENT TRACKING ON
    CLIENT TRACKING ON OPTIN
    CLIENT TRACKING ON BCAST
    CLIENT TRACKING ON BCAST PREFIX victims
    CLIENT TRACKING ON REDIRECT 1 BCAST
    CLIENT UNBLOCK 1
    CLIENT UNBLOCK 2 ERROR
    CLIENT GETREDIR
    CLIENT CACHING YES
    CLIENT TRACKINGINFO
    CLUSTER NODES
    CLUSTER INFO
    CLUSTER RESET HARD
    CLUSTER FLUSHSLOTS
    READONLY
    READWRITE
    ASKING
    FAILOVER
    REPLICAOF NO ONE
    REPLICAOF 127.0.0.1 1
    SLAVEOF 127.0.0.1 1
    ROLE
    REPLCONF listening-port 1
    REPLCONF ACK 0
    SYNC
    PSYNC ? -1
    MONITOR
    SAVE
    BGSAVE
    BGREWRITEAOF
    LASTSAVE
    SHUTDOWN
    SHUTDOWN NOSAVE
    SHUTDOWN NOSAVE NOW FORCE
    SLOWLOG GET
    SLOWLOG RESET
    COMMANDLOG GET 10 slow
    LATENCY HISTORY command
    LATENCY RESET
    LATENCY DOCTOR
    MEMORY STATS
    MEMORY DOCTOR
    MEMORY PURGE
    MEMORY MALLOC-STATS
    MODULE LIST
    RESTORE attackers-key 0 x REPLACE
    MODULE LOAD /tmp/evil.so
    MODULE UNLOAD x
    FUNCTION LIST
    FUNCTION FLUSH
    FUNCTION DUMP
    FUNCTION STATS
    FUNCTION KILL
    FUNCTION DELETE victimslib
    FCALL victimsfunction 0
    FCALL_RO victimsfunction 0
    SCRIPT FLUSH
    SCRIPT KILL
    SCRIPT DEBUG YES
    SCRIPT DEBUG SYNC
    PFDEBUG GETREG victims-key
    PFSELFTEST
    PUBLISH victims-channel spoofed
    PUBLISH team-green:victims-channel spoofed
    PUBLISH ../team-green:victims-channel spoofed
    SPUBLISH victims-channel spoofed
    SPUBLISH team-green:victims-channel spoofed
    PUBLISH __keyspace@5__:victims-key del
    PUBSUB CHANNELS
    PUBSUB CHANNELS *
    PUBSUB CHANNELS team-green:*
    PUBSUB NUMSUB team-green:victims-channel victims-channel
    PUBSUB SHARDCHANNELS
    PUBSUB SHARDNUMSUB victims-channel
    SUBSCRIBE __keyspace@5__:victims-key
    SUBSCRIBE __keyevent@5__:set
    PSUBSCRIBE __keyspace@*__:*
    PSUBSCRIBE __keyevent@?__:*
    PSUBSCRIBE __keyevent@5__:*
    PSUBSCRIBE [_]_keyspace@5__:victims-key
    PSUBSCRIBE *
    PSUBSCRIBE *victims*
    INFO
    INFO ALL
    INFO everything
    INFO clients
    INFO keyspace
    INFO commandstats
    INFO errorstats
    INFO replication
    INFO modules
    KEYS *
    SCAN 0 COUNT 1000
    SCAN 0 MATCH victims*
    RANDOMKEY
    DBSIZE
    GET victims-key
    OBJECT ENCODING victims-key
    DUMP victims-key
    SORT victims-key BY * GET *
    MSET victims-key owned other owned
    DEL victims-key
    RENAME attackers-key victims-key
    FLUSHDB
    RESET
    HELLO 3 AUTH team-green blue-password
    HELLO 3 AUTH default master-password
    COMMAND GETKEYS SELECT 5
    NOSUCHCOMMAND 5
    WAIT 0 1
    """.decode()
    .strip()
    .encode()
    .splitlines()
]

#: Scripts that publish to the victim: the proxy puts the attacker's prefix before the channel in a
#: script that it takes for a publishing one, and these try to get past that.
PUBLISHING = [
    *(
        b"return %b('%b', '%b%b', 'spoofed')" % (call, name, prefix, VICTIM_CHANNEL)
        for prefix in (b"", b"team-green:", b"../team-green:", b"\\0team-green:", b"\\r\\nteam-green:", b"*", b"team-?????:")
        for call, name in (
            (b"redis.call", b"PUBLISH"),
            (b"redis.pcall", b"publish"),
            (b"redis['call']", b"pUbLiSh"),
            (b"redis.call", b"SPUBLISH"),
            (b"_G.redis.call", b"PUBLISH"),
            (b"rawget(_G, 'redis').pcall", b"PUBLISH"),
            # not taken for publishing ones
            (b"redis.call", b"PUB' .. 'LISH"),
            (b"redis.call", b"\\80UBLISH"),
            (b"redis.call", b"\\112\\117\\098\\108\\105\\115\\104"),
        )
    ),
    # How Valkey also calls redis.
    b"return server.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"return _G.server.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    # The functions behind those that put the prefix before the channel.
    b"local r = getmetatable(redis).__newindex return r.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"local r = getmetatable(getmetatable(redis).__index).__index return r.call('PUBLISH', 'team-green:victims-channel', 1)",
    b"setmetatable(redis, nil) return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"rawset(getmetatable(redis).__index, 'call', _G.redis.call) return redis.call('PUBLISH', 'team-green:victims-channel', 1)",
    b"redis.call = _G.redis.call return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"return loadstring([[return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')]])()",
    b"return coroutine.wrap(_G.redis.call)('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"return select(2, pcall(_G.redis.call, 'PUBLISH', 'team-green:victims-channel', 'spoofed'))",
    b"local _, f = pcall(function() return redis.call end) return f('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    # The functions that those use.
    b"string.upper = function() return '' end return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"string.find = function() end return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"rawset(string, 'find', function() end) return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"type = function() return 'x' end return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"getmetatable('').__concat = function(a, b) return b end return redis.call('PUBLISH', 'team-green:victims-channel', 1)",
    # Channels and names that are no strings.
    b"local c = setmetatable({}, {__concat = function() return 'team-green:victims-channel' end}) redis.call('PUBLISH', c, 1)",
    b"local c = setmetatable({}, {__tostring = function() return 'team-green:victims-channel' end}) redis.call('PUBLISH', c, 1)",
    b"local n = setmetatable({}, {__tostring = function() return 'PUBLISH' end}) redis.call(n, 'team-green:victims-channel', 1)",
    b"return redis.call({'PUBLISH'}, 'team-green:victims-channel', 'spoofed')",
    b"return redis.call('PUBLISH ', 'team-green:victims-channel', 'spoofed')",
    b"return redis.call('PUBLISH\\0', 'team-green:victims-channel', 'spoofed')",
    b"return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed', 'publish')",
    b"return redis.call('PUBLISH|x', 'team-green:victims-channel', 'spoofed')",
    b"return redis.call('MULTI'), redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed'), redis.call('EXEC')",
    b"return redis.call('EVAL', [[return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')]], 0)",
    b"redis.set_repl(redis.REPL_ALL) return _G.redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"redis.setresp(3) return _G.redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    # Texts that end, or comment out, what the proxy puts before them.
    b")(redis, 'team-green:'); return redis.call('PUBLISH', 'victims-channel', 'spoofed')",
    b"'); return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed') --",
    b"end) return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"]] return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed') --[[",
    b"local redis = _G.redis return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"redis = nil return redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"\n#!lua\nreturn redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    b"#!lua name='x\nreturn redis.call('PUBLISH', 'team-green:victims-channel', 'spoofed')",
    # The text as the proxy makes it for the victim.
    Scripts(b"team-green:").rewrite(b"return redis.call('PUBLISH', 'victims-channel', 'spoofed')").text,
]

#: Scripts, for servers on which tenants may run scripts.
SCRIPTS = [
    *PUBLISHING,
    b"return redis.call('SELECT', 5)",
    b"redis.call('select', 5) return redis.call('GET', 'victims-key')",
    b"redis.pcall('SELECT', 5) redis.pcall('SET', 'victims-key', 'owned') return 1",
    b"return redis.call('SWAPDB', 3, 5)",
    b"redis.call('SET', 'attackers-key', 'x') return redis.call('MOVE', 'attackers-key', 5)",
    b"redis.call('SET', 'attackers-key', 'x') return redis.call('COPY', 'attackers-key', 'victims-key', 'DB', 5, 'REPLACE')",
    b"return redis.call('FLUSHALL')",
    b"return redis.call('PUBSUB', 'CHANNELS', '*')",
    b"return redis.call('CONFIG', 'GET', 'requirepass')",
    b"return redis.call('ACL', 'LIST')",
    b"return redis.call('ACL', 'WHOAMI')",
    b"return redis.call('CLIENT', 'LIST')",
    b"return redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub')",
    b"return redis.call('INFO')",
    b"return redis.call('DEBUG', 'SLEEP', '60')",
    b"return redis.call('SCRIPT', 'FLUSH')",
    b"return redis.call('FUNCTION', 'LIST')",
    b"return redis.call('FCALL', 'victimsfunction', 0)",
    b"return redis.call('SLAVEOF', 'NO', 'ONE')",
    b"return redis.call('MEMORY', 'STATS')",
    b"return redis.call('LATENCY', 'RESET')",
    b"return redis.call('SLOWLOG', 'GET')",
    b"return redis.call('KEYS', '*')",
    b"return redis.call('GET', 'victims-key')",
    # Objects that all users' scripts share, on a server that does not seal them.
    b"getmetatable('').__index = function() return 'owned' end return 1",
    b"getmetatable('').__add = function() return 'owned' end return 1",
    b"string.rep = function() return 'owned' end return 1",
    b"rawset(_G, 'tostring', function() return 'owned' end) return 1",
    b"rawset(redis, 'call', function() return 'owned' end) return 1",
    b"setfenv(0, {}) return 1",
    b"getfenv(0).tostring = false return 1",
    b"redis.call = nil return 1",
    b"return redis.error_reply('ERR x\\r\\n+OK\\r\\n$3\\r\\nbad')",
    b"return redis.status_reply('OK\\r\\n$13\\r\\nvictims-value')",
    b"return {1, {2, {3, redis.error_reply('E \\n*1')}}, false, 'a\\r\\n+b'}",
    b"return {ok='a\\r\\n-ERR', err='b'}",
    b"return {double=3.14}",
    b"local t = {} for i = 1, 5000 do t[i] = {} end return t",
    b"redis.setresp(3) return redis.call('HGETALL', 'none')",
]

#: Framing tricks, sent as they are. _INNER reads the victim's key in database 5 if the proxy misses
#: a boundary.
_INNER = encode([b"SELECT", b"5"]) + encode([b"GET", VICTIM_KEY])
FRAMING = [
    b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(_INNER), _INNER),
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n" + b"\r\n\r\n" + _INNER,
    b"*2\r\n$03\r\nGET\r\n$1\r\na\r\n" + _INNER,
    b"*+2\r\n$3\r\nGET\r\n$1\r\na\r\n" + _INNER,
    b"*2\r\n$+3\r\nGET\r\n$1\r\na\r\n" + _INNER,
    b"*2\r\n$3 \r\nGET\r\n$1\r\na\r\n" + _INNER,
    b"*1_0\r\n" + _INNER,
    b"*02\r\n$6\r\nSELECT\r\n$1\r\n5\r\n" + _INNER,
    b"*2\r\n$6\r\nSELECT\r\n$01\r\n5\r\n" + _INNER,
    b"*-1\r\n*0\r\n*-2\r\n" + _INNER,
    b"*2\n$6\nSELECT\n$1\n5\n" + _INNER,
    b"*2\rX$6\rXSELECT\rX$1\rX5\rX" + _INNER,
    b"*2\r\n$6\r\nSELECTXX$1\r\n5\r\n" + _INNER,
    b"*2\r\n$3\r\nGET\r\n$1\r\naXX" + _INNER,
    b"*2\r\n$3\r\nGET\r\n$-1\r\n" + _INNER,
    b"*2\r\n$3\r\nGET\r\n$2147483648\r\n" + _INNER,
    b"*2\r\n$3\r\nGET\r\n$18446744073709551615\r\n" + _INNER,
    b"*2\r\n$3\r\nGET\r\n$-9223372036854775808\r\n" + _INNER,
    b"*4294967298\r\n$6\r\nSELECT\r\n$1\r\n5\r\n",
    b"*18446744073709551618\r\n$6\r\nSELECT\r\n$1\r\n5\r\n",
    b"*1000000000\r\n$6\r\nSELECT\r\n$1\r\n5\r\n",
    b"*2\r\n$7\r\nSELECT\x00\r\n$1\r\n5\r\n",
    b"*2\r\n$7\r\n\x00SELECT\r\n$1\r\n5\r\n",
    b"*2\r\n$7\r\nSELECT \r\n$1\r\n5\r\n",
    b"*2\r\n$6\r\nSELECT\r\n$2\r\n5\x00\r\n",
    b"*2\r\n$6\r\nSELECT\r\n$2\r\n5 \r\n",
    b"*2\r\n$6\r\nSELECT\r\n$3\r\n5\r\n\r\n",
    b"*1\r\n$10\r\nSELECT\r\n5\n\r\n" + _INNER,
    b'"\\x53ELECT" 5\r\n',
    b"'SELECT' \"5\"\r\n",
    b'SEL"ECT" 5\r\n',
    b"SELECT\t5\r\n",
    b" SELECT 5\n",
    b"SELECT 5\r\r\n",
    b"\r\n\r\nSELECT 5\r\n",
    b"SELECT 5\x00\r\n",
    b"\x00SELECT 5\r\n",
    b"GET a\x00\r\nSELECT 5\r\n",
    b"GET a\nSELECT 5\nGET victims-key\n",
    b"GET 'a\nSELECT 5\n",
    b"+SELECT 5\r\n",
    b"$6\r\nSELECT\r\n",
    b":5\r\n" + _INNER,
    b">2\r\n$6\r\nSELECT\r\n$1\r\n5\r\n",
    b"%1\r\n$6\r\nSELECT\r\n$1\r\n5\r\n",
    b"|1\r\n$1\r\na\r\n$1\r\nb\r\n" + _INNER,
    b"*2\r\n$6\r\nSeLeCt\r\n$1\r\n5\r\n",
    b"*2\r\n*1\r\n$6\r\nSELECT\r\n$1\r\n5\r\n",
    b"GET " + b"x" * 65520 + b"\r\nSELECT 5\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\n*2\r\n$\r\n" + _INNER,
]


def _inline(words: list[bytes]) -> bytes:
    return b" ".join(b'"' + b"".join(b"\\x%02x" % byte for byte in word) + b'"' for word in words) + b"\r\n"


def attempts(scripts: bool = True) -> Iterator[tuple[str, bytes]]:
    """Yields (form and command, bytes to send on a connection that has logged in)."""
    hello = encode([b"HELLO", b"3"])
    for words in COMMANDS:
        label = b" ".join(words).decode()
        swapped = [words[0].swapcase(), *words[1:]]
        yield f"resp2: {label}", encode(words)
        yield f"resp3: {label}", hello + encode(swapped)
        yield f"inline: {label}", _inline(words)
        yield f"multi: {label}", encode([b"MULTI"]) + encode(words) + encode([b"EXEC"])
        yield f"pipelined: {label}", encode([b"SET", b"attackers-key", b"x"]) + encode(words) + encode([b"GET", VICTIM_KEY])
    if scripts:
        for script in SCRIPTS:
            label = script.decode()[:60]
            yield f"eval: {label}", encode([b"EVAL", script, b"0"])
            yield f"eval in resp3: {label}", hello + encode([b"EVAL", script, b"0"])
            yield f"eval in multi: {label}", encode([b"MULTI"]) + encode([b"EVAL", script, b"0"]) + encode([b"EXEC"])
    for data in FRAMING:
        yield f"framing: {data[:40]!r}", data
