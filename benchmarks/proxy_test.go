package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-redisx/redisx/redisxtest"
)

func TestEveryComparisonOfTheProxyRuns(t *testing.T) {
	s := redisxtest.StartServer(t, redisxtest.Password("secret"))
	var out bytes.Buffer
	if err := run([]string{"-rounds", "1", "-time", "5ms", "-run", "^proxy", "-redis", s.URL()}, &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "| proxy/"); n != 12 || strings.Contains(out.String(), "failed") {
		t.Errorf("%d rows\n%s", n, &out)
	}
}
