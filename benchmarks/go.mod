module github.com/go-redisx/redisx/benchmarks

go 1.26.0

require (
	github.com/dgraph-io/ristretto/v2 v2.4.2
	github.com/go-redis/cache/v9 v9.0.0
	github.com/go-redisx/redisx/cache v0.1.0
	github.com/go-redisx/redisx/core v0.1.0
	github.com/go-redisx/redisx/core/goredisdriver v0.1.0
	github.com/go-redisx/redisx/core/rueidisdriver v0.1.0
	github.com/go-redisx/redisx/redisxtest v0.1.0
	github.com/maypok86/otter/v2 v2.4.0
	github.com/redis/go-redis/v9 v9.23.0
	github.com/redis/rueidis v1.0.79
	github.com/viccon/sturdyc v1.1.5
	github.com/vmihailenco/msgpack/v5 v5.4.1
)

require (
	github.com/alicebob/miniredis/v2 v2.40.0 // indirect
	github.com/anishathalye/porcupine v1.3.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/klauspost/compress v1.20.4 // indirect
	github.com/vmihailenco/go-tinylfu v0.2.2 // indirect
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	golang.org/x/sync v0.1.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/go-redisx/redisx/cache => ../cache
	github.com/go-redisx/redisx/core => ../core
	github.com/go-redisx/redisx/core/goredisdriver => ../core/goredisdriver
	github.com/go-redisx/redisx/core/rueidisdriver => ../core/rueidisdriver
	github.com/go-redisx/redisx/redisxtest => ../redisxtest
)
