package driver

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func TestAReplyIsThreeWords(t *testing.T) {
	if n := unsafe.Sizeof(Reply{}); n > 24 {
		t.Errorf("%d bytes", n)
	}
}

func TestRepliesKeepWhatTheyHold(t *testing.T) {
	text := strings.Repeat("x", 100)
	list := []Reply{StringReply(text[:50] + "a"), StringReply(""), NilReply(), IntReply(-1), ListReply(nil), ErrReply(errors.New("e"))}
	r := ListReply(list)
	for range 10 {
		runtime.GC()
		_ = make([]byte, 1<<20)
	}
	got, err := r.List()
	if err != nil || len(got) != 6 {
		t.Fatalf("%v, %v", got, err)
	}
	if s, err := got[0].Text(); err != nil || s != text[:50]+"a" {
		t.Errorf("%q, %v", s, err)
	}
	if s, err := got[1].Text(); err != nil || s != "" || got[1].IsNil() {
		t.Errorf("the empty string: %q, %v", s, err)
	}
	if l, err := got[4].List(); err != nil || len(l) != 0 {
		t.Errorf("the empty list: %v, %v", l, err)
	}
	if got[5].Err() == nil || got[5].Err().Error() != "e" || got[4].Err() != nil || got[2].Err() != nil {
		t.Errorf("errors: %v", got)
	}
	if s := r.String(); !strings.HasSuffix(s, `a" "" nil -1 [] error: e]`) {
		t.Errorf("String: %s", s)
	}
	for _, r := range []Reply{NilReply(), IntReply(1), StringReply("x"), ErrReply(nil)} {
		if m, err := r.Map(); err == nil || len(m) > 0 {
			t.Errorf("Map of %s: %v, %v", r, m, err)
		}
		if _, err := r.List(); err == nil {
			t.Errorf("List of %s", r)
		}
	}
}

func TestRepliesAreEqualByWhatTheyHold(t *testing.T) {
	all := func() []Reply {
		return []Reply{
			NilReply(), IntReply(1), IntReply(2), StringReply(""), StringReply(strings.Repeat("x", 3)), StringReply("1"), ListReply(nil),
			ListReply([]Reply{IntReply(1)}), ListReply([]Reply{StringReply("1")}), ListReply([]Reply{IntReply(1), NilReply()}),
			ErrReply(errors.New("e")), ErrReply(errors.New("f")),
		}
	}
	for i, a := range all() {
		for k, b := range all() {
			if a.Equal(b) != (i == k) {
				t.Errorf("%s and %s: %v", a, b, a.Equal(b))
			}
		}
	}
}
