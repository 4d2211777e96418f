package rueidisdriver

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

func startSentinel(t *testing.T, primary int) string {
	t.Helper()
	port, dir := freePort(t), t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor main 127.0.0.1 %d 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n", port, dir, primary)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(binary(t, "redis-server"), conf, "--sentinel")
	c.SysProcAttr = dieWithTest()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	eventually(t, 5*time.Second, "sentinel", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return addr
}

func TestSentinelFailover(t *testing.T) {
	primary := startServer(t)
	replica := startServer(t, "--replicaof", "127.0.0.1", fmt.Sprint(primary.port))
	sentinel := startSentinel(t, primary.port)
	openFails(t, "redis-sentinel://"+sentinel+"/nobody", `primary named "nobody"`)
	d := open(t, "redis-sentinel://"+sentinel+"/main")
	ctx := t.Context()
	caps, err := d.Caps(ctx)
	if err != nil || caps.Topology != driver.Sentinel {
		t.Errorf("%+v, %v", caps, err)
	}
	if err := d.Do(ctx, keyed("SET", "p:1", "v")).Err(); err != nil {
		t.Fatal(err)
	}
	tr, _, _ := track(t, d, "p:")
	sub, _, _ := subscribe(t, d, driver.Subscription{Channels: []string{"c"}})
	tr.wait(5*time.Second, "confirmed", 1)
	sub.wait(5*time.Second, "confirmed", 1)
	if r := d.Do(ctx, blpop("l", "0.01")); !r.IsNil() {
		t.Error(r)
	}
	admin := open(t, "redis://"+sentinel)
	eventually(t, 20*time.Second, "the sentinel to find the replica", func() bool {
		l, _ := admin.Do(ctx, cmd("SENTINEL", "REPLICAS", "main")).List()
		if len(l) == 0 {
			return false
		}
		m, _ := l[0].Map()
		status, _ := m["master-link-status"].Text()
		return status == "ok"
	})
	isPrimary := func(s *server) bool {
		text, _ := s.cli("INFO", "replication").Text()
		return driver.ParseInfo(text)["role"] == "master"
	}
	eventually(t, 20*time.Second, "a failover to start", func() bool { return admin.Do(ctx, cmd("SENTINEL", "FAILOVER", "main")).Err() == nil })
	eventually(t, 20*time.Second, "the failover", func() bool { return isPrimary(replica) && !isPrimary(primary) })
	for _, j := range []*journal{tr, sub} {
		j.wait(10*time.Second, "lost", 1)
		j.wait(10*time.Second, "confirmed", 2)
	}
	eventually(t, 10*time.Second, "a write", func() bool { return d.Do(ctx, keyed("SET", "p:2", "v")).Err() == nil })
	tr.wait(3*time.Second, "key p:2", 1)
	d.Do(ctx, cmd("PUBLISH", "c", "x"))
	sub.wait(3*time.Second, "message c x", 1)
	d.Do(ctx, keyed("RPUSH", "l", "x"))
	if l, err := d.Do(ctx, blpop("l", "1")).Strings(); err != nil || strings.Join(l, " ") != "l x" {
		t.Errorf("BLPOP on the new primary: %v, %v", l, err)
	}
}
