package cache

import (
	_ "github.com/go-redisx/redisx/core"
	_ "github.com/go-redisx/redisx/redisxtest"
	_ "github.com/klauspost/compress/s2"
	_ "github.com/maypok86/otter/v2"
	_ "github.com/stretchr/testify/require"
	_ "github.com/vmihailenco/msgpack/v5"
	_ "go.uber.org/goleak"
	_ "google.golang.org/protobuf/proto"
)
