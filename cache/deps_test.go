package cache

import (
	_ "github.com/go-redisx/redisx/core"
	_ "github.com/go-redisx/redisx/redisxtest"
	_ "github.com/maypok86/otter/v2"
	_ "go.uber.org/goleak"
)
