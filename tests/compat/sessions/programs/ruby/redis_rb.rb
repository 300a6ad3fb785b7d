# frozen_string_literal: true

# A session of redis-rb.
require "digest"
require_relative "steps"

show("version", Redis::VERSION)
redis = Redis.new(url: URL, id: "the-session")
redis.flushdb

step("types") do
  redis.mapped_hmset("hash", { "one" => 1, "two" => 2 })
  redis.zadd("sorted", [[1.5, "low"], [2.5, "high"]])
  [redis.set("key", "value", ex: 100), redis.get("key"), redis.get("none"), redis.hgetall("hash"), redis.zscore("sorted", "high")]
end
step("an error of a type") { redis.lpush("key", "x") }
step("a value of 20 MiB") do
  large = "x" * (20 << 20)
  redis.set("large", large)
  [redis.get("large") == large, redis.del("large")]
end
step("a pipeline of 2,000 commands") do
  replies = redis.pipelined do |pipe|
    1000.times do |number|
      pipe.set("key:#{number}", number)
      pipe.incr("sum")
    end
  end
  [replies.size, replies.last]
end
step("MULTI") do
  redis.multi do |transaction|
    transaction.set("a", 1)
    transaction.incr("a")
  end
end
step("WATCH, changed meanwhile") do
  redis.watch("a") do
    Redis.new(url: URL).set("a", "changed")
    redis.multi { |transaction| transaction.set("a", "never") }
  end
end
step("a script by EVALSHA, unknown at first") do
  script = "-- #{rand}\nreturn redis.call('SET', KEYS[1], ARGV[1])"
  sha = Digest::SHA1.hexdigest(script)
  unknown =
    begin
      redis.evalsha(sha, ["key"], ["one"])
    rescue Redis::CommandError => e
      e.message[0, 8]
    end
  [unknown, redis.eval(script, ["key"], ["one"]), redis.evalsha(sha, ["key"], ["two"])]
end
step("SCAN") { redis.scan_each(match: "key:*", count: 50).to_a.uniq.size }
step("BLPOP that waits, and one that waits in vain") do
  Thread.new { sleep(0.1) && Redis.new(url: URL).rpush("queue", "job") }
  waiting = Redis.new(url: URL)
  [waiting.blpop("first", "queue", timeout: 10), waiting.blpop("queue", timeout: 0.2), waiting.ping]
end
step("a stream with a group") do
  redis.xgroup(:create, "stream", "group", "0", mkstream: true)
  id = redis.xadd("stream", { "field" => "value" })
  read = redis.xreadgroup("group", "me", "stream", ">", count: 10, block: 1000)
  [read["stream"][0][1], redis.xpending("stream", "group")["size"], redis.xack("stream", "group", id)]
end
step("pub/sub with patterns") do
  heard = []
  listener = Redis.new(url: URL)
  thread = Thread.new do
    listener.psubscribe("n?ws") do |on|
      on.pmessage do |*what|
        heard << what
        listener.punsubscribe
      end
    end
  end
  counted = wait_until { redis.publish("news", "hello").then { |count| count.positive? && count } }
  thread.join(10)
  [counted, heard, listener.ping]
end
step("__keyevent@INDEX__ expired") do
  heard = []
  listener = Redis.new(url: URL)
  thread = Thread.new do
    listener.subscribe_with_timeout(10, "__keyevent@#{INDEX}__:expired") do |on|
      on.subscribe { Redis.new(url: URL).set("gone", 1, px: 20) }
      on.message do |_, message|
        heard << message
        listener.unsubscribe
      end
    end
  end
  sleep 0.5
  redis.exists("gone")
  thread.join(11)
  heard
end
step("twenty threads share a connection") do
  20.times.map { Thread.new { 50.times { redis.incr("n") } } }.each(&:join)
  redis.get("n")
end
step("the name") { redis.call("CLIENT", "GETNAME") }
step("INFO") { redis.info.key?("redis_version") }
step("CONFIG GET maxmemory") { redis.config(:get, "maxmemory") }
step("CLIENT LIST") { redis.client(:list).any? { |each| each["name"] == "the-session" } }
step("ROLE") { redis.call("ROLE")[0] }
step("another database") { Redis.new(url: URL.sub(%r{/\d+$}, "/#{INDEX + 1}")).ping }
step("log in with a wrong password") { Redis.new(url: URL.sub(PASSWORD, "not-this-one")).ping }
