// Sessions of Go clients: the argument says of which.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

var (
	port     = os.Getenv("REDIS_PORT")
	password = os.Getenv("REDIS_PASSWORD")
	index, _ = strconv.Atoi(os.Getenv("REDIS_INDEX"))
)

// show prints an outcome.
func show(name string, outcome interface{}) {
	os.Stdout.WriteString(name + ": " + strings.Join(strings.Fields(fmt.Sprint(outcome)), " ") + "\n")
}

// step runs a step, and prints what it returns, or its error.
func step(name string, body func() (interface{}, error)) {
	type ended struct {
		outcome interface{}
		err     error
	}
	end := make(chan ended, 1)
	go func() {
		outcome, err := body()
		end <- ended{outcome, err}
	}()
	select {
	case found := <-end:
		if found.err != nil {
			show(name, "error: "+found.err.Error())
		} else {
			show(name, found.outcome)
		}
	case <-time.After(60 * time.Second):
		show(name, "it did not end")
	}
}

// until waits until the probe is true.
func until(probe func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if probe() {
			return true
		}
	}
	return false
}

// version prints the version of a module.
func version(path string) {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == path {
			show("version", strings.TrimPrefix(module.Version, "v"))
		}
	}
}

func main() {
	switch os.Args[1] {
	case "go-redis":
		goRedis()
	case "rueidis":
		rueidisSession()
	}
}
