package cache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-redisx/redisx/cache"
	"github.com/go-redisx/redisx/core"
	"github.com/go-redisx/redisx/redisxtest"
)

// User is what the examples keep.
type User struct {
	ID   int64
	Name string
	Team string
}

// loadUser stands for a query of a database.
func loadUser(_ context.Context, id int64) (*User, error) {
	if id > 99 {
		fmt.Println("no user", id)
		return nil, cache.ErrNotFound
	}
	fmt.Println("loading", id)
	return &User{ID: id, Name: fmt.Sprint("user ", id), Team: "red"}, nil
}

// connect returns a client of a fake server; yours is core.New with goredisdriver.Open or rueidisdriver.Open.
func connect() (client *core.Client, stop func()) {
	fake, err := redisxtest.StartFake()
	if err != nil {
		panic(err)
	}
	return fake.Client(), func() { _ = fake.Close() }
}

func Example() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, err := cache.New[int64, *User](client, "users", cache.WithTTL(10*time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()

	for range 3 {
		u, err := users.GetOrLoad(ctx, 42, loadUser)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(u.Name)
	}
	// The database was changed: what is cached is not right any more.
	fmt.Println(users.Delete(ctx, 42))
	u, err := users.GetOrLoad(ctx, 42, loadUser)
	fmt.Println(u.Name, err)
	// Output:
	// loading 42
	// user 42
	// user 42
	// user 42
	// <nil>
	// loading 42
	// user 42 <nil>
}

func ExampleNew() {
	client, stop := connect()
	defer stop()
	users, err := cache.New[int64, *User](client, "users",
		cache.WithTTL(10*time.Minute),
		cache.WithLocal(100_000, time.Minute),
		cache.WithStaleWhileRevalidate(time.Minute),
		cache.WithStaleIfError(24*time.Hour),
		cache.WithNegativeTTL(30*time.Second),
	)
	fmt.Println(err, users.Mode())
	fmt.Println(users.Close())

	_, err = cache.New[int64, *User](client, "users", cache.WithTTL(-1), cache.WithMaxLoads(-1))
	fmt.Println(err)
	// Output:
	// <nil> both
	// <nil>
	// redisx: cache: time to live is -1ns; want 1ms to 10 years
	// redisx: cache: at most -1 loads; want 0 for no bound, or more
}

func ExampleCache_GetOrLoad_notFound() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, _ := cache.New[int64, *User](client, "users")
	defer users.Close()
	for range 2 {
		_, err := users.GetOrLoad(ctx, 1000, loadUser) // the second time from the cache, which remembers: WithNegativeTTL
		fmt.Println(errors.Is(err, cache.ErrNotFound))
	}
	_, ok, err := users.Get(ctx, 1) // not known to be missing: a miss is no error
	fmt.Println(ok, err)
	// Output:
	// no user 1000
	// true
	// true
	// false <nil>
}

func ExampleCache_GetOrLoadWith() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	pages, _ := cache.New[string, string](client, "pages", cache.WithStaleIfError(time.Hour))
	defer pages.Close()

	// fetch stands for an HTTP request with If-None-Match.
	fetch := func(path, etag string) (body, newETag string, notModified bool) {
		if etag == `"v1"` {
			return "", etag, true
		}
		return "the page at " + path, `"v1"`, false
	}
	load := func(_ context.Context, l *cache.Load[string, string]) (string, error) {
		_, etag, _ := l.Stale()
		body, etag, notModified := fetch(l.Key(), etag)
		if notModified {
			fmt.Println("not modified")
			return l.NotModified()
		}
		fmt.Println("fetched")
		l.SetETag(etag)
		l.SetTTL(time.Minute)
		l.Tag("site")
		return body, nil
	}
	for range 2 {
		page, err := pages.GetOrLoadWith(ctx, "/about", load)
		fmt.Println(page, err)
		for ok := false; !ok; { // what was loaded is stored while its callers go on
			_, ok, _ = pages.Get(ctx, "/about")
		}
		_ = pages.Expire(ctx, "/about") // stale at once, but kept
	}
	// Output:
	// fetched
	// the page at /about <nil>
	// not modified
	// the page at /about <nil>
}

func ExampleCache_InvalidateTags() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, _ := cache.New[int64, *User](client, "users")
	defer users.Close()

	_ = users.Set(ctx, 1, &User{ID: 1, Name: "Ann"}, cache.Tags("team:red"))
	_ = users.Set(ctx, 2, &User{ID: 2, Name: "Bob"}, cache.Tags("team:red", "admins"))
	_ = users.Set(ctx, 3, &User{ID: 3, Name: "Eve"}, cache.Tags("team:blue"))
	fmt.Println(users.InvalidateTags(ctx, "team:red")) // the same cost for two values or a million
	for id := range int64(3) {
		_, ok, _ := users.Get(ctx, id+1)
		fmt.Println(id+1, ok)
	}
	// Output:
	// <nil>
	// 1 false
	// 2 false
	// 3 true
}

func ExampleCache_LoadMany() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, _ := cache.New[int64, *User](client, "users")
	defer users.Close()

	loadUsers := func(_ context.Context, ids []int64) (map[int64]*User, error) { // SELECT … WHERE id IN (…)
		slices.Sort(ids)
		fmt.Println("loading", ids)
		found := map[int64]*User{}
		for _, id := range ids {
			if id != 4 { // there is no such user
				found[id] = &User{ID: id}
			}
		}
		return found, nil
	}
	_ = users.Set(ctx, 1, &User{ID: 1})
	for range 2 {
		found, err := users.LoadMany(ctx, []int64{1, 2, 3, 4}, loadUsers)
		fmt.Println(len(found), err)
	}
	// Output:
	// loading [2 3 4]
	// 3 <nil>
	// 3 <nil>
}

func ExampleWrap() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, _ := cache.New[int64, *User](client, "users")
	defer users.Close()

	getUser := cache.Wrap(users, loadUser) // the same type as loadUser
	for range 2 {
		u, err := getUser(ctx, 7)
		fmt.Println(u.Name, err)
	}
	// Output:
	// loading 7
	// user 7 <nil>
	// user 7 <nil>
}

func ExampleInvalidating() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, _ := cache.New[int64, *User](client, "users")
	defer users.Close()

	table := map[int64]User{7: {ID: 7, Name: "Ann"}}
	getUser := cache.Wrap(users, func(_ context.Context, id int64) (*User, error) { u := table[id]; return &u, nil })
	saveUser := cache.Invalidating(users,
		func(_ context.Context, u *User) error { table[u.ID] = *u; return nil },
		func(u *User) (keys []int64, tags []string) { return []int64{u.ID}, []string{"team:" + u.Team} },
	)
	u, _ := getUser(ctx, 7)
	fmt.Println(u.Name)
	fmt.Println(saveUser(ctx, &User{ID: 7, Name: "Ann Lee"}))
	u, _ = getUser(ctx, 7)
	fmt.Println(u.Name)
	// Output:
	// Ann
	// <nil>
	// Ann Lee
}

func ExampleCache_Scoped() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, _ := cache.New[int64, *User](client, "users")
	defer users.Close()

	acme, umbrella := users.Scoped("acme"), users.Scoped("umbrella")
	_ = acme.Set(ctx, 1, &User{Name: "Ann"})
	_ = umbrella.Set(ctx, 1, &User{Name: "Bob"})
	_ = acme.Clear(ctx) // nobody else's
	_, ok, _ := acme.Get(ctx, 1)
	fmt.Println(ok)
	u, _, _ := umbrella.Get(ctx, 1)
	fmt.Println(u.Name)
	// Output:
	// false
	// Bob
}

func ExampleWithoutRemote() {
	ctx := context.Background()
	words, err := cache.New[string, int](nil, "words", cache.WithoutRemote(), cache.WithLocal(1000, time.Hour), cache.WithTTL(time.Hour))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer words.Close()
	count := func(_ context.Context, text string) (int, error) { return len(strings.Fields(text)), nil }
	n, err := words.GetOrLoad(ctx, "a b c", count)
	fmt.Println(n, err)
	_ = words.Set(ctx, "known", 1)
	fmt.Println(words.Peek("known"))
	// Output:
	// 3 <nil>
	// 1 true
}

func ExampleCache_Warm() {
	ctx := context.Background()
	client, stop := connect()
	defer stop()
	users, _ := cache.New[int64, *User](client, "users")
	defer users.Close()
	load := func(_ context.Context, id int64) (*User, error) { return &User{ID: id}, nil }
	err := users.Warm(ctx, slices.Values([]int64{1, 2, 3, 4}), 2, load, func(_ int64, done int, err error) {
		fmt.Println(done, err)
	})
	fmt.Println(err, users.Stats().Loads)
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
	// 4 <nil>
	// <nil> 4
}
