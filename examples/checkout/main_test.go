package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-redisx/redisx/redisxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheDemoPassesWithEitherDriver(t *testing.T) {
	for _, name := range []string{"goredis", "rueidis"} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			require.NoError(t, run(t.Context(), []string{"-demo", "-driver", name}, &out, &errs), "%s%s", &out, &errs)
			require.Contains(t, out.String(), "Demo passed")
			require.Contains(t, out.String(), "503")
		})
	}
}

func TestTheDemoPassesOnARealServer(t *testing.T) {
	s := redisxtest.StartServer(t)
	for _, name := range []string{"goredis", "rueidis"} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			require.NoError(t, run(t.Context(), []string{"-demo", "-driver", name, "-redis", s.URL()}, &out, &errs), "%s%s", &out, &errs)
			require.Contains(t, out.String(), "Demo passed")
		})
	}
}

func TestItServesAndTellsWhatToTry(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-listen", "127.0.0.1:0"}, w, io.Discard)
		w.Close()
	}()
	var urls []string
	for scan := bufio.NewScanner(r); scan.Scan(); {
		if i := strings.Index(scan.Text(), "http://"); i >= 0 && strings.Contains(scan.Text(), "curl") {
			urls = append(urls, strings.Fields(scan.Text()[i:])[0])
		}
		if strings.HasPrefix(scan.Text(), "Stop") {
			break
		}
	}
	go io.Copy(io.Discard, r)
	require.Len(t, urls, 4, "four curl lines")
	for _, url := range urls {
		resp, err := http.Get(url)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", url, body)
		require.True(t, json.Valid(body), "%s: %s", url, body)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("it does not stop")
	}
}

func TestAMistakeIsOneClearError(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for want, args := range map[string][]string{
		"want goredis or rueidis": {"-driver", "jedis"},
		"redis-sentinel":          {"-redis", "http://localhost"},
		"refused":                 {"-redis", "redis://127.0.0.1:1"},
		"-listen":                 {"-listen", taken.Addr().String()},
		"unexpected argument":     {"demo"},
		"-redis is empty":         {"-redis", ""},
		"see -help":               {"-nope"},
	} {
		var errs bytes.Buffer
		err := run(t.Context(), args, io.Discard, &errs)
		require.ErrorContains(t, err, want, "%q", args)
		require.NotContains(t, errs.String(), "nope", "main prints it already")
	}
}
