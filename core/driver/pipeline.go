package driver

import "slices"

// Pipeline is a list of commands under construction. It keeps their arguments in one piece, so that a hundred commands cost a
// few allocations instead of a hundred; for a handful a []Cmd is as good. The zero value is empty and ready. It is not safe for
// concurrent use.
//
//	p := driver.NewPipeline(2)
//	p.Write(driver.Key(1), "SET", "k", "v")
//	p.Read(driver.Key(1), "GET", "k")
//	replies := client.DoMulti(ctx, p.Cmds())
type Pipeline struct {
	cmds []Cmd
	args []string
}

// NewPipeline returns an empty Pipeline with room for n commands.
func NewPipeline(n int) *Pipeline {
	return &Pipeline{cmds: make([]Cmd, 0, n), args: make([]string, 0, 2*n)}
}

// Write adds a Write command. keys says which of args are keys: [Key](1) for SET k v, the zero Keys for none.
func (p *Pipeline) Write(keys Keys, args ...string) { p.add(Write, keys, args) }

// Read adds a ReadOnly command.
func (p *Pipeline) Read(keys Keys, args ...string) { p.add(ReadOnly, keys, args) }

// Add adds a command as it is: a script's, or one with a key in Near.
func (p *Pipeline) Add(cmd Cmd) { p.cmds = append(p.cmds, cmd) }

func (p *Pipeline) add(mode Mode, keys Keys, args []string) {
	from := len(p.args)
	p.args = append(p.args, args...) // should it move, the commands before keep the array they have
	p.cmds = append(p.cmds, Cmd{Args: slices.Clip(p.args[from:]), Keys: keys, Mode: mode})
}

// Cmds returns the commands so far. They stay valid when more are added.
func (p *Pipeline) Cmds() []Cmd { return p.cmds }
