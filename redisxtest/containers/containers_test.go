package containers

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/core/goredisdriver"
	"github.com/go-redisx/redisx/core/rueidisdriver"
	"github.com/go-redisx/redisx/redisxtest/internal/absence"
)

// images are those that servers.sh makes.
var images = []struct {
	name, image, version string
	start                func(testing.TB, string, ...Option) *Server
}{
	{"redis7.0", "redisxtest/redis:7.0", "7.0.", StartRedis},
	{"redis8.0", "redisxtest/redis:8.0", "8.0.", StartRedis},
	{"valkey8.1", "redisxtest/valkey:8.1", "8.1.", StartValkey},
}

// local skips a test without an engine or without the image, which no registry has.
func local(t *testing.T, image string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	e, err := connect(ctx)
	if err != nil {
		absence.Skip(t, "container", "no container engine: %v", err)
	}
	if _, err := e.Client().ImageInspect(ctx, image); err != nil {
		absence.Skip(t, "container", "no image %s, which servers.sh makes: %v", image, err)
	}
}

type opener = func(ctx context.Context, url string) (driver.Driver, error)

var openers = map[string]opener{
	"goredis": func(ctx context.Context, url string) (driver.Driver, error) { return goredisdriver.Open(ctx, url) },
	"rueidis": func(ctx context.Context, url string) (driver.Driver, error) { return rueidisdriver.Open(ctx, url) },
}

// use opens a URL with every driver, and wants a client to work.
func use(t *testing.T, url string) {
	t.Helper()
	for name, open := range openers {
		d, err := open(t.Context(), url)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c, err := core.New(d)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n, err := c.Do(t.Context(), driver.Cmd{Args: []string{"INCR", "n:" + name}, Keys: driver.Key(1)}).Int64()
		if err != nil || n != 1 {
			t.Errorf("%s: INCR: %d, %v", name, n, err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func version(t *testing.T, s *Server) string {
	t.Helper()
	text, err := s.Do("INFO", "server").Text()
	if err != nil {
		t.Fatal(err)
	}
	info := driver.ParseInfo(text)
	if v := info["valkey_version"]; v != "" {
		return v
	}
	return info["redis_version"]
}

func TestEveryImageServesBothDrivers(t *testing.T) {
	for _, i := range images {
		t.Run(i.name, func(t *testing.T) {
			local(t, i.image)
			begin := time.Now()
			s := i.start(t, i.image, Config("maxmemory", "64mb"))
			t.Logf("started in %v", time.Since(begin))
			if v := version(t, s); !strings.HasPrefix(v, i.version) {
				t.Errorf("version %s; want %s", v, i.version)
			}
			if v, _ := s.Do("CONFIG", "GET", "maxmemory").Strings(); len(v) != 2 || v[1] != "67108864" {
				t.Errorf("maxmemory: %v", v)
			}
			use(t, s.URL())
		})
	}
}

func TestTLS(t *testing.T) {
	for _, i := range images {
		t.Run(i.name, func(t *testing.T) {
			local(t, i.image)
			s := i.start(t, i.image, TLS(), Password("secret"))
			if !strings.HasPrefix(s.URL(), "rediss://") || !strings.Contains(s.URL(), "ca=") {
				t.Errorf("URL: %s", s.URL())
			}
			use(t, s.URL())
			use(t, s.ClientCertURL("db=1"))
			// Nobody else's authority is trusted.
			_, err := goredisdriver.Open(t.Context(), fmt.Sprintf("rediss://:secret@%s", s.Addr()))
			var unknown x509.UnknownAuthorityError
			if !errors.As(err, &unknown) {
				t.Errorf("without the authority: %v", err)
			}
			_, err = goredisdriver.Open(t.Context(), strings.Replace(s.URL(), "secret", "wrong", 1))
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("with a wrong password: %v", err)
			}
		})
	}
}

func TestPauseKillAndRestartKeepTheAddress(t *testing.T) {
	i := images[1]
	local(t, i.image)
	s := i.start(t, i.image)
	d, err := goredisdriver.Open(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	c, err := core.New(d, core.WithCommandTimeout(300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	get := func() (string, error) {
		return c.Do(t.Context(), driver.Cmd{Args: []string{"GET", "k"}, Keys: driver.Key(1), Mode: driver.ReadOnly}).Text()
	}
	if err := s.Do("SET", "k", "v").Err(); err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()

	s.Pause()
	s.Pause()
	if _, err := get(); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("paused: %v", err)
	}
	s.Resume()
	s.Resume()
	await(t, "resumed", "v", get)

	s.Restart(true)
	await(t, "restarted with data", "v", get)

	s.Pause()
	s.Kill()
	s.Kill()
	if err := s.Do("PING").Err(); err == nil {
		t.Error("a killed server answers")
	}
	s.Restart(true)
	await(t, "killed and restarted, last saved by Restart", "v", get)

	if err := s.Do("SET", "k", "new").Err(); err != nil {
		t.Fatal(err)
	}
	s.Restart(false)
	if n, err := s.Do("DBSIZE").Int64(); err != nil || n != 0 {
		t.Errorf("restarted without data: %d keys, %v", n, err)
	}
	s.Kill()
	s.Restart(true)
	if n, err := s.Do("DBSIZE").Int64(); err != nil || n != 0 {
		t.Errorf("what Restart(false) removed is back: %d keys, %v", n, err)
	}
	if s.Addr() != addr {
		t.Errorf("the address was %s and is %s", addr, s.Addr())
	}
}

// await gives a client the time to find a server again.
func await(t *testing.T, when, want string, get func() (string, error)) {
	t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, err = get(); err == nil && got == want {
			return
		}
	}
	t.Fatalf("%s: %q, %v; want %q", when, got, err, want)
}

// The port is open on this machine alone: published ports go past a host's firewall.
func TestOnlyLoopbackIsPublished(t *testing.T) {
	i := images[0]
	local(t, i.image)
	s := i.start(t, i.image)
	if !s.engine.local() {
		t.Skip("the engine is elsewhere")
	}
	got, err := s.engine.Client().ContainerInspect(t.Context(), s.ctr.GetContainerID(), client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, list := range got.Container.NetworkSettings.Ports {
		for _, b := range list {
			n++
			if !b.HostIP.IsLoopback() {
				t.Errorf("published on %s", b.HostIP)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d ports are published", n)
	}
}

// A test program that is killed leaves its container behind; the next one removes it, and no container of a living one.
func TestContainersOfKilledTestsAreRemoved(t *testing.T) {
	const variable = "REDISX_TEST_CONTAINERS_CHILD"
	i := images[0]
	local(t, i.image)
	if path := os.Getenv(variable); path != "" {
		s := i.start(t, i.image)
		if err := os.WriteFile(path+".tmp", []byte(s.ctr.GetContainerID()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	mine := i.start(t, i.image)
	path := filepath.Join(t.TempDir(), "id")
	cmd := exec.Command(os.Args[0], "-test.run=^TestContainersOfKilledTestsAreRemoved$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), variable+"="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var id string
	for deadline := time.Now().Add(time.Minute); id == "" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(path)
		id = string(b)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if id == "" {
		t.Fatal("the child started no container")
	}
	cli := mine.engine.Client()
	exists := func(id string) bool {
		_, err := cli.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
		return err == nil
	}
	if !exists(id) {
		t.Fatal("the container ended with its test program: this test shows nothing")
	}
	sweepAgain()
	mine.engine.sweep(t.Context())
	if exists(id) {
		t.Error("the container of the killed test program is still there")
	}
	if !exists(mine.ctr.GetContainerID()) {
		t.Error("the container of this test program was removed")
	}
}

func TestOwnersThatCannotBeJudgedAreSpared(t *testing.T) {
	self := strings.Split(owner(), "/")
	for label, want := range map[string]bool{
		owner():                         false,
		self[0] + "/" + self[1] + "/1":  true,  // the number went to another process
		self[0] + "x/2147483646/12":     false, // another namespace has numbers of its own
		"elsewhere x/" + self[1] + "/1": false,
		self[0] + "/2147483646/12":      true,
		self[0]:                         false,
		self[0] + "/x/1":                false,
		self[0] + "/0/1":                false,
		self[0] + "/-1/1":               false,
		"":                              false,
	} {
		if got := gone(label); got != want {
			t.Errorf("gone(%q) = %v; want %v", label, got, want)
		}
	}
}

// recorder takes what a test would say, and ends like one.
type recorder struct {
	testing.TB
	failed, skipped bool
	text            string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.failed, r.text = true, fmt.Sprintf(format, args...)
	panic(r)
}
func (r *recorder) Skipf(format string, args ...any) {
	r.skipped, r.text = true, fmt.Sprintf(format, args...)
	panic(r)
}

func record(t *testing.T, fn func(testing.TB)) (r *recorder) {
	r = &recorder{TB: t}
	defer func() {
		if v := recover(); v != nil && v != any(r) {
			panic(v)
		}
	}()
	fn(r)
	return r
}

func TestBadOptionsAreRefused(t *testing.T) {
	for name, fn := range map[string]func(testing.TB){
		"no image":          func(t testing.TB) { StartRedis(t, "") },
		"config --save":     func(t testing.TB) { StartRedis(t, "x", Config("--save", "")) },
		"config with space": func(t testing.TB) { StartValkey(t, "x", Config("a b")) },
	} {
		if r := record(t, fn); !r.failed || !strings.Contains(r.text, "want") {
			t.Errorf("%s: %q", name, r.text)
		}
	}
}

func TestWithoutAnEngineTestsAreSkippedUnlessRequired(t *testing.T) {
	find = func(context.Context) (*engine, error) { return nil, errors.New("no socket") }
	defer func() { find = connect }()
	for require, want := range map[string]struct {
		failed bool
		text   string
	}{
		"":          {false, "no container engine: no socket"},
		"server":    {false, "no container engine: no socket"},
		"container": {true, `requires "container"`},
		"contain":   {true, "it may list"},
	} {
		t.Setenv(absence.EnvRequire, require)
		r := record(t, func(t testing.TB) { StartRedis(t, images[0].image) })
		if r.failed != want.failed || r.skipped == want.failed || !strings.Contains(r.text, want.text) {
			t.Errorf("require %q: failed %v, skipped %v: %s", require, r.failed, r.skipped, r.text)
		}
	}
}

func TestThePortsAreLookedForBesideOnlyOnAnEngineHere(t *testing.T) {
	t.Setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
	if beside() {
		t.Error("an engine elsewhere publishes its ports there")
	}
}

func TestAnImageThatIsNotToBeHadIsAFailure(t *testing.T) {
	local(t, images[0].image)
	r := record(t, func(t testing.TB) { StartRedis(t, "localhost:1/nothing:0") })
	if !r.failed || !strings.Contains(r.text, "servers.sh") {
		t.Errorf("failed %v, skipped %v: %s", r.failed, r.skipped, r.text)
	}
}

func TestAServerThatDoesNotStartSaysWhy(t *testing.T) {
	local(t, images[0].image)
	begin := time.Now()
	r := record(t, func(t testing.TB) { StartRedis(t, images[0].image, Config("nonsense", "1")) })
	if !r.failed || !strings.Contains(r.text, "Bad directive or wrong number of arguments") {
		t.Errorf("failed %v, skipped %v, after %v: %s", r.failed, r.skipped, time.Since(begin), r.text)
	}
	t.Logf("after %v: %s", time.Since(begin), r.text)
}

// What is waited for is an answer, not a line of a log that may be elsewhere or quiet.
func TestAServerWithAQuietLogStarts(t *testing.T) {
	local(t, images[0].image)
	s := StartRedis(t, images[0].image, Config("loglevel", "warning"))
	use(t, s.URL())
}

func TestAPasswordThatWasSetBesideIsRefusedAtOnce(t *testing.T) {
	local(t, images[0].image)
	r := record(t, func(t testing.TB) { StartRedis(t, images[0].image, Config("requirepass", "hidden")) })
	if !r.failed || !strings.Contains(r.text, "NOAUTH") || strings.Contains(r.text, "hidden") {
		t.Errorf("failed %v: %s", r.failed, r.text)
	}
}

func TestPasswordsOfAnyCharacters(t *testing.T) {
	local(t, images[1].image)
	for _, p := range []string{`p@ss:/#?&%41"' \x`, "--x", "$(id) ü\n"} {
		s := StartRedis(t, images[1].image, Password(p))
		use(t, s.URL())
	}
}

// A server may end by itself, or be in the middle of a save.
func TestAServerThatEndedOrSavesCanBeRestarted(t *testing.T) {
	local(t, images[1].image)
	s := StartRedis(t, images[1].image, Config("rdb-key-save-delay", "500000"))
	keys := func(when string, want int64) {
		t.Helper()
		if n, err := s.Do("DBSIZE").Int64(); err != nil || n != want {
			t.Errorf("%s: %d keys, %v; want %d", when, n, err, want)
		}
	}
	for _, k := range []string{"a", "b"} {
		if err := s.Do("SET", k, "v").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Do("BGSAVE").Err(); err != nil {
		t.Fatal(err)
	}
	s.Restart(true)
	keys("restarted during a save", 2)
	s.Do("SHUTDOWN", "NOSAVE")
	s.Kill()
	s.Restart(true)
	keys("ended by itself", 2)
	s.Kill()
	s.Restart(false)
	keys("without its data", 0)
	s.Kill()
	s.Restart(true)
	keys("what Restart(false) removed is not back", 0)
}

func TestAChangeMayMeetTheEndOfItsTest(t *testing.T) {
	local(t, images[0].image)
	var wg sync.WaitGroup
	t.Run("paused", func(t *testing.T) {
		s := StartRedis(t, images[0].image)
		s.Pause()
		wg.Go(func() {
			for s.Container() != nil {
				time.Sleep(time.Millisecond)
			}
		})
	})
	wg.Wait()
}
