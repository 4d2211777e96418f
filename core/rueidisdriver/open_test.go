package rueidisdriver

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
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/core/driver"
	"github.com/redis/rueidis"
)

func openFails(t *testing.T, url string, want string, opts ...Option) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	d, err := Open(ctx, url, opts...)
	if err == nil {
		_ = d.Close()
		t.Errorf("Open(%s): no error", url)
		return nil
	}
	if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open(%s): %v; want one that says %q and no password", url, err, want)
	}
	if text := err.Error(); strings.Count(text, "redisx:") != 1 || strings.Contains(text, "\n") || opts == nil && !strings.HasPrefix(text, "redisx: connecting to ") {
		t.Errorf("Open(%s): %q; want one line that starts with redisx: connecting to", url, text)
	}
	t.Log(err)
	return err
}

func TestOpenNamesTheCause(t *testing.T) {
	s := startServer(t)
	locked := startServer(t, "--requirepass", "right")
	before := runtime.NumGoroutine()
	silent, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	openFails(t, "redis://:hunter2@"+locked.addr, "WRONGPASS")
	openFails(t, "redis://bob:hunter2@"+locked.addr, "WRONGPASS")
	openFails(t, "redis://:hunter2@"+locked.addr+"?protocol=2", "WRONGPASS")
	openFails(t, locked.url(), "NOAUTH")
	openFails(t, s.url()+"/999", "database 999")
	openFails(t, s.url()+"/999?protocol=2", "database 999")
	openFails(t, fmt.Sprintf("redis://127.0.0.1:%d", freePort(t)), "refused")
	openFails(t, "redis-cluster://"+s.addr, "not a Cluster")
	openFails(t, "redis-cluster://"+s.addr+","+s.addr, "not a Cluster")
	openFails(t, "redis-sentinel://"+s.addr+"/m", "no Sentinel")
	openFails(t, "redis-sentinel://"+s.addr+"/m?protocol=2", "no Sentinel")
	openFails(t, "unix:///nowhere/redis.sock", "no such file")
	openFails(t, "redis://"+silent.Addr().String()+"?dial_timeout=200ms", "in time")
	openFails(t, s.url(), "function is nil", WithDialer(nil))
	openFails(t, s.url(), "config is nil", WithTLSConfig(nil))
	openFails(t, s.url(), "function is nil", WithClientOption(nil))
	openFails(t, s.url(), "option is nil", nil)
	openFails(t, s.url(), "my dialer", WithDialer(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("my dialer") }))
	for _, url := range []string{"redis://" + silent.Addr().String(), "redis-cluster://" + silent.Addr().String(), "redis-sentinel://" + silent.Addr().String() + "/m"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		_, err := Open(ctx, url)
		cancel()
		if took := time.Since(start); took > 100*time.Millisecond+prompt || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open(%s) with a silent server: %v after %v", url, err, took)
		}
	}
	eventually(t, 5*time.Second, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

// certificate writes a certificate for 127.0.0.1, signed by itself, and its key.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return cert, key, pool
}

// answering returns the address of a server that sends one and the same answer to everything, and then closes.
func answering(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				_, _ = c.Write([]byte(answer))
			}()
		}
	}()
	return l.Addr().String()
}

func TestOpenTellsTLSFromPlain(t *testing.T) {
	plain := startServer(t)
	cert, key, _ := certificate(t)
	tlsPort := freePort(t)
	startServer(t, "--tls-port", fmt.Sprint(tlsPort), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
	secure := fmt.Sprintf("127.0.0.1:%d", tlsPort)
	const no, perhaps = "does not speak TLS", "perhaps it expects TLS"
	openFails(t, "rediss://"+plain.addr+"?dial_timeout=300ms", no) // a real server waits for the end of the line
	openFails(t, "redis-cluster://"+plain.addr+"?dial_timeout=300ms&tls=true", no)
	openFails(t, "rediss://"+answering(t, "-ERR Protocol error\r\n"), no)
	openFails(t, "rediss://"+answering(t, ""), no)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, "rediss://"+plain.addr); err == nil || !strings.Contains(err.Error(), no) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	openFails(t, "redis://"+secure, perhaps)
	openFails(t, "redis://"+secure+"?protocol=2", perhaps)
	openFails(t, "redis-cluster://"+secure, perhaps)
	openFails(t, "redis-sentinel://"+secure+"/m", perhaps)
	openFails(t, "redis://"+answering(t, "\x15\x03\x01\x00\x02\x02\x0a"), "it expects TLS")
	openFails(t, "rediss://"+secure+"?ca="+cert, "client certificate")
	// One that answers is no TLS port, whatever happens next.
	for _, answer := range []string{"-ERR nothing works here\r\n", "+OK\r\n"} {
		if err := openFails(t, "redis://"+answering(t, answer), ""); err != nil && strings.Contains(err.Error(), "TLS") {
			t.Errorf("after %q: %v", answer, err)
		}
	}
}

func TestTLSAndUnixSocket(t *testing.T) {
	cert, key, pool := certificate(t)
	tlsPort := freePort(t)
	sock := filepath.Join(t.TempDir(), "r.sock")
	startServer(t, "--tls-port", fmt.Sprint(tlsPort), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--unixsocket", sock)
	secure := fmt.Sprintf("127.0.0.1:%d", tlsPort)
	openFails(t, "rediss://"+secure, "unknown authority")
	for _, d := range []*Driver{
		open(t, "rediss://"+secure+"?ca="+cert+"&cert="+cert+"&key="+key),
		open(t, "unix://"+sock),
		open(t, "unix://"+sock+"?db=3&protocol=2"),
	} {
		if got, err := d.Do(t.Context(), cmd("PING")).Text(); got != "PONG" {
			t.Errorf("%q, %v", got, err)
		}
		c, err := d.Dedicate(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	open(t, "redis://"+secure, WithTLSConfig(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}))
}

func TestOptionsAndParametersTakeEffect(t *testing.T) {
	s := startServer(t)
	s.cli("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all")
	dialled := 0
	d := open(t, "redis://app:secret@"+s.addr+"/4?client_name=shop",
		WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled++
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}),
		WithClientOption(func(o *rueidis.ClientOption) { o.PipelineMultiplex = -1; o.DisableRetry = false; o.SelectDB = 7 }))
	info, err := d.Do(t.Context(), cmd("CLIENT", "INFO")).Text()
	if err != nil || !strings.Contains(info, "name=shop") || !strings.Contains(info, "db=4") || !strings.Contains(info, "user=app") || !strings.Contains(info, "resp=3") {
		t.Errorf("%s, %v", info, err)
	}
	for range 50 {
		d.Do(t.Context(), reading("GET", "k"))
	}
	if dialled != 1 {
		t.Errorf("the dialer ran %d times, want 1 with one connection", dialled)
	}
}

// TestStandaloneThatAnswersClusterSlots opens a server as redis:// that looks like a Cluster to the client.
func TestStandaloneThatAnswersClusterSlots(t *testing.T) {
	s := startServer(t, "--cluster-enabled", "yes")
	s.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	d := open(t, s.url())
	if d.topology != driver.Standalone {
		t.Errorf("taken for a %v", d.topology)
	}
}

// What cannot connect has sent nothing: that is a class of failure which an application may act on.
func TestAFailureToConnectHasAClass(t *testing.T) {
	for url, want := range map[string]core.Class{
		"redis://127.0.0.1:1": core.ClassNotSent,
		"redis://" + answering(t, "-ERR max number of clients reached\r\n"): core.ClassNotSent, // the client does not pass it on
		"redis://" + answering(t, "+OK\r\n"):                                core.ClassNotSent,
	} {
		err := openFails(t, url, "")
		if got := core.Classify(err); got != want || !errors.Is(err, driver.ErrNotSent) {
			t.Errorf("%s: class %s, want %s: %v", url, got, want, err)
		}
	}
}
