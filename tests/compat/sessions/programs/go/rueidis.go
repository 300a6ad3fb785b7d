package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

func rueidisSession() {
	version("github.com/redis/rueidis")
	ctx := context.Background()
	options := func() rueidis.ClientOption {
		return rueidis.ClientOption{InitAddress: []string{"127.0.0.1:" + port}, Password: password, SelectDB: index}
	}
	step("client-side caching, which is the default", func() (interface{}, error) {
		caching, err := rueidis.NewClient(options())
		if err != nil {
			return nil, err
		}
		defer caching.Close()
		caching.Do(ctx, caching.B().Set().Key("cached").Value("one").Build())
		get := func() rueidis.RedisResult {
			return caching.DoCache(ctx, caching.B().Get().Key("cached").Cache(), time.Minute)
		}
		first, again := get(), get()
		caching.Do(ctx, caching.B().Set().Key("cached").Value("two").Build())
		changed := until(func() bool { text, _ := get().ToString(); return text == "two" })
		text, err := first.ToString()
		return []interface{}{text, again.IsCacheHit(), changed}, err
	})

	settings := options()
	settings.DisableCache = true
	settings.ClientName = "the-session"
	c, err := rueidis.NewClient(settings)
	step("it connects with DisableCache", func() (interface{}, error) { return c != nil, err })
	if err != nil {
		return
	}
	b := c.B
	do := func(command rueidis.Completed) rueidis.RedisResult { return c.Do(ctx, command) }
	do(b().Flushdb().Build())

	step("types", func() (interface{}, error) {
		do(b().Set().Key("key").Value("value").Build())
		do(b().Hset().Key("hash").FieldValue().FieldValue("one", "1").FieldValue("two", "2").Build())
		do(b().Zadd().Key("sorted").ScoreMember().ScoreMember(1.5, "low").Build())
		text, err := do(b().Get().Key("key").Build()).ToString()
		hash, _ := do(b().Hgetall().Key("hash").Build()).AsStrMap()
		score, _ := do(b().Zscore().Key("sorted").Member("low").Build()).AsFloat64()
		return []interface{}{text, rueidis.IsRedisNil(do(b().Get().Key("none").Build()).Error()), hash, score}, err
	})
	step("an error of a type", func() (interface{}, error) {
		return nil, do(b().Lpush().Key("key").Element("x").Build()).Error()
	})
	step("a value of 20 MiB", func() (interface{}, error) {
		large := strings.Repeat("abcdefgh", 20<<20/8)
		do(b().Set().Key("large").Value(large).Build())
		got, err := do(b().Get().Key("large").Build()).ToString()
		do(b().Del().Key("large").Build())
		return got == large, err
	})
	step("commands at once are a pipeline", func() (interface{}, error) {
		var all sync.WaitGroup
		for worker := 0; worker < 50; worker++ {
			all.Add(1)
			go func() {
				defer all.Done()
				for i := 0; i < 40; i++ {
					do(b().Incr().Key("n").Build())
				}
			}()
		}
		all.Wait()
		return do(b().Get().Key("n").Build()).ToString()
	})
	step("a pipeline", func() (interface{}, error) {
		commands := make(rueidis.Commands, 0, 300)
		for i := 0; i < 300; i++ {
			commands = append(commands, b().Set().Key(fmt.Sprint("key:", i)).Value("x").Build())
		}
		answers := c.DoMulti(ctx, commands...)
		return len(answers), answers[299].Error()
	})
	step("DoCache without a cache", func() (interface{}, error) {
		return c.DoCache(ctx, b().Get().Key("key").Cache(), time.Minute).ToString()
	})
	step("MULTI and WATCH", func() (interface{}, error) {
		var found []interface{}
		err := c.Dedicated(func(one rueidis.DedicatedClient) error {
			for _, meanwhile := range []bool{false, true} {
				one.Do(ctx, one.B().Watch().Key("a").Build())
				if meanwhile {
					do(b().Set().Key("a").Value("changed").Build())
				}
				answers := one.DoMulti(ctx, one.B().Multi().Build(), one.B().Set().Key("a").Value("1").Build(), one.B().Incr().Key("a").Build(), one.B().Exec().Build())
				all, err := answers[3].ToArray()
				found = append(found, len(all), rueidis.IsRedisNil(err))
			}
			return nil
		})
		return found, err
	})
	step("pub/sub with patterns", func() (interface{}, error) {
		var lock sync.Mutex
		var heard []string
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		go c.Receive(inner, b().Psubscribe().Pattern("n?ws").Build(), func(message rueidis.PubSubMessage) {
			lock.Lock()
			heard = append(heard, message.Pattern+" "+message.Channel+" "+message.Message)
			lock.Unlock()
		})
		until(func() bool {
			n, _ := do(b().Publish().Channel("news").Message("hello").Build()).AsInt64()
			return n == 1
		})
		until(func() bool { lock.Lock(); defer lock.Unlock(); return len(heard) == 1 })
		return heard, nil
	})
	step("__keyevent@INDEX__ expired", func() (interface{}, error) {
		heard := make(chan string, 1)
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		go c.Receive(inner, b().Subscribe().Channel(fmt.Sprintf("__keyevent@%d__:expired", index)).Build(), func(message rueidis.PubSubMessage) { heard <- message.Message })
		time.Sleep(200 * time.Millisecond)
		do(b().Set().Key("gone").Value("1").Px(20 * time.Millisecond).Build())
		until(func() bool { n, _ := do(b().Exists().Key("gone").Build()).AsInt64(); return n == 0 })
		return <-heard, nil
	})
	step("BLPOP that waits", func() (interface{}, error) {
		go func() {
			time.Sleep(100 * time.Millisecond)
			do(b().Rpush().Key("queue").Element("job").Build())
		}()
		return do(b().Blpop().Key("queue").Timeout(10).Build()).AsStrSlice()
	})
	step("a script by EVALSHA, unknown at first", func() (interface{}, error) {
		script := rueidis.NewLuaScript(fmt.Sprintf("-- %d\nredis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])", time.Now().UnixNano()))
		first, err := script.Exec(ctx, c, []string{"key"}, []string{"one"}).ToString()
		second, _ := script.Exec(ctx, c, []string{"key"}, []string{"two"}).ToString()
		return []string{first, second}, err
	})
	step("a stream with a group", func() (interface{}, error) {
		do(b().XgroupCreate().Key("stream").Group("group").Id("0").Mkstream().Build())
		id, _ := do(b().Xadd().Key("stream").Id("*").FieldValue().FieldValue("field", "value").Build()).ToString()
		read, err := do(b().Xreadgroup().Group("group", "me").Block(1000).Streams().Key("stream").Id(">").Build()).AsXRead()
		if err != nil {
			return nil, err
		}
		acked, _ := do(b().Xack().Key("stream").Group("group").Id(id).Build()).AsInt64()
		return []interface{}{read["stream"][0].FieldValues, acked}, nil
	})
	step("CLIENT LIST", func() (interface{}, error) {
		text, err := do(b().ClientList().Build()).ToString()
		return strings.Contains(text, "name=the-session"), err
	})
	step("the name", func() (interface{}, error) { return do(b().ClientGetname().Build()).ToString() })
	for _, what := range []string{"another database", "log in with a wrong password"} {
		step(what, func() (interface{}, error) {
			wrong := options()
			wrong.DisableCache = true
			if what == "another database" {
				wrong.SelectDB = index + 1
			} else {
				wrong.Password = "not this one"
			}
			made, err := rueidis.NewClient(wrong)
			return made != nil, err
		})
	}
}
