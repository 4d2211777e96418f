package core

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-redisx/redisx/core/driver"
)

// Endpoint is a connection URL taken apart. Both drivers open the same URLs through it, so that changing the driver
// changes nothing else.
//
//	redis://user:password@host:6379/0                      one server
//	rediss://host:6379?ca=/etc/ssl/redis.pem               one server, TLS
//	unix:///run/redis.sock?db=1                            one server, Unix socket (unix://user:password@/run/redis.sock)
//	redis-cluster://h1:6379,h2:6379,h3:6379                Cluster, any of its nodes
//	redis-sentinel://h1:26379,h2:26379/mymaster?db=0       Sentinels and the name of the primary they watch
//
// The port is 6379 if left out, 26379 for Sentinels. User and password are percent-encoded where needed.
//
//	parameter          default                 meaning
//	db                 0                       database (also the path of redis:// and rediss://); not for Cluster
//	protocol           3                       RESP version, 2 or 3
//	client_name        "redisx"                CLIENT SETNAME, up to 64 printable characters without spaces
//	pool_size          the client's own        connections per node, 1 to 10000 (rueidis: those for blocking commands)
//	dial_timeout       2s                      for TCP and TLS together
//	read_timeout       3s                      to wait for a reply; commands that block on the server are exempt
//	write_timeout      3s                      to hand a command to the kernel
//	tls                false                   true: TLS for redis-cluster:// and redis-sentinel://
//	ca                 the system's            PEM file with the authorities to trust
//	cert, key          none                    PEM files of a client certificate and its key, both or neither
//	servername         the host dialled        name to verify in the server's certificate
//	sentinel_username  none                    ACL user for the Sentinels themselves
//	sentinel_password  none                    password for the Sentinels themselves
//
// Durations are Go durations ("500ms"), at least 1ms. A parameter that is not in this list is an error that names it.
type Endpoint struct {
	Topology driver.Topology
	// Network is "tcp" or "unix". Addrs are host:port, or the socket's path.
	Network string
	Addrs   []string
	// MasterName is the primary to ask the Sentinels for.
	MasterName string

	Username, Password                 string
	SentinelUsername, SentinelPassword string
	DB                                 int
	Protocol                           int
	ClientName                         string
	// PoolSize is 0 if the client's own default applies.
	PoolSize                               int
	DialTimeout, ReadTimeout, WriteTimeout time.Duration
	// TLS is nil for a plain connection.
	TLS *tls.Config
}

const (
	defaultDialTimeout = 2 * time.Second
	defaultIOTimeout   = 3 * time.Second
	defaultClientName  = "redisx"
)

// ParseURL reads a connection URL. It opens no connection, but reads the files that ca, cert and key name. Its error lists
// every fault at once and contains no password.
func ParseURL(raw string) (*Endpoint, error) {
	e, err := parseURL(raw)
	if err != nil {
		return nil, fmt.Errorf("redisx: connection URL: %w", err)
	}
	return e, nil
}

func parseURL(raw string) (*Endpoint, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errors.New("no scheme; want redis://, rediss://, unix://, redis-cluster:// or redis-sentinel://")
	}
	e := &Endpoint{
		Network: "tcp", Protocol: 3, ClientName: defaultClientName,
		DialTimeout: defaultDialTimeout, ReadTimeout: defaultIOTimeout, WriteTimeout: defaultIOTimeout,
	}
	port, withTLS := "6379", false
	switch scheme = strings.ToLower(scheme); scheme {
	case "redis":
	case "rediss":
		withTLS = true
	case "unix":
		e.Network = "unix"
	case "redis-cluster":
		e.Topology = driver.Cluster
	case "redis-sentinel":
		e.Topology, port = driver.Sentinel, "26379"
	default:
		shown := "the scheme"
		if strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz-+") == "" { // else it may be a password in the wrong place
			shown = fmt.Sprintf("scheme %q", scheme)
		}
		return nil, fmt.Errorf("%s is unknown; want redis, rediss, unix, redis-cluster or redis-sentinel", shown)
	}

	if err := wellFormed(rest); err != nil {
		return nil, err
	}
	// net/url takes neither a list of hosts nor an error without the password in it, so the parts are cut by hand.
	rest, query, _ := strings.Cut(rest, "?")
	authority, path := rest, ""
	if e.Network == "unix" {
		authority, path = cutUnix(rest)
	} else if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i+1:]
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		if err := e.userinfo(authority[:i]); err != nil {
			faults = append(faults, err)
		}
		authority = authority[i+1:]
	}
	if e.Network == "unix" {
		if authority != "" {
			fault("unix:// has a host; want unix:///path/to/socket")
		}
		if path == "/" || path == "" {
			fault("unix:// without the path of the socket; want unix:///path/to/socket")
		}
		if p, err := url.PathUnescape(path); err == nil {
			path = p
		}
		e.Addrs = []string{path}
	} else {
		for host := range strings.SplitSeq(authority, ",") {
			addr, err := hostPort(host, port)
			if err != nil {
				faults = append(faults, err)
				continue
			}
			e.Addrs = append(e.Addrs, addr)
		}
		if len(e.Addrs) > 1 && e.Topology == driver.Standalone {
			fault("%d hosts; %s:// takes one (redis-cluster:// and redis-sentinel:// take several)", len(e.Addrs), scheme)
		}
		faults = append(faults, e.path(path)...)
	}

	params, err := url.ParseQuery(query)
	if err != nil {
		fault("parameters are not percent-encoded properly")
	}
	faults = append(faults, e.params(params, scheme, withTLS)...)
	return e, errors.Join(faults...)
}

// wellFormed refuses URLs whose password would be taken for something else, and then be shown in an error about that.
func wellFormed(rest string) error {
	bad := errors.New("user or password is not percent-encoded properly (write % as %25, @ as %40, : as %3A, / as %2F, ? as %3F)")
	authority := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
		if strings.Contains(rest[i:], "@") {
			return bad
		}
	}
	switch strings.Count(authority, "@") {
	case 0:
		for host := range strings.SplitSeq(authority, ",") {
			if _, port, ok := strings.Cut(host[strings.LastIndexByte(host, ']')+1:], ":"); ok && !digits(port) {
				return errors.New("a port is not a number from 1 to 65535; IPv6 addresses are written [address]:port, and a password ends with an @")
			}
		}
	case 1:
		if info, _, _ := strings.Cut(authority, "@"); strings.Contains(info, ",") {
			return bad
		}
	default:
		return bad
	}
	return nil
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// cutUnix separates the user from the path: "user:pw@/path" or "/path".
func cutUnix(rest string) (authority, path string) {
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i:]
	}
	return rest, ""
}

func (e *Endpoint) userinfo(info string) error {
	user, password, _ := strings.Cut(info, ":")
	var err1, err2 error
	e.Username, err1 = url.PathUnescape(user)
	e.Password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return errors.New("user or password is not percent-encoded properly (write % as %25, @ as %40, : as %3A, / as %2F)")
	}
	if e.Username != "" && e.Password == "" {
		return errors.New("a user without a password; want user:password@host, or :password@host for the default user")
	}
	return nil
}

func (e *Endpoint) path(path string) []error {
	path = strings.TrimSuffix(path, "/")
	switch {
	case e.Topology == driver.Sentinel:
		if path == "" || strings.Contains(path, "/") {
			return []error{errors.New("want one name of a primary after the hosts, redis-sentinel://host,host/name; the database is ?db=")}
		}
		name, err := url.PathUnescape(path)
		if err != nil {
			return []error{errors.New("name of the primary is not percent-encoded properly")}
		}
		e.MasterName = name
	case path == "":
	case e.Topology == driver.Cluster:
		return []error{fmt.Errorf("path %q; a Cluster has no databases", path)}
	default:
		return e.setDB(path)
	}
	return nil
}

func (e *Endpoint) setDB(s string) []error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1<<20 {
		return []error{fmt.Errorf("database %q; want a number from 0 on", s)}
	}
	e.DB = n
	return nil
}

func hostPort(s, port string) (string, error) {
	if s == "" {
		return "", errors.New("a host is empty; want host:port")
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
		if strings.Contains(bare, ":") && !strings.HasPrefix(s, "[") {
			return "", fmt.Errorf("host %q; want host:port, or [address]:port for IPv6", s)
		}
		host, p = bare, port
	}
	if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("port %q; want a number from 1 to 65535", p)
	}
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, p), nil
}

var parameters = []string{
	"ca", "cert", "client_name", "db", "dial_timeout", "key", "pool_size", "protocol", "read_timeout",
	"sentinel_password", "sentinel_username", "servername", "tls", "write_timeout",
}

func (e *Endpoint) params(params url.Values, scheme string, withTLS bool) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	names := make([]string, 0, len(params))
	for name := range params {
		names = append(names, name)
	}
	slices.Sort(names)
	var files struct{ ca, cert, key, servername string }
	for _, name := range names {
		value := params.Get(name)
		if len(params[name]) > 1 {
			fault("parameter %s is given %d times", name, len(params[name]))
		}
		switch name {
		case "db":
			if e.Topology == driver.Cluster {
				fault("parameter db: a Cluster has no databases")
				continue
			}
			faults = append(faults, e.setDB(value)...)
		case "protocol":
			if value != "2" && value != "3" {
				fault("parameter protocol=%q; want 2 or 3", value)
				continue
			}
			e.Protocol = int(value[0] - '0')
		case "client_name":
			if !printable(value) {
				fault("parameter client_name=%q; want 1 to 64 printable characters without spaces", value)
			}
			e.ClientName = value
		case "pool_size":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > 10_000 {
				fault("parameter pool_size=%q; want a number from 1 to 10000", value)
			}
			e.PoolSize = n
		case "dial_timeout":
			faults = append(faults, duration(name, value, &e.DialTimeout)...)
		case "read_timeout":
			faults = append(faults, duration(name, value, &e.ReadTimeout)...)
		case "write_timeout":
			faults = append(faults, duration(name, value, &e.WriteTimeout)...)
		case "tls":
			switch on, err := strconv.ParseBool(value); {
			case err != nil:
				fault("parameter tls=%q; want true or false", value)
			case scheme == "unix" && on:
				fault("parameter tls: there is no TLS over a Unix socket")
			case scheme == "redis" && on:
				fault("parameter tls: write rediss:// for TLS")
			case scheme == "rediss" && !on:
				fault("parameter tls=false: write redis:// for a plain connection")
			default:
				withTLS = on
			}
		case "ca":
			files.ca = value
		case "cert":
			files.cert = value
		case "key":
			files.key = value
		case "servername":
			files.servername = value
		case "sentinel_username", "sentinel_password":
			if e.Topology != driver.Sentinel {
				fault("parameter %s is for redis-sentinel:// only", name)
			}
			if name == "sentinel_username" {
				e.SentinelUsername = value
			} else {
				e.SentinelPassword = value
			}
		default:
			shown := "unknown parameter"
			if printable(name) && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
				shown = fmt.Sprintf("unknown parameter %q", name)
			}
			fault("%s; known are %s", shown, strings.Join(parameters, ", "))
		}
	}
	if e.SentinelUsername != "" && e.SentinelPassword == "" {
		fault("parameter sentinel_username without sentinel_password")
	}
	if !withTLS {
		if files.ca != "" || files.cert != "" || files.key != "" || files.servername != "" {
			fault("parameters ca, cert, key and servername need TLS (rediss://, or tls=true for Cluster and Sentinel)")
		}
		return faults
	}
	e.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: files.servername}
	if files.ca != "" {
		pem, err := os.ReadFile(files.ca)
		pool := x509.NewCertPool()
		switch {
		case err != nil:
			fault("parameter ca: %w", err)
		case !pool.AppendCertsFromPEM(pem):
			fault("parameter ca: %s holds no PEM certificate", files.ca)
		}
		e.TLS.RootCAs = pool
	}
	switch {
	case (files.cert == "") != (files.key == ""):
		fault("parameters cert and key go together")
	case files.cert != "":
		pair, err := tls.LoadX509KeyPair(files.cert, files.key)
		if err != nil {
			fault("parameters cert and key: %w", err)
		}
		e.TLS.Certificates = []tls.Certificate{pair}
	}
	return faults
}

func duration(name, value string, to *time.Duration) []error {
	d, err := time.ParseDuration(value)
	if err != nil || d < time.Millisecond {
		return []error{fmt.Errorf("parameter %s=%q; want a duration of at least 1ms, such as 500ms", name, value)}
	}
	*to = d
	return nil
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// String describes the endpoint without its passwords.
func (e *Endpoint) String() string {
	s := fmt.Sprintf("%s %s %s", e.Topology, e.Network, strings.Join(e.Addrs, ","))
	if e.MasterName != "" {
		s += " master " + e.MasterName
	}
	if e.TLS != nil {
		s += " tls"
	}
	if e.Username != "" {
		s += " user " + e.Username
	}
	return s
}
