"""Facts about the commands of Redis 6.2 to 8.2 and Valkey up to 9.1, for a server that does not
list its own.

Owns data only, made from these servers' answers to COMMAND. `facts.parse` reads the answer of a
live server.
"""

from __future__ import annotations

#: (facts, the commands that have exactly these facts); subcommands are ``container|subcommand``.
FACTS: tuple[tuple[str, str], ...] = (
    (
        "",
        """
        acl acl|cat acl|genpass acl|help acl|whoami asking auth client client|caching client|capa
        client|getname client|getredir client|help client|id client|import-source client|info
        client|no-touch client|reply client|setinfo client|setname client|tracking
        client|trackinginfo cluster cluster|countkeysinslot cluster|getkeysinslot cluster|help
        cluster|info cluster|keyslot cluster|links cluster|myid cluster|myshardid cluster|nodes
        cluster|shards cluster|slot-stats cluster|slots command commandlog commandlog|help
        command|count command|docs command|getkeys command|getkeysandflags command|help command|info
        command|list config config|help dbsize discard echo exec function hello latency latency|help
        lolwut memory memory|doctor memory|help memory|malloc-stats memory|purge memory|stats module
        module|help multi object object|help ping pubsub pubsub|help quit randomkey readonly
        readwrite reset scan script select slowlog slowlog|help time unwatch xgroup xgroup|help
        xinfo xinfo|help
        """,
    ),
    (
        "blocking",
        """
        wait waitaof
        """,
    ),
    (
        "admin dangerous",
        """
        acl|deluser acl|dryrun acl|getuser acl|list acl|load acl|log acl|save acl|setuser acl|users
        bgrewriteaof bgsave client|kill client|list client|no-evict client|pause client|unblock
        client|unpause cluster|addslots cluster|addslotsrange cluster|bumpepoch
        cluster|cancelslotmigrations cluster|count-failure-reports cluster|delslots
        cluster|delslotsrange cluster|failover cluster|flushslot cluster|flushslots cluster|forget
        cluster|getslotmigrations cluster|meet cluster|migrateslots cluster|replicas
        cluster|replicate cluster|reset cluster|saveconfig cluster|set-config-epoch cluster|setslot
        cluster|slaves cluster|syncslots commandlog|get commandlog|len commandlog|reset config|get
        config|resetstat config|rewrite config|set debug failover lastsave latency|doctor
        latency|graph latency|histogram latency|history latency|latest latency|reset module|list
        module|load module|loadex module|unload monitor pfselftest psync replconf replicaof role
        save shutdown slaveof slowlog|get slowlog|len slowlog|reset sync
        """,
    ),
    (
        "dangerous",
        """
        flushall flushdb info keys swapdb
        """,
    ),
    (
        "keys",
        """
        append bitcount bitfield bitfield_ro bitop bitpos clusterscan copy decr decrby del delifeq
        dump exists expire expireat expiretime geoadd geodist geohash geopos georadius
        georadiusbymember georadiusbymember_ro georadius_ro geosearch geosearchstore get getbit
        getdel getex getrange getset hdel hexists hexpire hexpireat hexpiretime hget hgetall hgetdel
        hgetex hincrby hincrbyfloat hkeys hlen hmget hmset hpersist hpexpire hpexpireat hpexpiretime
        hpttl hrandfield hscan hset hsetex hsetnx hstrlen httl hvals incr incrby incrbyfloat lcs
        lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem lset ltrim memory|usage
        mget move mset msetex msetnx object|encoding object|freq object|idletime object|refcount
        persist pexpire pexpireat pexpiretime pfadd pfcount pfmerge psetex pttl rename renamenx rpop
        rpoplpush rpush rpushx sadd scard sdiff sdiffstore set setbit setex setnx setrange sinter
        sintercard sinterstore sismember smembers smismember smove spop srandmember srem sscan
        stralgo strlen substr sunion sunionstore touch ttl type unlink vadd vcard vdim vemb vgetattr
        vinfo vismember vlinks vrandmember vrem vsetattr vsim watch xack xackdel xadd xautoclaim
        xclaim xdel xdelex xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy
        xgroup|setid xinfo|consumers xinfo|groups xinfo|stream xlen xpending xrange xrevrange xsetid
        xtrim zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount
        zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore zrank
        zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex
        zrevrangebyscore zrevrank zscan zscore zunion zunionstore
        """,
    ),
    (
        "keys blocking",
        """
        blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin xread xreadgroup
        """,
    ),
    (
        "keys admin dangerous",
        """
        pfdebug
        """,
    ),
    (
        "keys dangerous",
        """
        migrate restore restore-asking sort sort_ro
        """,
    ),
    (
        "keys pubsub",
        """
        spublish ssubscribe sunsubscribe
        """,
    ),
    (
        "keys scripting",
        """
        eval evalsha evalsha_ro eval_ro fcall fcall_ro
        """,
    ),
    (
        "pubsub",
        """
        psubscribe publish pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels
        pubsub|shardnumsub punsubscribe subscribe unsubscribe
        """,
    ),
    (
        "scripting",
        """
        function|delete function|dump function|flush function|help function|kill function|list
        function|load function|restore function|stats script|debug script|exists script|flush
        script|help script|kill script|load script|show
        """,
    ),
)
