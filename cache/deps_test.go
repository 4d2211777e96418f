package cache

import (
	_ "github.com/go-redisx/redisx/redisxtest"
	_ "github.com/stretchr/testify/require"
)
