// A session of go-redis. ../run-go-redis builds it and starts the servers; ../with-proxy sets their addresses.
package session

import (
	"bytes"
	"fmt"
	"io/ioutil"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gopkg.in/redis.v5"
)

// through is true only through the proxy.
var through = os.Getenv("PROXY_PID") != ""

func number(t *testing.T, name string) int {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		t.Fatal(name, err)
	}
	return value
}

func client(t *testing.T, change func(*redis.Options)) *redis.Client {
	options := &redis.Options{
		Addr:     "127.0.0.1:" + os.Getenv("REDIS_PORT"),
		Password: os.Getenv("REDIS_PASSWORD"),
		DB:       number(t, "REDIS_INDEX"),
	}
	if change != nil {
		change(options)
	}
	made := redis.NewClient(options)
	t.Cleanup(func() { made.Close() })
	return made
}

// fresh returns a client of an empty database.
func fresh(t *testing.T) *redis.Client {
	made := client(t, nil)
	good(t, made.FlushDb().Err())
	return made
}

func good(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, wanted interface{}) {
	t.Helper()
	if !reflect.DeepEqual(got, wanted) {
		t.Fatalf("got %#v, wanted %#v", got, wanted)
	}
}

func refused(t *testing.T, err error, pattern string) {
	t.Helper()
	if err == nil || !regexp.MustCompile(pattern).MatchString(err.Error()) {
		t.Fatalf("got error %v, wanted %s", err, pattern)
	}
}

func onlyThrough(t *testing.T) {
	if !through {
		t.Skip("about the proxy")
	}
}

func eventually(t *testing.T, what string, probe func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if probe() {
			return
		}
	}
	t.Fatal("never: " + what)
}

func TestGetsWhatItSet(t *testing.T) {
	c := fresh(t)
	good(t, c.Set("key", "value", 100*time.Second).Err())
	equal(t, c.Get("key").Val(), "value")
	equal(t, c.Get("none").Err(), redis.Nil)
	lasts := c.TTL("key").Val()
	equal(t, lasts > 90*time.Second && lasts <= 100*time.Second, true)
	value := []byte{0, 13, 10, 255, 42}
	good(t, c.Set("bytes", value, 0).Err())
	got, err := c.Get("bytes").Bytes()
	good(t, err)
	equal(t, got, value)
	good(t, c.HMSet("hash", map[string]string{"one": "1", "two": "2"}).Err())
	equal(t, c.HGetAll("hash").Val(), map[string]string{"one": "1", "two": "2"})
	equal(t, c.ZAdd("sorted", redis.Z{Score: 1.5, Member: "low"}, redis.Z{Score: 2.5, Member: "high"}).Val(), int64(2))
	equal(t, c.ZScore("sorted", "high").Val(), 2.5)
	equal(t, c.Exists("key").Val(), true)
	refused(t, c.LPush("key", "x").Err(), "^WRONGTYPE")
	refused(t, c.Process(redis.NewCmd("GET")), "^ERR wrong number of arguments")
}

func TestCarriesAValueOfSomeMegabytes(t *testing.T) {
	c := fresh(t)
	large := bytes.Repeat([]byte("abcdefg"), 700000)
	good(t, c.Set("large", large, 0).Err())
	got, err := c.Get("large").Bytes()
	good(t, err)
	equal(t, bytes.Equal(got, large), true)
}

func TestHasAPipelineAnsweredInOrder(t *testing.T) {
	c := fresh(t)
	var last, typed redis.Cmder
	answers, err := c.Pipelined(func(pipe *redis.Pipeline) error {
		for i := 0; i < 1000; i++ {
			pipe.Set(fmt.Sprint("key:", i), i, 0)
			pipe.Incr("sum")
		}
		last = pipe.Get("key:999")
		typed = pipe.LPush("sum", "x")
		pipe.DbSize()
		return nil
	})
	refused(t, err, "^WRONGTYPE") // the first error of the pipeline
	equal(t, len(answers), 2003)
	equal(t, answers[1999].(*redis.IntCmd).Val(), int64(1000))
	equal(t, last.(*redis.StringCmd).Val(), "999")
	refused(t, typed.Err(), "^WRONGTYPE")
	equal(t, answers[2002].(*redis.IntCmd).Val(), int64(1001))
}

func TestManyAtOnceShareAPool(t *testing.T) {
	c := fresh(t)
	var all sync.WaitGroup
	errors := make(chan error, 50)
	for worker := 0; worker < 50; worker++ {
		all.Add(1)
		go func(worker int) {
			defer all.Done()
			key := fmt.Sprint("own:", worker)
			for i := 0; i < 50; i++ {
				if got, err := c.Incr(key).Result(); err != nil || got != int64(i+1) {
					errors <- fmt.Errorf("%s: %d, %v", key, got, err)
					return
				}
				c.Incr("all")
			}
		}(worker)
	}
	all.Wait()
	select {
	case err := <-errors:
		t.Fatal(err)
	default:
	}
	equal(t, c.Get("all").Val(), "2500")
}

func TestRunsTransactionsWholeOrNotAtAll(t *testing.T) {
	c := fresh(t)
	answers, err := c.TxPipelined(func(pipe *redis.Pipeline) error {
		pipe.Set("a", "1", 0)
		pipe.Incr("a")
		return nil
	})
	good(t, err)
	equal(t, answers[1].(*redis.IntCmd).Val(), int64(2))

	change := func(meanwhile func()) error {
		return c.Watch(func(tx *redis.Tx) error {
			old, err := tx.Get("a").Int64()
			if err != nil {
				return err
			}
			meanwhile()
			_, err = tx.Pipelined(func(pipe *redis.Pipeline) error {
				pipe.Set("a", old+1, 0)
				return nil
			})
			return err
		}, "a")
	}
	good(t, change(func() {}))
	equal(t, c.Get("a").Val(), "3")
	equal(t, change(func() { c.Set("a", "changed", 0) }), redis.TxFailedErr)
	equal(t, c.Get("a").Val(), "changed")
}

func TestHearsItsChannelsAndPatterns(t *testing.T) {
	c := fresh(t)
	heard, err := c.Subscribe("news", "weather")
	good(t, err)
	defer heard.Close()
	good(t, heard.PSubscribe("n?ws"))
	for _, wanted := range []redis.Subscription{{"subscribe", "news", 1}, {"subscribe", "weather", 2}, {"psubscribe", "n?ws", 3}} {
		got, err := heard.ReceiveTimeout(10 * time.Second)
		good(t, err)
		equal(t, *got.(*redis.Subscription), wanted)
	}
	channels := c.PubSubChannels("*").Val()
	sort.Strings(channels)
	equal(t, channels, []string{"news", "weather"})
	equal(t, c.PubSubNumSub("news", "none").Val(), map[string]int64{"news": 1, "none": 0})
	equal(t, c.Publish("news", "one").Val(), int64(2))
	equal(t, c.Publish("weather", "two").Val(), int64(1))
	equal(t, c.Publish("sports", "three").Val(), int64(0))
	for _, wanted := range []redis.Message{{"news", "", "one"}, {"news", "n?ws", "one"}, {"weather", "", "two"}} {
		got, err := heard.ReceiveMessage()
		good(t, err)
		equal(t, *got, wanted)
	}
	good(t, heard.Unsubscribe("news"))
	got, err := heard.ReceiveTimeout(10 * time.Second)
	good(t, err)
	equal(t, *got.(*redis.Subscription), redis.Subscription{"unsubscribe", "news", 2})
	good(t, heard.Ping("still here"))
	got, err = heard.ReceiveTimeout(10 * time.Second)
	good(t, err)
	equal(t, got.(*redis.Pong).Payload, "still here")
}

func TestWaitsForAnElement(t *testing.T) {
	c := fresh(t)
	popped := make(chan []string)
	go func() { popped <- c.BLPop(20*time.Second, "first", "queue").Val() }()
	time.Sleep(50 * time.Millisecond)
	good(t, c.RPush("queue", "job").Err())
	equal(t, <-popped, []string{"queue", "job"})
	equal(t, c.BLPop(time.Second, "queue").Err(), redis.Nil)
	good(t, c.RPush("queue", "next").Err())
	equal(t, c.BRPopLPush("queue", "done", time.Second).Val(), "next")
	equal(t, c.Ping().Val(), "PONG")
}

func TestRunsScriptsThatRedisDoesNotKnowAtFirst(t *testing.T) {
	c := fresh(t)
	lua := "redis.call('SET', KEYS[1], ARGV[1]); return {redis.call('GET', KEYS[1]), 7}"
	script := redis.NewScript(fmt.Sprintf("-- %d\n%s", time.Now().UnixNano(), lua))
	for _, value := range []string{"one", "two"} {
		got, err := script.Run(c, []string{"key"}, value).Result()
		good(t, err)
		equal(t, got, []interface{}{value, int64(7)})
	}
	refused(t, c.Eval("return redis.error_reply('MINE own error')", nil).Err(), "^MINE own error")
}

func TestReadsStreams(t *testing.T) {
	c := fresh(t)
	added := redis.NewStringCmd("XADD", "stream", "*", "field", "value")
	good(t, c.Process(added))
	read := redis.NewCmd("XREAD", "BLOCK", 1000, "STREAMS", "stream", "0")
	good(t, c.Process(read))
	entry := []interface{}{added.Val(), []interface{}{"field", "value"}}
	equal(t, read.Val(), []interface{}{[]interface{}{"stream", []interface{}{entry}}})
}

func TestWalksAllOfItsKeys(t *testing.T) {
	c := fresh(t)
	for i := 0; i < 300; i++ {
		good(t, c.Set(fmt.Sprint("key:", i), "x", 0).Err())
	}
	good(t, c.Set("other", "x", 0).Err())
	found := map[string]bool{}
	keys := c.Scan(0, "key:*", 50).Iterator()
	for keys.Next() {
		found[keys.Val()] = true
	}
	good(t, keys.Err())
	equal(t, len(found), 300)
}

func TestTellsOfTheServerAndOfItself(t *testing.T) {
	c := fresh(t)
	equal(t, strings.Contains(c.Info("server").Val(), "redis_version:"), true)
	index := number(t, "REDIS_INDEX")
	good(t, c.Set("key", "value", 0).Err())
	equal(t, strings.Contains(c.Info("keyspace").Val(), fmt.Sprintf("db%d:keys=1,", index)), true)
	good(t, c.Watch(func(tx *redis.Tx) error { // on one connection
		good(t, tx.ClientSetName("the-session").Err())
		equal(t, tx.ClientGetName().Val(), "the-session")
		return nil
	}))
}

func TestIsToldThatItsPasswordIsWrong(t *testing.T) {
	stranger := client(t, func(options *redis.Options) { options.Password = "not this one" })
	refused(t, stranger.Get("key").Err(), "^WRONGPASS")
	nobody := client(t, func(options *redis.Options) { options.Password = ""; options.DB = 0 })
	refused(t, nobody.Get("key").Err(), "^NOAUTH")
}

func TestIsRefusedWhatReachesBeyondItsDatabaseAndGoesOn(t *testing.T) {
	onlyThrough(t)
	c := fresh(t)
	index := number(t, "REDIS_INDEX")
	elsewhere := client(t, func(options *redis.Options) { options.DB = index + 1 })
	refused(t, elsewhere.Get("key").Err(), "^NOPERM")

	good(t, c.Set("key", "own", 0).Err())
	refused(t, c.ConfigResetStat().Err(), "^NOPERM")
	refused(t, c.Move("key", int64(index+1)).Err(), "^NOPERM")
	refused(t, c.Eval("return redis.call('SELECT', 0)", nil).Err(), "(?i)acl|permission|not allowed")
	equal(t, c.Get("key").Val(), "own")

	var after *redis.StringCmd
	_, err := c.Pipelined(func(pipe *redis.Pipeline) error {
		pipe.Set("key", "in the pipeline", 0)
		pipe.Process(redis.NewCmd("CONFIG", "REWRITE"))
		after = pipe.Get("key")
		return nil
	})
	refused(t, err, "^NOPERM")
	equal(t, after.Val(), "in the pipeline")

	_, err = c.TxPipelined(func(pipe *redis.Pipeline) error {
		pipe.Set("key", "never", 0)
		pipe.Process(redis.NewCmd("CONFIG", "REWRITE"))
		return nil
	})
	refused(t, err, "^(NOPERM|EXECABORT)")
	equal(t, c.Get("key").Val(), "in the pipeline")
}

// The test adds a temporary credential of the tenant to the manifests, and removes it again.
func TestComesBackAfterItsCredentialWasRevoked(t *testing.T) {
	onlyThrough(t)
	proxy, err := os.FindProcess(number(t, "PROXY_PID"))
	good(t, err)
	manifest := filepath.Join(os.Getenv("PROXY_MANIFESTS"), "temporary.yaml")
	secret := fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: redis-secret-temp-go, namespace: team-blue, creationTimestamp: "2026-01-01T00:00:00Z"}
stringData: {redis-connection-string: "redis://:temporary-password@redisproxy:6379/%d"}
`, number(t, "REDIS_INDEX"))
	give := func() {
		good(t, ioutil.WriteFile(manifest+".new", []byte(secret), 0o600))
		good(t, os.Rename(manifest+".new", manifest))
		good(t, proxy.Signal(syscall.SIGUSR1))
	}
	take := func() {
		good(t, os.Remove(manifest))
		good(t, proxy.Signal(syscall.SIGUSR1))
	}

	give()
	c := client(t, func(options *redis.Options) { options.Password = "temporary-password" })
	eventually(t, "the credential is known", func() bool { return c.Set("key", "kept", 0).Err() == nil })
	heard, err := c.Subscribe("channel")
	good(t, err)
	defer heard.Close()
	_, err = heard.ReceiveTimeout(10 * time.Second)
	good(t, err)

	take()
	var failure error
	eventually(t, "the session has ended", func() bool { failure = c.Get("key").Err(); return failure != nil })
	eventually(t, "the password opens nothing", func() bool {
		failure = c.Get("key").Err()
		return failure != nil && strings.HasPrefix(failure.Error(), "WRONGPASS")
	})

	give()
	eventually(t, "the same client works again", func() bool { return c.Get("key").Val() == "kept" })
	message := make(chan string)
	go func() {
		for {
			if got, err := heard.ReceiveMessage(); err == nil {
				message <- got.Payload
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	other := client(t, nil)
	eventually(t, "it is subscribed again", func() bool { return other.Publish("channel", "still here").Val() == 1 })
	equal(t, <-message, "still here")
	take()
}
