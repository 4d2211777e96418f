package goredisdriver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// authority is a certificate authority of a test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a.file = tempFile(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue returns the files of a certificate for 127.0.0.1 and its key.
func (a *authority) issue(t testing.TB) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return tempFile(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		tempFile(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
}

// TestEveryWayToConnect does a bit of everything over TLS with a client certificate, a Unix socket and as an ACL user.
func TestEveryWayToConnect(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t)
	tlsPort := freePort(t)
	socket := filepath.Join(t.TempDir(), "s")
	s := startServer(t, "--unixsocket", socket, "--tls-port", fmt.Sprint(tlsPort),
		"--tls-ca-cert-file", ca.file, "--tls-cert-file", cert, "--tls-key-file", key)
	for _, scheme := range []string{"redis://", "redis-cluster://"} {
		if _, err := Open(background(t), scheme+fmt.Sprintf("127.0.0.1:%d", tlsPort)); err == nil || !strings.Contains(err.Error(), "expects TLS") {
			t.Errorf("%s at a port with TLS: %v", scheme, err)
		}
	}
	s.do("ACL", "SETUSER", "app", "on", ">se:cret/@", "~app:*", "&app:*", "+@all", "-debug")
	clientCert, clientKey := ca.issue(t)
	secure := fmt.Sprintf("rediss://127.0.0.1:%d", tlsPort)
	for name, url := range map[string]string{
		"TLS":  secure + "?ca=" + ca.file + "&cert=" + clientCert + "&key=" + clientKey,
		"Unix": "unix://" + socket + "?db=2",
		"ACL":  "redis://app:se%3Acret%2F%40@" + s.addr,
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, url)
			ctx, cancel := context.WithCancel(background(t))
			must(t, d.Do(ctx, command("SET", "app:k", "v")))
			if v, err := d.DoMulti(ctx, []driver.Cmd{read("GET", "app:k")})[0].Text(); v != "v" {
				t.Errorf("GET: %q, %v", v, err)
			}
			pop := driver.Cmd{Args: []string{"BLPOP", "app:list", "5"}, Keys: driver.Key(1), Mode: driver.Blocking}
			popped := make(chan driver.Reply, 1)
			go func() { popped <- d.Do(ctx, pop) }()
			must(t, d.Do(ctx, command("RPUSH", "app:list", "x")))
			if got, err := (<-popped).Strings(); len(got) != 2 || got[1] != "x" {
				t.Errorf("BLPOP: %v, %v", got, err)
			}
			events, done := make(chan string, 10), make(chan error, 1)
			go func() {
				done <- d.Track(ctx, driver.Tracking{
					Prefixes: []string{"app:"}, OnConfirmed: func() { events <- "confirmed" }, OnLost: func(err error) { events <- err.Error() },
					OnInvalidate: func(keys []string) { events <- keys[0] },
				})
			}()
			want(t, events, "confirmed")
			must(t, d.Do(ctx, command("SET", "app:k", "w")))
			want(t, events, "app:k")

			long := driver.Cmd{Args: []string{"EVAL", "while redis.call('EXISTS', KEYS[1]) == 1 do end", "1", "app:k"}, Keys: driver.Key(3)}
			s.do("CONFIG", "SET", "lua-time-limit", "100")
			slow, leave := context.WithCancel(ctx)
			left := make(chan time.Time, 1)
			go func() {
				for slow.Err() == nil {
					if _, err := s.try("GET", "app:k"); err != nil && strings.Contains(err.Error(), "BUSY") {
						left <- time.Now()
						leave()
					}
				}
			}()
			err := d.Do(slow, long).Err()
			leave()
			if took := time.Since(<-left); took > time.Second || !errors.Is(err, context.Canceled) || !errors.Is(err, driver.ErrUnknownOutcome) {
				t.Errorf("canceled EVAL: %v after %v", err, took)
			}
			eventually(t, 30*time.Second, "the script is killed", func() bool {
				_, err := s.try("SCRIPT", "KILL")
				return err == nil || strings.Contains(err.Error(), "NOTBUSY")
			})
			eventually(t, 30*time.Second, "the driver goes on", func() bool { return d.Do(ctx, read("GET", "app:k")).Err() == nil })
			cancel()
			<-done
		})
	}
	roots := x509.NewCertPool()
	pemFile, err := os.ReadFile(ca.file)
	if err != nil || !roots.AppendCertsFromPEM(pemFile) {
		t.Fatal("no roots", err)
	}
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	given := open(t, secure, WithTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}))
	must(t, given.Do(background(t), command("SET", "app:k", "v")))

	for name, url := range map[string]string{
		"certificate": secure,                        // an authority nobody knows
		"ertificate":  secure + "?ca=" + ca.file,     // the server wants a certificate of the client
		"NOPERM":      "redis://limited:x@" + s.addr, // may not set its name
	} {
		s.do("ACL", "SETUSER", "limited", "on", ">x", "-@all", "+hello", "+ping")
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		d, err := Open(ctx, url)
		if cancel(); err == nil {
			_ = d.Close()
			t.Errorf("Open(%q) works", url)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("Open(%q): %v; want %q", url, err, name)
		}
	}
}

// TestCancellationHitsTheRightCall cancels many calls on shared connections while others run: those must not notice.
func TestCancellationHitsTheRightCall(t *testing.T) {
	s := startServer(t)
	d := open(t, "redis://"+s.addr+"?pool_size=4")
	ctx := background(t)
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			key := fmt.Sprint("k", g)
			for i := range 150 {
				if g%2 == 0 {
					short, leave := context.WithTimeout(ctx, time.Duration(i%5)*100*time.Microsecond)
					r := d.Do(short, driver.Cmd{Args: []string{"EVAL", "local n = 0 for i = 1, 20000 do n = n + i end return n", "0"}})
					if err := r.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("canceled call: %v", err)
					}
					leave()
					continue
				}
				value := fmt.Sprint(key, "=", i)
				if err := d.Do(ctx, command("SET", key, value)).Err(); err != nil {
					t.Errorf("SET beside canceled calls: %v", err)
				}
				if got, err := d.DoMulti(ctx, []driver.Cmd{read("GET", key)})[0].Text(); got != value {
					t.Errorf("GET beside canceled calls: %q, %v; want %q", got, err, value)
				}
			}
		})
	}
	all.Wait()
	d.guard.mu.Lock()
	if d.guard.calls != nil {
		t.Error("calls stay under guard")
	}
	d.guard.mu.Unlock()
}

// TestCanceledPopLosesNothing races a push against the end of BLPOP's context, on pooled connections.
func TestCanceledPopLosesNothing(t *testing.T) {
	s := startServer(t)
	d := open(t, "redis://"+s.addr)
	ctx := background(t)
	pushed, popped, unknown := 0, 0, 0
	for i := range 200 {
		short, leave := context.WithCancel(ctx)
		got := make(chan driver.Reply, 1)
		go func() {
			got <- d.Do(short, driver.Cmd{Args: []string{"BLPOP", "q", "0"}, Keys: driver.Key(1), Mode: driver.Blocking})
		}()
		time.AfterFunc(time.Duration(i%25)*100*time.Microsecond, leave) // before, while and after the push arrives
		if d.Do(ctx, command("RPUSH", "q", "x")).Err() == nil {
			pushed++
		}
		r := <-got
		switch list, err := r.Strings(); {
		case len(list) == 2:
			popped++
		case errors.Is(err, driver.ErrUnknownOutcome):
			unknown++
		case !errors.Is(err, context.Canceled):
			t.Fatalf("BLPOP: %v, %v", r, err)
		}
		n, err := d.Do(ctx, command("LLEN", "q")).Int64()
		if err != nil {
			t.Fatal(err)
		}
		if lost := pushed - popped - int(n); lost > unknown {
			t.Fatalf("round %d: pushed %d, popped %d, %d left, %d unknown", i, pushed, popped, n, unknown)
		}
	}
	t.Logf("pushed %d, popped %d, unknown %d", pushed, popped, unknown)
}
