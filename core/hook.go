package core

import (
	"context"
	"time"
)

// Hook receives what the toolkit does, in the manner of net/http/httptrace: a struct of optional functions, given to [New]
// by [WithHook]. Several hooks compose; start functions run in the order given, end functions in reverse. The functions
// may run concurrently and must not block. They run on the caller's goroutine, except Event for the breaker, which runs on
// whichever goroutine of the client changed it: it must not call Close.
//
// Without a hook each of these costs one nil check, no allocation and no clock.
type Hook struct {
	// CommandStart runs before a command or pipeline goes to the driver. What it returns is the context of the rest of
	// the call, and reaches CommandEnd: the place for a span. Nil is the same as returning ctx.
	CommandStart func(ctx context.Context, c Command) context.Context
	// CommandEnd runs once for every CommandStart, also if the breaker refused.
	CommandEnd func(ctx context.Context, c Command, r CommandResult)

	// OperationStart runs when a plugin begins an operation, such as a lock acquisition. Commands inside it get the
	// context it returns.
	OperationStart func(ctx context.Context, o Operation) context.Context
	// OperationEnd runs once for every OperationStart.
	OperationEnd func(ctx context.Context, o Operation, r OperationResult)

	// Event tells of something without a duration: a counter to move.
	Event func(ctx context.Context, e Event)

	// WithKeys asks for keys in Operation.Key. They may hold personal data, so they are left out otherwise.
	WithKeys bool
}

// Command describes one command or pipeline. Its strings come from a bounded set, fit for labels: no keys, no values.
type Command struct {
	// Client is the name given by [WithName].
	Client string
	// Name is the command in upper case, or "PIPELINE" for several.
	Name string
	// Script is the name of the script that the command runs, or "".
	Script string
	// Count is the number of commands: 1, or the length of the pipeline.
	Count int
}

// CommandResult is how a command ended.
type CommandResult struct {
	Duration time.Duration
	// Err is the command's error; for a pipeline the first one. It is nil for a null reply.
	Err error
	// Class is the class of Err.
	Class Class
	// Nil is true for a null reply to a single command.
	Nil bool
}

// Operation describes what a plugin does.
type Operation struct {
	// Client is the name given by [WithName]; the core fills it in.
	Client string
	// Plugin, Verb and Name identify it: "locks", "acquire", and the name given to the plugin's constructor.
	Plugin, Verb, Name string
	// Key is what it is about, only if some hook asked for keys.
	Key string
}

// OperationResult is how an operation ended.
type OperationResult struct {
	Duration time.Duration
	// Outcome is a word of the plugin's closed list, such as "hit" or "timeout".
	Outcome string
	Err     error
}

// Event is something that happened, with a value to add up or to observe.
type Event struct {
	Client string
	// Plugin and Name identify it: "core", "breaker". Instance is the name given to the plugin's constructor.
	Plugin, Name, Instance string
	// Kind is a word of a closed list that the event's documentation gives.
	Kind string
	// Value is a count, or seconds, as documented for the event; 1 if there is nothing to measure.
	Value float64
}

// Events of the core itself.
const (
	// EventBreaker is a change of the circuit breaker; Kind is "open" or "closed", Instance the node in Cluster.
	EventBreaker = "breaker"
)

// compose makes one hook of several, or nil of none.
func compose(hooks []*Hook) *Hook {
	switch len(hooks) {
	case 0:
		return nil
	case 1:
		return hooks[0]
	}
	all := &Hook{}
	for _, h := range hooks {
		all.WithKeys = all.WithKeys || h.WithKeys
	}
	all.CommandStart = func(ctx context.Context, c Command) context.Context {
		for _, h := range hooks {
			if h.CommandStart != nil {
				if next := h.CommandStart(ctx, c); next != nil {
					ctx = next
				}
			}
		}
		return ctx
	}
	all.CommandEnd = func(ctx context.Context, c Command, r CommandResult) {
		for i := len(hooks) - 1; i >= 0; i-- {
			if f := hooks[i].CommandEnd; f != nil {
				f(ctx, c, r)
			}
		}
	}
	all.OperationStart = func(ctx context.Context, o Operation) context.Context {
		for _, h := range hooks {
			if h.OperationStart != nil {
				if next := h.OperationStart(ctx, o); next != nil {
					ctx = next
				}
			}
		}
		return ctx
	}
	all.OperationEnd = func(ctx context.Context, o Operation, r OperationResult) {
		for i := len(hooks) - 1; i >= 0; i-- {
			if f := hooks[i].OperationEnd; f != nil {
				f(ctx, o, r)
			}
		}
	}
	all.Event = func(ctx context.Context, e Event) {
		for _, h := range hooks {
			if h.Event != nil {
				h.Event(ctx, e)
			}
		}
	}
	return all
}

// Span is an operation under way; see [Client.StartOperation]. The zero Span does nothing.
type Span struct {
	client *Client
	op     *Operation
	start  time.Duration // since epoch
}

// epoch makes a start of one word out of the monotonic clock.
var epoch = time.Now()

// StartOperation tells the hooks that a plugin begins an operation. The context it returns is for the operation's own
// calls; End must be called with it, once. Without hooks it returns ctx and a Span that does nothing. The Operation is read
// until End, and may live on the stack or be shared by calls that do not set its Key.
//
//	op := core.Operation{Plugin: "locks", Verb: "acquire", Name: l.name, Key: key}
//	ctx, span := client.StartOperation(ctx, &op)
//	defer func() { span.End(ctx, outcome, err) }()
func (c *Client) StartOperation(ctx context.Context, op *Operation) (context.Context, Span) {
	if c.hook == nil {
		return ctx, Span{}
	}
	return c.startOperation(ctx, op)
}

func (c *Client) startOperation(ctx context.Context, op *Operation) (context.Context, Span) {
	if c.hook.OperationStart != nil {
		if next := c.hook.OperationStart(ctx, c.described(op)); next != nil {
			ctx = next
		}
	}
	return ctx, Span{client: c, op: op, start: time.Since(epoch)}
}

// described is the operation as hooks may see it.
func (c *Client) described(op *Operation) Operation {
	o := *op
	o.Client = c.name
	if !c.hook.WithKeys {
		o.Key = ""
	}
	return o
}

// End tells the hooks how the operation ended. The outcome is a word of the plugin's closed list.
func (s Span) End(ctx context.Context, outcome string, err error) {
	if s.client != nil {
		s.end(ctx, outcome, err)
	}
}

func (s Span) end(ctx context.Context, outcome string, err error) {
	if f := s.client.hook.OperationEnd; f != nil {
		f(ctx, s.client.described(s.op), OperationResult{Duration: time.Since(epoch) - s.start, Outcome: outcome, Err: err})
	}
}

// Emit tells the hooks of an event. Without hooks it does nothing.
func (c *Client) Emit(ctx context.Context, e *Event) {
	if c.hook != nil {
		c.emitHooked(ctx, e)
	}
}

func (c *Client) emitHooked(ctx context.Context, e *Event) {
	if c.hook.Event != nil {
		named := *e
		named.Client = c.name
		c.hook.Event(ctx, named)
	}
}

// Hooked reports whether hooks are installed, so that a plugin can leave out work that only they need.
func (c *Client) Hooked() bool { return c.hook != nil }
