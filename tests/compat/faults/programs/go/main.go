// Clients of go-redis with its own settings: goroutines that use one client and its pool.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// Between two commands of a client, and of a publisher or a producer.
	pause, slowPause = 20 * time.Millisecond, 50 * time.Millisecond
	// Consumers go on for so long after the standard input has ended.
	rest = 2500 * time.Millisecond
)

var (
	background = context.Background()
	ended      atomic.Bool
)

func event(role string, client int, kind string, rest any) {
	text := strings.Join(strings.Fields(fmt.Sprint(rest)), " ")
	if len(text) > 200 {
		text = text[:200]
	}
	now := float64(time.Now().UnixMilli()) / 1000
	line := strings.TrimRight(fmt.Sprintf("%.3f %s %d %s %s", now, role, client, kind, text), " ")
	_, _ = os.Stdout.WriteString(line + "\n")
}

func connect() *redis.Client {
	index, _ := strconv.Atoi(os.Getenv("REDIS_INDEX"))
	password := os.Getenv("REDIS_PASSWORD")
	if sentinels := os.Getenv("REDIS_SENTINELS"); sentinels != "" {
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: os.Getenv("REDIS_MASTER"), SentinelAddrs: strings.Split(sentinels, ","),
			Password: password, DB: index,
		})
	}
	return redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + os.Getenv("REDIS_PORT"), Password: password, DB: index})
}

func commands(client *redis.Client, number int) {
	key := fmt.Sprintf("count:%d", number)
	for !ended.Load() {
		if value, err := client.Incr(background, key).Result(); err != nil {
			event("command", number, "error", err)
		} else {
			event("command", number, "ok", value)
		}
		time.Sleep(pause)
		if err := client.Get(background, key).Err(); err != nil && !errors.Is(err, redis.Nil) {
			event("command", number, "error", err)
		} else {
			event("command", number, "ok", "")
		}
		time.Sleep(pause)
	}
}

func adds(role, done string, add func(number int) error) {
	for number := 1; !ended.Load(); number++ {
		if err := add(number); err != nil {
			event(role, 0, "error", err)
		} else {
			event(role, 0, done, number)
		}
		time.Sleep(slowPause)
	}
}

func consumes(client *redis.Client, number int) {
	for {
		found, err := client.BLPop(background, 2*time.Second, "queue").Result()
		switch {
		case errors.Is(err, redis.Nil):
			event("consumer", number, "ok", "")
		case err != nil:
			event("consumer", number, "error", err)
			time.Sleep(pause)
		default:
			event("consumer", number, "did", found[1])
		}
	}
}

func subscribes(client *redis.Client, number int) {
	for message := range client.Subscribe(background, "news").Channel() {
		event("subscriber", number, "heard", message.Payload)
	}
	event("subscriber", number, "error", "the channel is closed")
}

func main() {
	event("command", 0, "note", "go-redis "+redis.Version())
	client := connect()
	for number := 0; number < 12; number++ {
		go commands(client, number)
	}
	go adds("publisher", "published", func(number int) error { return client.Publish(background, "news", number).Err() })
	go adds("producer", "added", func(number int) error { return client.RPush(background, "queue", number).Err() })
	for number := 0; number < 2; number++ {
		go consumes(client, number)
		go subscribes(client, number)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	ended.Store(true)
	time.Sleep(rest)
}
