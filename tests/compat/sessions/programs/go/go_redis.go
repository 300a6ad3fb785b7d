package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

func goRedis() {
	version("github.com/redis/go-redis/v9")
	for _, protocol := range []int{2, 3} {
		goRedisIn(protocol)
	}
}

func goRedisIn(protocol int) {
	ctx := context.Background()
	it := func(name string, body func() (interface{}, error)) {
		step(fmt.Sprintf("RESP%d, %s", protocol, name), body)
	}
	client := func(change func(*redis.Options)) *redis.Client {
		options := &redis.Options{Addr: "127.0.0.1:" + port, Password: password, DB: index, Protocol: protocol}
		if change != nil {
			change(options)
		}
		return redis.NewClient(options)
	}
	c := client(func(o *redis.Options) { o.ClientName = "the-session" })
	c.FlushDB(ctx)

	it("types", func() (interface{}, error) {
		c.Set(ctx, "key", "value", 100*time.Second)
		c.HSet(ctx, "hash", "one", 1, "two", 2)
		c.ZAdd(ctx, "sorted", redis.Z{Score: 1.5, Member: "low"}, redis.Z{Score: 2.5, Member: "high"})
		lasts := c.TTL(ctx, "key").Val()
		return []interface{}{c.Get(ctx, "key").Val(), c.Get(ctx, "none").Err(), lasts > 90*time.Second, c.HGetAll(ctx, "hash").Val(), c.ZScore(ctx, "sorted", "high").Val()}, nil
	})
	it("an error of a type", func() (interface{}, error) { return c.LPush(ctx, "key", "x").Result() })
	it("a value of 20 MiB", func() (interface{}, error) {
		large := bytes.Repeat([]byte("abcdefgh"), 20<<20/8)
		if err := c.Set(ctx, "large", large, 0).Err(); err != nil {
			return nil, err
		}
		got, err := c.Get(ctx, "large").Bytes()
		c.Del(ctx, "large")
		return bytes.Equal(got, large), err
	})
	it("a pipeline of 2,000 commands, with an error", func() (interface{}, error) {
		var last, typed redis.Cmder
		answers, err := c.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i := 0; i < 1000; i++ {
				pipe.Set(ctx, fmt.Sprint("key:", i), i, 0)
				pipe.Incr(ctx, "sum")
			}
			last = pipe.Get(ctx, "key:999")
			typed = pipe.LPush(ctx, "sum", "x")
			return nil
		})
		return []interface{}{len(answers), err, last.(*redis.StringCmd).Val(), typed.Err()}, nil
	})
	it("fifty goroutines share a pool", func() (interface{}, error) {
		shared := client(func(o *redis.Options) { o.PoolSize = 5 })
		var all sync.WaitGroup
		for worker := 0; worker < 50; worker++ {
			all.Add(1)
			go func() {
				defer all.Done()
				for i := 0; i < 50; i++ {
					shared.Incr(ctx, "all")
				}
			}()
		}
		all.Wait()
		return shared.Get(ctx, "all").Result()
	})
	it("MULTI", func() (interface{}, error) {
		answers, err := c.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, "a", "1", 0)
			pipe.Incr(ctx, "a")
			return nil
		})
		return answers[1].(*redis.IntCmd).Val(), err
	})
	watch := func(meanwhile func()) error {
		return c.Watch(ctx, func(tx *redis.Tx) error {
			old, _ := tx.Get(ctx, "a").Int64()
			meanwhile()
			_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.Set(ctx, "a", old+1, 0)
				return nil
			})
			return err
		}, "a")
	}
	it("WATCH", func() (interface{}, error) { return c.Get(ctx, "a").Val(), watch(func() {}) })
	it("WATCH, changed meanwhile", func() (interface{}, error) {
		err := watch(func() { c.Set(ctx, "a", "changed", 0) })
		return []interface{}{err, errors.Is(err, redis.TxFailedErr), c.Get(ctx, "a").Val()}, nil
	})
	it("pub/sub with patterns", func() (interface{}, error) {
		heard := c.Subscribe(ctx, "news", "weather")
		defer heard.Close()
		heard.PSubscribe(ctx, "n?ws")
		for i := 0; i < 3; i++ {
			if _, err := heard.ReceiveTimeout(ctx, 10*time.Second); err != nil {
				return nil, err
			}
		}
		channels := c.PubSubChannels(ctx, "*").Val()
		sort.Strings(channels)
		counts := []interface{}{channels, c.PubSubNumSub(ctx, "news", "none").Val(), c.Publish(ctx, "news", "one").Val(), c.Publish(ctx, "sports", "three").Val()}
		var messages []string
		for i := 0; i < 2; i++ {
			message, err := heard.ReceiveMessage(ctx)
			if err != nil {
				return nil, err
			}
			messages = append(messages, message.String())
		}
		heard.Unsubscribe(ctx, "news")
		left, err := heard.ReceiveTimeout(ctx, 10*time.Second)
		heard.Ping(ctx, "still here")
		pong, _ := heard.ReceiveTimeout(ctx, 10*time.Second)
		return []interface{}{counts, messages, left, pong}, err
	})
	it("sharded pub/sub", func() (interface{}, error) {
		heard := c.SSubscribe(ctx, "shard")
		defer heard.Close()
		heard.Receive(ctx)
		count := c.SPublish(ctx, "shard", "hello").Val()
		message, err := heard.ReceiveMessage(ctx)
		return []interface{}{count, message}, err
	})
	it("__keyevent@INDEX__ expired", func() (interface{}, error) {
		heard := c.PSubscribe(ctx, fmt.Sprintf("__keyevent@%d__:expired", index))
		defer heard.Close()
		heard.Receive(ctx)
		c.Set(ctx, "gone", 1, 20*time.Millisecond)
		until(func() bool { return c.Exists(ctx, "gone").Val() == 0 })
		message, err := heard.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		return message.Payload, nil
	})
	it("BLPOP that waits, and one that waits in vain", func() (interface{}, error) {
		popped := make(chan []string)
		go func() { popped <- c.BLPop(ctx, 20*time.Second, "first", "queue").Val() }()
		time.Sleep(100 * time.Millisecond)
		c.RPush(ctx, "queue", "job")
		got := <-popped
		return []interface{}{got, c.BLPop(ctx, time.Second, "queue").Err(), c.Ping(ctx).Val()}, nil
	})
	it("a script by EVALSHA, unknown at first", func() (interface{}, error) {
		script := redis.NewScript(fmt.Sprintf("-- %d\nredis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])", time.Now().UnixNano()))
		first, err := script.Run(ctx, c, []string{"key"}, "one").Result()
		second, _ := script.Run(ctx, c, []string{"key"}, "two").Result()
		return []interface{}{first, second}, err
	})
	it("a stream with a group", func() (interface{}, error) {
		c.XGroupCreateMkStream(ctx, "stream", "group", "0")
		id := c.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []string{"field", "value"}}).Val()
		read, err := c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "group", Consumer: "me", Streams: []string{"stream", ">"}, Block: time.Second}).Result()
		if err != nil {
			return nil, err
		}
		return []interface{}{read[0].Messages[0].Values, c.XPending(ctx, "stream", "group").Val().Count, c.XAck(ctx, "stream", "group", id).Val()}, nil
	})
	it("SCAN", func() (interface{}, error) {
		found := map[string]bool{}
		keys := c.Scan(ctx, 0, "key:*", 50).Iterator()
		for keys.Next(ctx) {
			found[keys.Val()] = true
		}
		return len(found), keys.Err()
	})
	it("the name", func() (interface{}, error) { return c.ClientGetName(ctx).Result() })
	it("INFO", func() (interface{}, error) {
		info := c.Info(ctx).Val()
		return []bool{strings.Contains(info, "redis_version:"), strings.Contains(info, fmt.Sprintf("db%d:", index))}, nil
	})
	it("CLIENT INFO", func() (interface{}, error) {
		info, err := c.ClientInfo(ctx).Result()
		if err != nil {
			return nil, err
		}
		return []interface{}{info.Name, info.DB, info.Resp}, nil
	})
	it("CONFIG GET maxmemory", func() (interface{}, error) { return c.ConfigGet(ctx, "maxmemory").Result() })
	it("CLIENT LIST", func() (interface{}, error) {
		found, err := c.ClientList(ctx).Result()
		return strings.Contains(found, "name=the-session"), err
	})
	it("another database", func() (interface{}, error) {
		return client(func(o *redis.Options) { o.DB = index + 1 }).Ping(ctx).Result()
	})
	it("another database, in a script", func() (interface{}, error) {
		return c.Eval(ctx, "return redis.call('SELECT', 0)", nil).Result()
	})
	it("log in with a wrong password", func() (interface{}, error) {
		return client(func(o *redis.Options) { o.Password = "not this one"; o.MaxRetries = -1 }).Ping(ctx).Result()
	})
	it("log in without a password", func() (interface{}, error) {
		return client(func(o *redis.Options) { o.Password = ""; o.DB = 0; o.MaxRetries = -1 }).Ping(ctx).Result()
	})
}
