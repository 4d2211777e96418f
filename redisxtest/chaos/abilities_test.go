package chaos_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-redisx/redisx/core/driver"
	"github.com/go-redisx/redisx/redisxtest/chaos"
)

type (
	hasR struct{}
	hasS struct{}
	hasT struct{}
	hasD struct{}
)

func (hasR) Node(string) string                                   { return "node" }
func (hasS) Subscribe(context.Context, driver.Subscription) error { return nil }
func (hasT) Track(context.Context, driver.Tracking) error         { return nil }
func (hasD) Dedicate(context.Context, string) (c driver.Conn, err error) {
	return nil, driver.ErrClosed
}

// Type assertions, which core and plugins go by, tell the truth for every set of abilities.
func TestAbilitiesAreThoseOfTheDriverBelow(t *testing.T) {
	for i, d := range []driver.Driver{ // bit 0 is R, bit 1 S, bit 2 T, bit 3 D
		&stub{},
		struct {
			*stub
			hasR
		}{&stub{}, hasR{}},
		struct {
			*stub
			hasS
		}{&stub{}, hasS{}},
		struct {
			*stub
			hasR
			hasS
		}{&stub{}, hasR{}, hasS{}},
		struct {
			*stub
			hasT
		}{&stub{}, hasT{}},
		struct {
			*stub
			hasR
			hasT
		}{&stub{}, hasR{}, hasT{}},
		struct {
			*stub
			hasS
			hasT
		}{&stub{}, hasS{}, hasT{}},
		struct {
			*stub
			hasR
			hasS
			hasT
		}{&stub{}, hasR{}, hasS{}, hasT{}},
		struct {
			*stub
			hasD
		}{&stub{}, hasD{}},
		struct {
			*stub
			hasR
			hasD
		}{&stub{}, hasR{}, hasD{}},
		struct {
			*stub
			hasS
			hasD
		}{&stub{}, hasS{}, hasD{}},
		struct {
			*stub
			hasR
			hasS
			hasD
		}{&stub{}, hasR{}, hasS{}, hasD{}},
		struct {
			*stub
			hasT
			hasD
		}{&stub{}, hasT{}, hasD{}},
		struct {
			*stub
			hasR
			hasT
			hasD
		}{&stub{}, hasR{}, hasT{}, hasD{}},
		struct {
			*stub
			hasS
			hasT
			hasD
		}{&stub{}, hasS{}, hasT{}, hasD{}},
		struct {
			*stub
			hasR
			hasS
			hasT
			hasD
		}{&stub{}, hasR{}, hasS{}, hasT{}, hasD{}},
	} {
		w := chaos.Wrap(d, chaos.Script{})
		r, isR := w.(driver.Router)
		s, isS := w.(driver.Subscriber)
		tr, isT := w.(driver.Tracker)
		de, isD := w.(driver.Dedicated)
		what := fmt.Sprintf("%T", d)
		require.Equal(t, i&1 != 0, isR, what)
		require.Equal(t, i&2 != 0, isS, what)
		require.Equal(t, i&4 != 0, isT, what)
		require.Equal(t, i&8 != 0, isD, what)
		if isR {
			require.Equal(t, "node", r.Node("k"))
		}
		if isS {
			require.NoError(t, s.Subscribe(within(t), driver.Subscription{}))
		}
		if isT {
			require.NoError(t, tr.Track(within(t), driver.Tracking{}))
		}
		if isD {
			_, err := de.Dedicate(within(t), "k")
			require.ErrorIs(t, err, driver.ErrClosed)
		}
		require.Same(t, d.Unwrap(), w.Unwrap())
	}
}
