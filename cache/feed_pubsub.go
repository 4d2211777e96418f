package cache

import (
	"errors"

	"github.com/go-redisx/redisx/core"
)

// newPubSubFeed returns a feed over one channel of the cache called name, for keys that begin with values or tags.
func newPubSubFeed(client *core.Client, name, values, tags string, s sink) (feed, error) {
	return nil, errors.New("redisx: cache: not yet")
}
