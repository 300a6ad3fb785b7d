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
	large      = strings.Repeat("x", 100_000)
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

// repeats calls the action with rising numbers. The event has what it returns.
func repeats(role, done string, action func(number int) (any, error)) {
	for number := 1; !ended.Load(); number++ {
		if found, err := action(number); err != nil {
			event(role, 0, "error", err)
		} else {
			event(role, 0, done, found)
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
	go repeats("publisher", "published", func(number int) (any, error) {
		return number, client.Publish(background, "news", number).Err()
	})
	go repeats("producer", "added", func(number int) (any, error) {
		return number, client.RPush(background, "queue", number).Err()
	})
	go repeats("large", "ok", func(int) (any, error) { return "", client.Set(background, "large", large, 0).Err() })
	go repeats("transaction", "ok", func(int) (any, error) {
		var found *redis.IntCmd
		_, err := client.TxPipelined(background, func(pipe redis.Pipeliner) error {
			found = pipe.Incr(background, "transaction")
			pipe.Get(background, "transaction")
			return nil
		})
		return found.Val(), err
	})
	for number := 0; number < 2; number++ {
		go consumes(client, number)
		go subscribes(client, number)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	ended.Store(true)
	time.Sleep(rest)
}
