package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-redisx/redisx/core"
)

// product is what the shop sells.
type product struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// errNotFound is what the database says of a product it does not have.
var errNotFound = errors.New("no such product")

// database stands for the slow thing behind the shop.
type database struct {
	products map[string]product
	delay    time.Duration
	queries  atomic.Int64
}

func newDatabase() *database {
	return &database{delay: 40 * time.Millisecond, products: map[string]product{
		"1": {"1", "Teapot", 2400}, "2": {"2", "Cup", 650}, "3": {"3", "Kettle", 5900},
	}}
}

func (d *database) product(ctx context.Context, id string) (product, error) {
	d.queries.Add(1)
	select {
	case <-time.After(d.delay):
	case <-ctx.Done():
		return product{}, ctx.Err()
	}
	p, ok := d.products[id]
	if !ok {
		return product{}, errNotFound
	}
	return p, nil
}

// shop is the service.
type shop struct {
	db      *database
	catalog *readThrough[product]
}

func newShop(client *core.Client) (*shop, error) {
	s := &shop{db: newDatabase()}
	var err error
	s.catalog, err = newReadThrough(client, "products", time.Minute, s.db.product)
	return s, err
}

func (s *shop) handler(clients *core.Group) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", s.product)
	mux.Handle("GET /readyz", clients.Handler())
	return mux
}

func (s *shop) product(w http.ResponseWriter, r *http.Request) {
	p, source, err := s.catalog.get(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, errNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, "the product cannot be read at present", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Source", source)
	_ = json.NewEncoder(w).Encode(p) // the reader is gone: nobody to tell
}
