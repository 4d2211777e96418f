package chaos_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

func dedicate(t *testing.T, d driver.Driver) driver.Conn {
	t.Helper()
	c, err := d.(driver.Dedicated).Dedicate(within(t), "k")
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A connection that broke stays broken, and others do not.
func TestConnBreaksForGood(t *testing.T) {
	for _, rule := range []chaos.Rule{
		chaos.On("INCR").Nth(2).LoseReply(), chaos.On("INCR").Nth(2).LoseRequest(), chaos.On("INCR").Nth(2).Refuse(),
	} {
		t.Run(rule.String(), func(t *testing.T) {
			each(t, func(t *testing.T, plain driver.Driver) {
				d := chaos.Wrap(plain, rules(rule))
				c := dedicate(t, d)
				require.NoError(t, c.Do(within(t), cmd("INCR", "n")).Err())
				require.Error(t, c.Do(within(t), cmd("INCR", "n")).Err())
				held := get(t, plain, "n")
				err := c.Do(within(t), cmd("INCR", "n")).Err()
				require.ErrorIs(t, err, driver.ErrNotSent)
				require.ErrorIs(t, err, chaos.ErrInjected)
				require.ErrorIs(t, c.DoMulti(within(t), []driver.Cmd{cmd("INCR", "n")})[0].Err(), driver.ErrNotSent)
				require.Equal(t, held, get(t, plain, "n"))
				require.NoError(t, dedicate(t, d).Do(within(t), cmd("INCR", "n")).Err())
			})
		})
	}
}

func TestTransactions(t *testing.T) {
	transaction := []driver.Cmd{{Args: []string{"MULTI"}}, cmd("INCR", "n"), cmd("INCR", "m"), {Args: []string{"EXEC"}}}
	for _, c := range []struct {
		rule string
		want [4]string // per reply: "ok", "unknown" or a code
		n, m string
	}{
		{"on EXEC lose-reply", [4]string{"ok", "ok", "ok", "unknown"}, "1", "1"},
		{"on EXEC lose-request", [4]string{"ok", "ok", "ok", "unknown"}, "nothing", "nothing"},
		{"on INCR nth=1 lose-reply", [4]string{"ok", "unknown", "unknown", "unknown"}, "1", "1"},
		{"on INCR nth=2 lose-request", [4]string{"ok", "ok", "unknown", "unknown"}, "nothing", "nothing"},
		{"on INCR nth=1 reply OOM", [4]string{"ok", "OOM", "ok", "EXECABORT"}, "nothing", "nothing"},
		{"on EXEC reply READONLY", [4]string{"ok", "ok", "ok", "READONLY"}, "nothing", "nothing"},
		{"on INCR key=n duplicate", [4]string{"ok", "ok", "ok", "ok"}, "2", "1"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			each(t, func(t *testing.T, plain driver.Driver) {
				for name, send := range map[string]func(driver.Conn) []driver.Reply{
					"in one list": func(conn driver.Conn) []driver.Reply { return conn.DoMulti(within(t), transaction) },
					"one by one": func(conn driver.Conn) (rs []driver.Reply) {
						for _, c := range transaction {
							rs = append(rs, conn.Do(within(t), c))
						}
						return rs
					},
				} {
					if name == "one by one" && c.rule == "on INCR nth=1 lose-reply" {
						continue // without EXEC behind it nothing is run
					}
					require.NoError(t, plain.Do(within(t), cmd("DEL", "n")).Err())
					require.NoError(t, plain.Do(within(t), cmd("DEL", "m")).Err())
					conn := dedicate(t, chaos.Wrap(plain, parse(t, c.rule)))
					for i, r := range send(conn) {
						switch c.want[i] {
						case "ok":
							require.NoError(t, r.Err(), "%s: reply %d", name, i)
						case "unknown":
							if name == "in one list" || r.Err() == nil {
								wantUnknown(t, r.Err())
							}
						default:
							wantCode(t, c.want[i], r.Err())
						}
					}
					require.Equal(t, c.n, get(t, plain, "n"), name)
					require.Equal(t, c.m, get(t, plain, "m"), name)
				}
			})
		})
	}
}

func TestConnKeepsTheContract(t *testing.T) {
	each(t, func(t *testing.T, plain driver.Driver) {
		d := chaos.Wrap(plain, parse(t, "on INCR nth=1 lose-reply\non INCR bug-retry"))
		c := dedicate(t, d)
		for _, r := range c.DoMulti(within(t), []driver.Cmd{cmd("INCR", "n"), {}}) {
			require.ErrorIs(t, r.Err(), driver.ErrInvalid)
		}
		require.Empty(t, d.Log(), "a list that is refused does not count")
		wantUnknown(t, c.Do(within(t), cmd("INCR", "n")).Err())
		require.Len(t, d.Log(), 1, "there is nothing to retry on")
		require.Equal(t, "1", get(t, plain, "n"))

		c = dedicate(t, d)
		require.NoError(t, d.Close())
		require.ErrorIs(t, c.Do(within(t), cmd("INCR", "n")).Err(), driver.ErrClosed)
		require.ErrorIs(t, c.DoMulti(within(t), []driver.Cmd{cmd("INCR", "n")})[0].Err(), driver.ErrClosed)
	})
}
