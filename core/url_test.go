package core

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// certFiles writes a self-signed certificate and its key.
func certFiles(t *testing.T) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestURLsAreTakenApart(t *testing.T) {
	base := Endpoint{
		Network: "tcp", Protocol: 3, ClientName: "redisx",
		DialTimeout: 2 * time.Second, ReadTimeout: 3 * time.Second, WriteTimeout: 3 * time.Second,
	}
	for url, change := range map[string]func(*Endpoint){
		"redis://localhost":       func(e *Endpoint) { e.Addrs = []string{"localhost:6379"} },
		"redis://:7000/":          func(e *Endpoint) { e.Addrs = []string{"localhost:7000"} },
		"REDIS://h:1/3":           func(e *Endpoint) { e.Addrs, e.DB = []string{"h:1"}, 3 },
		"redis://h?db=2":          func(e *Endpoint) { e.Addrs, e.DB = []string{"h:6379"}, 2 },
		"redis://[::1]:7000":      func(e *Endpoint) { e.Addrs = []string{"[::1]:7000"} },
		"redis://[::1]":           func(e *Endpoint) { e.Addrs = []string{"[::1]:6379"} },
		"redis://:s%40cr%2Fet@h":  func(e *Endpoint) { e.Addrs, e.Password = []string{"h:6379"}, "s@cr/et" },
		"redis://us%3Aer:p:w@h:1": func(e *Endpoint) { e.Addrs, e.Username, e.Password = []string{"h:1"}, "us:er", "p:w" },
		"redis-cluster://a,b:2,c": func(e *Endpoint) { e.Topology, e.Addrs = driver.Cluster, []string{"a:6379", "b:2", "c:6379"} },
		"unix:///run/r.sock?db=1": func(e *Endpoint) { e.Network, e.Addrs, e.DB = "unix", []string{"/run/r.sock"}, 1 },
		"unix://u:p@/run/r%20.sock": func(e *Endpoint) {
			e.Network, e.Addrs, e.Username, e.Password = "unix", []string{"/run/r .sock"}, "u", "p"
		},
		"redis-sentinel://a,b:1/my%2Fmaster?sentinel_password=sp&sentinel_username=su&db=4": func(e *Endpoint) {
			e.Topology, e.Addrs, e.MasterName = driver.Sentinel, []string{"a:26379", "b:1"}, "my/master"
			e.SentinelUsername, e.SentinelPassword, e.DB = "su", "sp", 4
		},
		"redis://h?protocol=2&client_name=shop&pool_size=7&dial_timeout=1s&read_timeout=200ms&write_timeout=1m": func(e *Endpoint) {
			e.Addrs, e.Protocol, e.ClientName, e.PoolSize = []string{"h:6379"}, 2, "shop", 7
			e.DialTimeout, e.ReadTimeout, e.WriteTimeout = time.Second, 200*time.Millisecond, time.Minute
		},
	} {
		want := base
		change(&want)
		got, err := ParseURL(url)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s\n got %+v, %v\nwant %+v", url, got, err, want)
		}
	}
}

func TestURLsForTLS(t *testing.T) {
	cert, key := certFiles(t)
	e, err := ParseURL("rediss://h:1?servername=redis.example&ca=" + cert + "&cert=" + cert + "&key=" + key)
	if err != nil || e.TLS == nil || e.TLS.ServerName != "redis.example" || e.TLS.RootCAs == nil || len(e.TLS.Certificates) != 1 {
		t.Fatalf("got %+v, %v", e, err)
	}
	for _, url := range []string{"rediss://h", "redis-cluster://h?tls=true", "redis-sentinel://h/m?tls=1"} {
		if e, err := ParseURL(url); err != nil || e.TLS == nil {
			t.Errorf("%s: %+v, %v; want TLS", url, e, err)
		}
	}
}

func TestAWrongURLIsOneClearErrorWithoutThePassword(t *testing.T) {
	cert, key := certFiles(t)
	const secret = "s3cr3tMarker"
	for url, wants := range map[string][]string{
		"":                                      {"scheme"},
		"localhost:6379":                        {"scheme"},
		"u:" + secret + "1@redis://h":           {"scheme"},
		"http://u:" + secret + "@h":             {`"http"`, "redis-sentinel"},
		"redis://u:" + secret + "@h:port":       {`"port"`, "65535"},
		"redis://u:" + secret + "@h:0":          {"65535"},
		"redis://u:" + secret + "%zz@h":         {"percent-encoded"},
		"redis://user@h":                        {"password"},
		"redis://h1,h2":                         {"2 hosts"},
		"redis://a:b:c":                         {"IPv6"},
		"redis://h,":                            {"empty"},
		"redis://h/x":                           {`"x"`, "number"},
		"redis://h/-1":                          {"number"},
		"redis-cluster://h/1":                   {"Cluster", "databases"},
		"redis-cluster://h?db=1":                {"Cluster", "databases"},
		"redis-sentinel://h":                    {"name"},
		"redis-sentinel://h/a/b":                {"name"},
		"unix://host/path":                      {"host"},
		"unix://":                               {"path"},
		"redis://u:" + secret + "@h?timeout=1s": {`"timeout"`, "read_timeout"},
		"redis://u:" + secret + "@h?password=" + secret: {`"password"`, "known are"},
		"redis://h?read_timeout=5":                      {"read_timeout", "500ms"},
		"redis://h?read_timeout=0s":                     {"read_timeout"},
		"redis://h?pool_size=0":                         {"pool_size", "10000"},
		"redis://h?protocol=4":                          {"protocol", "2 or 3"},
		"redis://h?client_name=a%20b":                   {"client_name"},
		"redis://h?db=1&db=2":                           {"db", "2 times"},
		"redis://h?tls=true":                            {"rediss"},
		"rediss://h?tls=false":                          {"redis://"},
		"redis://h?ca=" + cert:                          {"need TLS"},
		"rediss://h?ca=/does/not/exist":                 {"ca", "/does/not/exist"},
		"rediss://h?ca=" + key:                          {"no PEM certificate"},
		"rediss://h?cert=" + cert:                       {"together"},
		"rediss://h?cert=" + cert + "&key=" + cert:      {"cert and key"},
		"redis://h?sentinel_password=" + secret:         {"redis-sentinel"},
		"redis-sentinel://h/m?sentinel_username=x":      {"sentinel_password"},
		"redis://h?x=%zz":                               {"percent-encoded"},
		"redis://h/x?pool_size=0&wrong=1&protocol=9":    {`"x"`, "pool_size", `"wrong"`, "protocol"},
	} {
		_, err := ParseURL(url)
		if err == nil {
			t.Errorf("%s is taken", url)
			continue
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q does not mention %q", url, err, want)
			}
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error contains the password: %q", url, err)
		}
	}
	e, err := ParseURL("redis://u:" + secret + "@h")
	if err != nil || strings.Contains(e.String(), secret) {
		t.Errorf("String shows the password: %v, %v", e, err)
	}
}

func FuzzParseURLNeverPanicsNorPrintsThePassword(f *testing.F) {
	for _, s := range []string{"redis://h", "redis://u:p@h:1/2?db=3", "unix:///x", "redis-sentinel://a,b/m", "://", "redis://@", "redis://[", "?", "redis://h?%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseURL(s)
		if (e == nil) == (err == nil) {
			t.Errorf("endpoint %v, error %v", e, err)
		}
		if e != nil && len(e.Addrs) == 0 {
			t.Error("no address and no error")
		}
		_, err = ParseURL("redis://u:Zx9marker@" + s)
		if err != nil && !strings.Contains(s, "Zx9marker") && strings.Contains(err.Error(), "Zx9marker") {
			t.Errorf("password in %q", err)
		}
	})
}
