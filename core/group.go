package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// Group names several clients, answers for the health of all of them, and closes them in reverse order. It is safe for
// concurrent use.
type Group struct {
	mu      sync.Mutex
	names   []string
	clients map[string]*Client
	closed  bool
}

// NewGroup returns an empty group.
func NewGroup() *Group { return &Group{clients: map[string]*Client{}} }

// Add puts a client into the group under a name, which must be new: 1 to 128 bytes of letters, digits and . _ - / :
// The group closes it from then on.
func (g *Group) Add(name string, c *Client) error {
	if err := checkName("client name", name); err != nil {
		return err
	}
	if c == nil {
		return fmt.Errorf("redisx: group: client %q is nil", name)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return fmt.Errorf("redisx: group: adding %q: %w", name, ErrClosed)
	}
	if _, ok := g.clients[name]; ok {
		return fmt.Errorf("redisx: group: there is a client %q already", name)
	}
	g.names = append(g.names, name)
	g.clients[name] = c
	return nil
}

// Get returns a client by name.
func (g *Group) Get(name string) (*Client, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, ok := g.clients[name]
	return c, ok
}

// Names returns the names in the order they were added.
func (g *Group) Names() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.names)
}

// Health asks all servers at the same time. It takes as long as the slowest, which its command timeout bounds.
func (g *Group) Health(ctx context.Context) map[string]Health {
	names := g.Names()
	found := make([]Health, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		if c, ok := g.Get(name); ok {
			wg.Go(func() { found[i] = c.Health(ctx) })
		}
	}
	wg.Wait()
	out := make(map[string]Health, len(names))
	for i, name := range names {
		out[name] = found[i]
	}
	return out
}

// Handler returns a readiness handler: 200 if every server is up, 503 otherwise and for an empty group, with a JSON object
// that tells for each client whether it is up, its latency, role and version, its warnings, and the class of its error.
// Addresses, users and error texts stay out, since such a page is often public.
func (g *Group) Handler() http.Handler {
	type state struct {
		Up        bool     `json:"up"`
		Error     string   `json:"error,omitempty"`
		LatencyMS float64  `json:"latency_ms"`
		Role      string   `json:"role,omitempty"`
		Server    string   `json:"server,omitempty"`
		Version   string   `json:"version,omitempty"`
		Topology  string   `json:"topology,omitempty"`
		Breaker   string   `json:"breaker"`
		Warnings  []string `json:"warnings,omitempty"`
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		report := struct {
			Ready   bool             `json:"ready"`
			Clients map[string]state `json:"clients"`
		}{Clients: map[string]state{}}
		found := g.Health(r.Context())
		report.Ready = len(found) > 0
		for name, h := range found {
			s := state{
				Up: h.Up, LatencyMS: float64(h.Latency.Microseconds()) / 1000, Role: h.Role,
				Server: h.Server, Version: h.Version, Breaker: "closed", Warnings: h.Warnings,
			}
			if len(h.Breaker) > 0 {
				s.Breaker = "open"
			}
			if h.Up {
				s.Topology = h.Topology.String()
			} else {
				report.Ready = false
				s.Error = Classify(h.Err).String()
			}
			report.Clients[name] = s
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !report.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if r.Method == http.MethodHead {
			return
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(report) // the reader is gone: nobody to tell
	})
}

// Close closes the clients, the last one added first, and returns their errors together. It is idempotent.
func (g *Group) Close() error {
	g.mu.Lock()
	g.closed = true
	names := slices.Clone(g.names)
	g.mu.Unlock()
	var errs []error
	for _, name := range slices.Backward(names) {
		c, _ := g.Get(name)
		if err := c.Close(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
