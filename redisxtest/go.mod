module github.com/go-redisx/redisx/redisxtest

go 1.26.0

require (
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/go-redisx/redisx/core v0.1.0
	github.com/go-redisx/redisx/core/goredisdriver v0.1.0
	github.com/go-redisx/redisx/core/rueidisdriver v0.1.0
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
)

replace (
	github.com/go-redisx/redisx/core => ../core
	github.com/go-redisx/redisx/core/goredisdriver => ../core/goredisdriver
	github.com/go-redisx/redisx/core/rueidisdriver => ../core/rueidisdriver
)
