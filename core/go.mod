module github.com/go-redisx/redisx/core

go 1.26.0
