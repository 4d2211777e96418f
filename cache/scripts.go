package cache

import (
	_ "embed"

	"github.com/go-redisx/redisx/core"
)

var (
	//go:embed lua/lease.lua
	leaseLua string
	//go:embed lua/fill.lua
	fillLua string
	//go:embed lua/release.lua
	releaseLua string
	//go:embed lua/renew.lua
	renewLua string
	//go:embed lua/set.lua
	setLua string
	//go:embed lua/delete.lua
	deleteLua string
	//go:embed lua/expire.lua
	expireLua string
	//go:embed lua/replay.lua
	replayLua string
	//go:embed lua/raise.lua
	raiseLua string
	//go:embed lua/bump.lua
	bumpLua string
	//go:embed lua/version.lua
	versionLua string
)

var (
	leaseScript   = core.NewScript("cache.lease", leaseLua)
	fillScript    = core.NewScript("cache.fill", fillLua)
	releaseScript = core.NewScript("cache.release", releaseLua)
	renewScript   = core.NewScript("cache.renew", renewLua)
	setScript     = core.NewScript("cache.set", setLua)
	deleteScript  = core.NewScript("cache.delete", deleteLua)
	expireScript  = core.NewScript("cache.expire", expireLua)
	replayScript  = core.NewScript("cache.replay", replayLua)
	raiseScript   = core.NewScript("cache.raise", raiseLua)
	bumpScript    = core.NewScript("cache.bump", bumpLua)
	versionScript = core.NewScript("cache.version", versionLua)
)
