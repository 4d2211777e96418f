package containers

import (
	"fmt"
	"strings"

	"github.com/testcontainers/testcontainers-go"
)

// Option changes how a container is started.
type Option func(*config)

type config struct {
	tls      bool
	password string
	args     []string
	custom   []testcontainers.ContainerCustomizer
	err      error
}

// TLS makes the server speak TLS only, with a certificate for localhost, 127.0.0.1 and the host of [Server.Addr], of an
// authority made for this server.
// [Server.URL] then is rediss:// with the parameter ca; [Server.ClientCertURL] has a client certificate too.
func TLS() Option { return func(c *config) { c.tls = true } }

// Password makes the default user need a password. It is part of [Server.URL]. Empty is no password, the default.
func Password(password string) Option { return func(c *config) { c.password = password } }

// Config sets a line of the configuration, such as Config("maxmemory", "1mb"). Without one for save or appendonly nothing
// is persisted.
func Config(name string, values ...string) Option {
	return func(c *config) {
		if name == "" || strings.HasPrefix(name, "-") || strings.ContainsAny(name, " \t\r\n") {
			c.err = fmt.Errorf("config %q: want the name of a setting, without dashes and spaces", name)
			return
		}
		c.args = append(append(c.args, "--"+name), values...)
	}
}

// Customize hands customizers of testcontainers-go through, such as those of its redis module. Its WithTLS is not for here:
// see [TLS].
func Customize(list ...testcontainers.ContainerCustomizer) Option {
	return func(c *config) { c.custom = append(c.custom, list...) }
}
