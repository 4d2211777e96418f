package driver

import (
	"slices"
	"strconv"
	"testing"
)

func TestAPipelineKeepsItsCommands(t *testing.T) {
	for _, p := range []*Pipeline{{}, NewPipeline(0), NewPipeline(3), NewPipeline(200)} {
		var first []Cmd
		for i := range 100 {
			n := strconv.Itoa(i)
			p.Write(Key(1), "SET", "k"+n, n)
			p.Read(Key(1), "GET", "k"+n)
			p.Add(Cmd{Args: []string{"WAIT", "1", n}, Near: "k" + n, Mode: Blocking})
			if i == 0 {
				first = p.Cmds()
			}
		}
		cmds := p.Cmds()
		_ = append(cmds[0].Args, "must not reach the next command")
		for i := range 100 {
			n := strconv.Itoa(i)
			want := []Cmd{
				{Args: []string{"SET", "k" + n, n}, Keys: Key(1)}, {Args: []string{"GET", "k" + n}, Keys: Key(1), Mode: ReadOnly},
				{Args: []string{"WAIT", "1", n}, Near: "k" + n, Mode: Blocking},
			}
			for k, c := range cmds[3*i : 3*i+3] {
				if !slices.Equal(c.Args, want[k].Args) || c.Keys != want[k].Keys || c.Mode != want[k].Mode || c.Near != want[k].Near {
					t.Fatalf("command %d is %+v, want %+v", 3*i+k, c, want[k])
				}
			}
		}
		if len(first) != 3 || !slices.Equal(first[0].Args, []string{"SET", "k0", "0"}) {
			t.Errorf("the commands taken early have become %+v", first)
		}
	}
	key := "k"
	if n := testing.AllocsPerRun(100, func() {
		p := NewPipeline(100)
		for range 100 {
			p.Read(Key(1), "GET", key)
		}
	}); n > 3 {
		t.Errorf("%v allocations for 100 commands; want at most 3", n)
	}
}
