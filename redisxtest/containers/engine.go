package containers

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// hostOverride is where testcontainers-go looks for published ports, if it is set.
const hostOverride = "TESTCONTAINERS_HOST_OVERRIDE"

// engine is the container engine that testcontainers-go talks to.
type engine struct {
	*testcontainers.DockerProvider
	host string // where published ports are
}

// local reports whether published ports are on this machine.
func (e *engine) local() bool {
	ip := net.ParseIP(e.host)
	return e.host == "localhost" || ip != nil && ip.IsLoopback()
}

var prepared sync.Once

// find is connect; tests put an engine that is not there in its place.
var find = connect

// connect finds an engine that answers. The error says why there is none.
func connect(ctx context.Context) (e *engine, err error) {
	defer func() {
		if v := recover(); v != nil { // testcontainers-go panics where it finds no socket
			err = fmt.Errorf("%v", v)
		}
	}()
	prepared.Do(func() {
		if _, set := os.LookupEnv(hostOverride); !set && beside() {
			_ = os.Setenv(hostOverride, "127.0.0.1")
		}
	})
	p, err := testcontainers.NewDockerProvider()
	if err != nil {
		return nil, err
	}
	if err := p.Health(ctx); err != nil {
		return nil, err
	}
	host, err := p.DaemonHost(ctx)
	if err != nil {
		return nil, err
	}
	return &engine{DockerProvider: p, host: host}, nil
}

// beside reports whether this looks like a container to testcontainers-go, and the engine runs beside it all the same: its
// bridge is an interface here.
func beside() bool {
	if h := os.Getenv("DOCKER_HOST"); h != "" && !strings.HasPrefix(h, "unix:") {
		return false
	}
	if _, err := os.Stat("/.dockerenv"); err != nil {
		return false
	}
	_, err := net.InterfaceByName("docker0")
	return err == nil
}

// ownerLabel tells which process a container belongs to: machine, process and its start.
const ownerLabel = "redisxtest.owner"

// owner is this process. Machine, with the namespace of its numbers, and start keep another one that got the same number from being taken for it.
var owner = sync.OnceValue(func() string {
	host, _ := os.Hostname()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid") // a container may have the host's name, and has numbers of its own
	return fmt.Sprintf("%s %s %s/%d/%s", host, strings.TrimSpace(string(boot)), space, os.Getpid(), started(os.Getpid()))
})

// started tells when a process of this machine began, in the kernel's words, or "" if that cannot be known.
func started(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name before may have spaces
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// gone reports whether the process of a label ran on this machine and runs no more.
func gone(label string) bool {
	parts, self := strings.Split(label, "/"), strings.Split(owner(), "/")
	if len(parts) != 3 || parts[0] != self[0] {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil || pid <= 0 {
		return false
	}
	return ended(pid) || started(pid) != parts[2]
}

var swept sync.Once

// sweep removes the containers that test programs left behind when they were killed.
func (e *engine) sweep(ctx context.Context) {
	swept.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		cli := e.Client()
		found, err := cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", ownerLabel)})
		if err != nil {
			return
		}
		for _, c := range found.Items {
			if gone(c.Labels[ownerLabel]) {
				_, _ = cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			}
		}
	})
}
