<?php

// A session of Predis, with the scripts of Laravel's broadcasting, queue and locks.
require __DIR__ . '/steps.php';
require '/usr/share/php/Predis/autoload.php';

show('version', Predis\Client::VERSION);

function client(?string $with = null, ?int $at = null): Predis\Client
{
    global $port, $password, $index;
    $where = ['host' => '127.0.0.1', 'port' => $port, 'password' => $with ?? $password, 'database' => $at ?? $index];
    return new Predis\Client($where + ['read_write_timeout' => 15]);
}

$redis = client();
$redis->flushdb();

// Laravel: Illuminate\Broadcasting\Broadcasters\RedisBroadcaster.
const BROADCAST = <<<'LUA'
for i = 2, #ARGV do
  redis.call('publish', ARGV[i], ARGV[1])
end
LUA;
// Illuminate\Queue\LuaScripts.
const PUSH = <<<'LUA'
redis.call('rpush', KEYS[1], ARGV[1])
redis.call('rpush', KEYS[2], 1)
LUA;
const POP = <<<'LUA'
local job = redis.call('lpop', KEYS[1])
local reserved = false
if(job ~= false) then
    reserved = cjson.decode(job)
    reserved['attempts'] = reserved['attempts'] + 1
    reserved = cjson.encode(reserved)
    redis.call('zadd', KEYS[2], ARGV[1], reserved)
    redis.call('lpop', KEYS[3])
end
return {job, reserved}
LUA;
const MIGRATE = <<<'LUA'
local val = redis.call('zrangebyscore', KEYS[1], '-inf', ARGV[1], 'limit', 0, ARGV[2])
if(next(val) ~= nil) then
    redis.call('zremrangebyrank', KEYS[1], 0, #val - 1)
    for i = 1, #val, 100 do
        redis.call('rpush', KEYS[2], unpack(val, i, math.min(i+99, #val)))
        for j = i, math.min(i+99, #val) do
            redis.call('rpush', KEYS[3], 1)
        end
    end
end
return val
LUA;
// Illuminate\Cache\LuaScripts.
const RELEASE = <<<'LUA'
if redis.call("get",KEYS[1]) == ARGV[1] then
    return redis.call("del",KEYS[1])
else
    return 0
end
LUA;

step('types', function () use ($redis) {
    $redis->hmset('hash', ['one' => 1, 'two' => 2]);
    $redis->zadd('sorted', ['low' => 1.5, 'high' => 2.5]);
    return [(string) $redis->set('key', 'value', 'EX', 100), $redis->get('key'), $redis->get('none'), $redis->hgetall('hash'), $redis->zrange('sorted', 0, -1)];
});
step('an error of a type', fn () => $redis->lpush('key', ['x']));
step('a value of 20 MiB', function () use ($redis) {
    $large = str_repeat('x', 20 << 20);
    $redis->set('large', $large);
    return [$redis->get('large') === $large, $redis->del('large')];
});
step('a pipeline of 2,000 commands', function () use ($redis) {
    $replies = $redis->pipeline(function ($pipe) {
        for ($i = 0; $i < 1000; $i++) {
            $pipe->set("key:$i", $i);
            $pipe->incr('sum');
        }
    });
    return [count($replies), $replies[1999]];
});
step('MULTI', fn () => array_map('strval', $redis->transaction(fn ($t) => $t->set('a', 1) && $t->incr('a') && $t->get('a'))));
step('WATCH, changed meanwhile', function () use ($redis) {
    return $redis->transaction(['watch' => 'a', 'cas' => true, 'retry' => 0], function ($transaction) {
        client()->set('a', 'changed');
        $transaction->multi();
        $transaction->set('a', 'never');
    });
});
step("a script by EVALSHA, unknown at first", function () use ($redis) {
    $script = '-- ' . random_int(0, PHP_INT_MAX) . "\nreturn redis.call('SET', KEYS[1], ARGV[1])";
    try {
        $redis->evalsha(sha1($script), 1, 'key', 'one');
        $unknown = '';
    } catch (Predis\Response\ServerException $error) {
        $unknown = $error->getErrorType();
    }
    return [$unknown, (string) $redis->eval($script, 1, 'key', 'one'), (string) $redis->evalsha(sha1($script), 1, 'key', 'two')];
});
step('BLPOP that waits, and one that waits in vain', function () {
    later(100, fn () => client()->rpush('queue', ['job']));
    $waiting = client();
    return [$waiting->blpop(['first', 'queue'], 10), $waiting->blpop(['queue'], 1), (string) $waiting->ping()];
});
step("Laravel's broadcast script", function () use ($redis) {
    later(300, fn () => client()->eval(BROADCAST, 0, '{"event":"hello"}', 'private-orders', 'private-users'));
    $heard = [];
    $listener = client();
    $loop = $listener->pubSubLoop(['psubscribe' => 'private-*']);
    foreach ($loop as $message) {
        if ($message->kind === 'pmessage') {
            $heard[] = [$message->channel, $message->payload];
            if (count($heard) === 2) {
                $loop->punsubscribe();
            }
        }
    }
    return $heard;
});
step("Laravel's queue", function () use ($redis) {
    $job = json_encode(['id' => 'one', 'attempts' => 0]);
    $redis->eval(PUSH, 2, 'queues:default', 'queues:default:notify', $job);
    $redis->zadd('queues:default:delayed', [json_encode(['id' => 'two', 'attempts' => 0]) => 1]);
    $moved = $redis->eval(MIGRATE, 3, 'queues:default:delayed', 'queues:default', 'queues:default:notify', 100, -1);
    $found = [$moved];
    foreach ([1, 2, 3] as $_) {
        $found[] = $redis->eval(POP, 3, 'queues:default', 'queues:default:reserved', 'queues:default:notify', 200);
    }
    return $found;
});
step("Laravel's lock", function () use ($redis) {
    $first = (string) $redis->set('lock', 'me', 'EX', 10, 'NX');
    return [$first, $redis->set('lock', 'you', 'EX', 10, 'NX'), $redis->eval(RELEASE, 1, 'lock', 'you'), $redis->eval(RELEASE, 1, 'lock', 'me')];
});
step('SCAN', fn () => iterator_count(new Predis\Collection\Iterator\Keyspace($redis, 'key:*', 50)) >= 1000);
step('INFO', fn () => isset($redis->info()['Server']['redis_version']));
step('CONFIG GET maxmemory', fn () => $redis->config('GET', 'maxmemory'));
step('CLIENT LIST', fn () => is_array($redis->client('LIST')));
step('another database', fn () => (string) client(null, $index + 1)->ping());
step('log in with a wrong password', fn () => (string) client('not this one')->ping());
