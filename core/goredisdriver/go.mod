module github.com/go-redisx/redisx/core/goredisdriver

go 1.26.0

require (
	github.com/go-redisx/redisx/core v0.1.0
	github.com/redis/go-redis/v9 v9.23.0
)

replace github.com/go-redisx/redisx/core => ../
