package driver

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid marks a command that no server could run, or that would harm others on its connection. It is a mistake of the
// caller and says nothing of the server.
var ErrInvalid = errors.New("redisx: invalid command")

// Check returns an error, an [ErrInvalid], if the command cannot be sent: it has no name, its key positions lie outside its
// arguments, or it [TakesOver] a connection. Drivers call it before sending.
func (c Cmd) Check() error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return fmt.Errorf("%w: no name", ErrInvalid)
	}
	if TakesOver(c.Args) {
		return fmt.Errorf("%w: %s takes its connection over; use driver.Subscriber, or a client of your own", ErrInvalid, c.Name())
	}
	k := c.Keys
	if k == (Keys{}) {
		return nil
	}
	if k.First < 1 || k.Count < 1 || k.Step < 1 || k.First+(k.Count-1)*k.Step >= len(c.Args) {
		return fmt.Errorf("%w: %s: keys at First %d, Count %d, Step %d lie outside its %d arguments (First, Count and Step start at 1; see driver.Key and driver.KeyRange)",
			ErrInvalid, c.Name(), k.First, k.Count, k.Step, len(c.Args))
	}
	return nil
}

// TakesOver reports whether a command changes what its connection speaks, or ends it: SUBSCRIBE and its relatives, MONITOR,
// SYNC, PSYNC, REPLCONF, RESET, QUIT, CLIENT REPLY and SCRIPT DEBUG. Sent among others it would break all of them.
func TakesOver(args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch name := args[0]; len(name) {
	case 4:
		return strings.EqualFold(name, "QUIT") || strings.EqualFold(name, "SYNC")
	case 5:
		return strings.EqualFold(name, "RESET") || strings.EqualFold(name, "PSYNC")
	case 6:
		return len(args) > 1 && (strings.EqualFold(name, "CLIENT") && strings.EqualFold(args[1], "REPLY") ||
			strings.EqualFold(name, "SCRIPT") && strings.EqualFold(args[1], "DEBUG"))
	case 7:
		return strings.EqualFold(name, "MONITOR")
	case 8:
		return strings.EqualFold(name, "REPLCONF") // some of it has no reply
	case 9, 10, 11, 12:
		return strings.EqualFold(name[len(name)-9:], "SUBSCRIBE")
	}
	return false
}

// CheckShared is Check for a connection that others use too. It also refuses what [ChangesConnection], and a WAIT or WAITAOF
// that is not Blocking: it would hold up the others, and confirms nothing of a write that was redirected.
func (c Cmd) CheckShared() error {
	if c.Mode != Blocking && c.Waits() {
		return fmt.Errorf("%w: %s waits on its connection: its Mode must be driver.Blocking", ErrInvalid, c.Name())
	}
	if ChangesConnection(c.Args) {
		return fmt.Errorf("%w: %s changes the state of a connection that others use; send it on a connection of your own (driver.Dedicated), or use a script",
			ErrInvalid, c.Name())
	}
	return c.Check()
}

// ChangesConnection reports whether a command changes what the commands after it mean on its connection: MULTI, EXEC, DISCARD,
// WATCH, UNWATCH, SELECT, AUTH, HELLO with arguments, ASKING, READONLY, READWRITE, and CLIENT with TRACKING, CACHING, SETNAME,
// NO-EVICT, NO-TOUCH, CAPA or IMPORT-SOURCE. On a [Conn] all of them are in order.
func ChangesConnection(args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch name := args[0]; len(name) {
	case 4:
		return fold(name, "EXEC", "AUTH")
	case 5:
		return fold(name, "MULTI", "WATCH") || len(args) > 1 && fold(name, "HELLO")
	case 6:
		return fold(name, "SELECT", "ASKING") || len(args) > 1 && fold(name, "CLIENT") &&
			fold(args[1], "TRACKING", "CACHING", "SETNAME", "NO-EVICT", "NO-TOUCH", "CAPA", "IMPORT-SOURCE")
	case 7:
		return fold(name, "UNWATCH", "DISCARD")
	case 8:
		return fold(name, "READONLY")
	case 9:
		return fold(name, "READWRITE")
	}
	return false
}

// Unshareable reports whether CheckShared refuses a command for what it would do to others on its connection.
func (c *Cmd) Unshareable() bool {
	return ChangesConnection(c.Args) || c.Mode != Blocking && c.Waits()
}

func fold(s string, any ...string) bool {
	for _, a := range any {
		if strings.EqualFold(s, a) {
			return true
		}
	}
	return false
}

// Name returns the command's name in upper case, such as "GET".
func (c Cmd) Name() string {
	if len(c.Args) == 0 {
		return ""
	}
	return strings.ToUpper(c.Args[0])
}

// Route returns the key that decides where the command goes: its first key, or Near; "" is any primary.
func (c Cmd) Route() string {
	if c.Keys.Count > 0 && c.Keys.First > 0 && c.Keys.First < len(c.Args) {
		return c.Args[c.Keys.First]
	}
	return c.Near
}

// EachKey calls f with every key of a command that passed Check.
func (c Cmd) EachKey(f func(key string)) {
	for i := range c.Keys.Count {
		f(c.Args[c.Keys.First+i*c.Keys.Step])
	}
}

// SameSlot reports whether all keys of a command that passed Check lie in one slot of a Cluster.
func (c Cmd) SameSlot() bool {
	if c.Keys.Count < 2 {
		return true
	}
	slot := Slot(c.Args[c.Keys.First])
	same := true
	c.EachKey(func(key string) { same = same && Slot(key) == slot })
	return same
}

// CrossSlot is the reply for a command whose keys lie in different slots, in the words of the server.
func CrossSlot() Reply {
	return ErrReply(NewServerError("CROSSSLOT Keys in request don't hash to the same slot"))
}

// Slots is the number of hash slots of a Cluster.
const Slots = 16384

// Slot returns the hash slot of a key: CRC16 (XMODEM) of the key or of its hash tag, modulo 16384, as the Redis Cluster
// specification says. A tag is what stands between the first { and the first } after it, if anything does.
func Slot(key string) uint16 {
	if i := strings.IndexByte(key, '{'); i >= 0 {
		if n := strings.IndexByte(key[i+1:], '}'); n > 0 {
			key = key[i+1 : i+1+n]
		}
	}
	var crc uint16
	for i := 0; i < len(key); i++ {
		crc = crc<<8 ^ crc16[byte(crc>>8)^key[i]]
	}
	return crc % Slots
}

var crc16 = func() (t [256]uint16) {
	for i := range t {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		t[i] = crc
	}
	return t
}()
