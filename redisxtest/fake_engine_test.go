package redisxtest

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// A miniredis that keeps streams in another way must be noticed at the start, not by what it answers.
func TestALayoutThatDiffersIsNoticed(t *testing.T) {
	type twin struct {
		Entries []string
		Groups  map[string]*groupData
	}
	type renamed struct {
		Entries []string
		Others  map[string]*groupData
	}
	type retyped struct {
		Entries []string
		Groups  map[string]groupData
	}
	type longer struct {
		Entries []string
		Groups  map[string]*groupData
		More    int
	}
	of := reflect.TypeFor[map[string]*twin]()
	require.True(t, sameLayout(of, reflect.TypeFor[map[string]*twin](), nil))
	for _, other := range []reflect.Type{
		reflect.TypeFor[map[string]*renamed](), reflect.TypeFor[map[string]*retyped](), reflect.TypeFor[map[string]*longer](),
		reflect.TypeFor[map[string]twin](), reflect.TypeFor[map[int]*twin](),
	} {
		require.False(t, sameLayout(of, other, nil), other)
	}
}
