package certificate

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

func TestServersAreTrustedByTheNamesTheyAreFor(t *testing.T) {
	for host, other := range map[string]string{"192.0.2.1": "192.0.2.2", "engine.test": "192.0.2.1", "localhost": "engine.test", "": "engine.test"} {
		dir := t.TempDir()
		if err := ProvideFor(dir, host); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "server.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		trust := Trust(filepath.Join(dir, "ca.pem"))
		for _, name := range []string{host, "localhost", "127.0.0.1", "::1"} {
			if name == "" {
				continue
			}
			if _, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: trust.RootCAs}); err != nil {
				t.Errorf("made for %q: %s: %v", host, name, err)
			}
		}
		if cert.VerifyHostname(other) == nil {
			t.Errorf("made for %q: %s is trusted too", host, other)
		}
	}
}
