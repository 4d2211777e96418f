module github.com/go-redisx/redisx/benchmarks

go 1.26.0

require (
	github.com/go-redisx/redisx/core v0.1.0
	github.com/go-redisx/redisx/core/goredisdriver v0.1.0
	github.com/go-redisx/redisx/core/rueidisdriver v0.1.0
	github.com/go-redisx/redisx/redisxtest v0.1.0
	github.com/redis/go-redis/v9 v9.23.0
	github.com/redis/rueidis v1.0.79
)

require (
	github.com/alicebob/miniredis/v2 v2.40.0 // indirect
	github.com/anishathalye/porcupine v1.3.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
)

replace (
	github.com/go-redisx/redisx/core => ../core
	github.com/go-redisx/redisx/core/goredisdriver => ../core/goredisdriver
	github.com/go-redisx/redisx/core/rueidisdriver => ../core/rueidisdriver
	github.com/go-redisx/redisx/redisxtest => ../redisxtest
)
