package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/cache"
	"github.com/go-redisx/redisx/core"
)

// product is what the shop sells.
type product struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// database stands for the slow thing behind the shop. All instances of the service share it.
type database struct {
	delay   time.Duration
	queries atomic.Int64

	mu       sync.Mutex
	products map[string]product
}

func newDatabase() *database {
	return &database{delay: 40 * time.Millisecond, products: map[string]product{
		"1": {"1", "Teapot", 2400}, "2": {"2", "Cup", 650}, "3": {"3", "Kettle", 5900},
	}}
}

// product returns a product, or cache.ErrNotFound: so the cache remembers that there is none.
func (d *database) product(ctx context.Context, id string) (product, error) {
	d.queries.Add(1)
	select {
	case <-time.After(d.delay):
	case <-ctx.Done():
		return product{}, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.products[id]
	if !ok {
		return product{}, fmt.Errorf("product %q: %w", id, cache.ErrNotFound)
	}
	return p, nil
}

func (d *database) save(_ context.Context, p product) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, ok := d.products[p.ID]
	if !ok {
		return fmt.Errorf("product %q: %w", p.ID, cache.ErrNotFound)
	}
	old.Cents = p.Cents
	d.products[p.ID] = old
	return nil
}

// shop is one instance of the service.
type shop struct {
	db      *database
	catalog *cache.Cache[string, product]
	save    func(context.Context, product) error
}

func newShop(client *core.Client, db *database) (*shop, error) {
	catalog, err := cache.New[string, product](client, "products",
		cache.WithTTL(time.Minute),
		cache.WithStaleIfError(time.Hour), // a page of yesterday is better than none
	)
	if err != nil {
		return nil, err
	}
	s := &shop{db: db, catalog: catalog}
	s.save = cache.Invalidating(catalog, db.save, func(p product) (keys, tags []string) { return []string{p.ID}, nil })
	return s, nil
}

func (s *shop) close() error { return s.catalog.Close() }

func (s *shop) handler(clients *core.Group) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", s.show)
	mux.HandleFunc("PUT /products/{id}", s.reprice)
	mux.Handle("GET /readyz", clients.Handler())
	return mux
}

// get returns a product and where it came from, which only an example wants to know: "memory" of this process, "cache" for
// Redis or the load of somebody else, "database". Without that it would be one call of GetOrLoad with s.db.product.
func (s *shop) get(ctx context.Context, id string) (product, string, error) {
	if p, ok := s.catalog.Peek(id); ok {
		return p, "memory", nil
	}
	var asked atomic.Bool // by the goroutine that loads
	p, err := s.catalog.GetOrLoad(ctx, id, func(ctx context.Context, id string) (product, error) {
		asked.Store(true)
		return s.db.product(ctx, id)
	})
	if asked.Load() {
		return p, "database", err
	}
	return p, "cache", err
}

func (s *shop) show(w http.ResponseWriter, r *http.Request) {
	p, source, err := s.get(r.Context(), r.PathValue("id"))
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Source", source)
	_ = json.NewEncoder(w).Encode(p) // the reader is gone: nobody to tell
}

func (s *shop) reprice(w http.ResponseWriter, r *http.Request) {
	p := product{}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&p); err != nil || p.Cents <= 0 {
		http.Error(w, `want a body such as {"cents": 1999}`, http.StatusBadRequest)
		return
	}
	p.ID = r.PathValue("id")
	if err := s.save(r.Context(), p); err != nil && !errors.Is(err, cache.ErrSaved) {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, cache.ErrNotFound) {
		http.Error(w, "no such product", http.StatusNotFound)
		return
	}
	http.Error(w, "the product cannot be had at present", http.StatusServiceUnavailable)
}
