<?php

// A session of phpredis, and of PHP's own sessions in Redis.
require __DIR__ . '/steps.php';

show('version', phpversion('redis'));

function client(?string $with = null): Redis
{
    global $port, $password, $index;
    $made = new Redis();
    $made->connect('127.0.0.1', $port, 5);
    $made->auth($with ?? $password);
    $made->select($index);
    return $made;
}

$redis = client();
$redis->flushDB();

step('types', function () use ($redis) {
    $redis->hMSet('hash', ['one' => 1, 'two' => 2]);
    $redis->zAdd('sorted', 1.5, 'low', 2.5, 'high');
    $redis->sAdd('set', 'a');
    $redis->rPush('list', 'a', 'b');
    return [$redis->set('key', 'value', 100), $redis->get('key'), $redis->get('none'), $redis->hGetAll('hash'), $redis->zRange('sorted', 0, -1, true), $redis->sMembers('set'), $redis->lRange('list', 0, -1)];
});
step('an error of a type', fn () => [$redis->lPush('key', 'x'), $redis->getLastError()]);
step('a value of 20 MiB', function () use ($redis) {
    $large = str_repeat('x', 20 << 20);
    $redis->set('large', $large);
    return [$redis->get('large') === $large, $redis->del('large')];
});
step('serialized values with a prefix', function () {
    $own = client();
    $own->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_PHP);
    $own->setOption(Redis::OPT_PREFIX, 'app:');
    $own->set('object', ['a' => [1, 2]]);
    return [$own->get('object'), client()->exists('app:object')];
});
step('a pipeline of 2,000 commands, with an error', function () use ($redis) {
    $pipe = $redis->multi(Redis::PIPELINE);
    for ($i = 0; $i < 1000; $i++) {
        $pipe->set("key:$i", $i)->incr('sum');
    }
    $replies = $pipe->lPush('sum', 'x')->exec();
    return [count($replies), $replies[1999], $replies[2000]];
});
step('MULTI', fn () => $redis->multi()->set('a', 1)->incr('a')->get('a')->exec());
step('WATCH, changed meanwhile', function () use ($redis) {
    $redis->watch('a');
    client()->set('a', 'changed');
    return [$redis->multi()->set('a', 'never')->exec(), $redis->get('a')];
});
step('a script by EVALSHA, unknown at first', function () use ($redis) {
    $script = '-- ' . random_int(0, PHP_INT_MAX) . "\nredis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])";
    $unknown = [$redis->evalSha(sha1($script), ['key', 'one'], 1), substr($redis->getLastError(), 0, 8)];
    return [$unknown, $redis->eval($script, ['key', 'one'], 1), $redis->evalSha(sha1($script), ['key', 'two'], 1)];
});
step('SCAN', function () use ($redis) {
    $found = [];
    $redis->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
    $cursor = null;
    while ($keys = $redis->scan($cursor, 'key:*', 50)) {
        $found = array_merge($found, $keys);
    }
    return count(array_unique($found));
});
step('BLPOP that waits, and one that waits in vain', function () {
    later(100, fn () => client()->rPush('queue', 'job'));
    $waiting = client();
    return [$waiting->blPop('first', 'queue', 10), $waiting->blPop('queue', 1), $waiting->ping()];
});
step('a stream with a group', function () use ($redis) {
    $redis->xGroup('CREATE', 'stream', 'group', '0', true);
    $id = $redis->xAdd('stream', '*', ['field' => 'value']);
    $read = $redis->xReadGroup('group', 'me', ['stream' => '>'], 10, 1000);
    return [array_values($read['stream']), $redis->xPending('stream', 'group')[0], $redis->xAck('stream', 'group', [$id])];
});
// The loop of a subscriber ends with an exception, at the time-out: this version of phpredis reads on
// after an unsubscription in the callback.
function heard(string $how, string $what): array
{
    $heard = [];
    $listener = client();
    $listener->setOption(Redis::OPT_READ_TIMEOUT, 2);
    try {
        $listener->$how([$what], function ($redis, ...$all) use (&$heard) {
            $heard[] = end($all);
        });
    } catch (RedisException $error) {
        return [$heard, str_starts_with($error->getMessage(), 'read error') ? 'timed out' : $error->getMessage()];
    }
    return [$heard];
}

step('pub/sub with patterns', function () {
    later(500, fn () => client()->publish('news', 'hello'));
    return heard('psubscribe', 'n?ws');
});
step('__keyevent@INDEX__ expired', function () use ($index) {
    later(500, function () {
        $other = client();
        $other->psetex('gone', 20, 1);
        usleep(50000);
        $other->exists('gone');
    });
    return heard('psubscribe', "__keyevent@{$index}__:expired");
});
step('persistent connections', function () use ($port, $password, $index) {
    $found = [];
    foreach ([1, 2] as $_) {
        $own = new Redis();
        $own->pconnect('127.0.0.1', $port, 5, 'mine');
        $own->auth($password);
        $own->select($index);
        $found[] = $own->incr('persistent');
    }
    return $found;
});
step("PHP's sessions, with a lock", function () use ($port, $password, $index) {
    ini_set('session.save_handler', 'redis');
    ini_set('session.save_path', "tcp://127.0.0.1:$port?auth=$password&database=$index");
    ini_set('redis.session.locking_enabled', '1');
    ini_set('session.use_cookies', '0');
    ini_set('session.cache_limiter', '');
    session_id('mine');
    $first = session_start();
    $_SESSION['user'] = 42;
    session_write_close();
    $_SESSION = [];
    session_start();
    $user = $_SESSION['user'] ?? null;
    return [$first, $user, session_destroy(), client()->keys('PHPREDIS_SESSION*')];
});
step('the name', fn () => [$redis->client('SETNAME', 'the-session'), $redis->client('GETNAME')]);
step('INFO', fn () => isset($redis->info()['redis_version']));
step('CONFIG GET maxmemory', fn () => $redis->config('GET', 'maxmemory'));
step("CLIENT LIST", function () use ($redis) {
    $redis->clearLastError();
    return [is_array($redis->client("LIST")), $redis->getLastError()];
});
step("ROLE", function () use ($redis) {
    $redis->clearLastError();
    return $redis->role()[0] ?? $redis->getLastError();
});
step('another database', fn () => [$redis->select($index + 1), $redis->select($index)]);
step('log in with a wrong password', fn () => client('not this one')->ping());
