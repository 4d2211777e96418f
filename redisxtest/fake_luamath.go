package redisxtest

import (
	"fmt"
	"math"

	lua "github.com/yuin/gopher-lua"
)

// lrand48 is the generator of the C library.
type lrand48 struct{ x uint64 }

func (r *lrand48) next() float64 {
	if r.x == 0 {
		r.x = 0x1234ABCD330E
	}
	r.x = (r.x*0x5DEECE66D + 0xB) & (1<<48 - 1)
	return float64(r.x>>17%math.MaxInt32) / math.MaxInt32
}

func (r *lrand48) seed(l *lua.LState) int {
	r.x = uint64(uint32(l.CheckInt(1)))<<16 | 0x330E
	return 0
}

func (r *lrand48) random(l *lua.LState) int {
	v := r.next()
	low, high := 1, 0
	switch l.GetTop() {
	case 0:
		l.Push(lua.LNumber(v))
		return 1
	case 1:
		if high = l.CheckInt(1); high < 1 {
			l.ArgError(1, "interval is empty")
		}
	case 2:
		if low, high = l.CheckInt(1), l.CheckInt(2); low > high {
			l.ArgError(2, "interval is empty")
		}
	default:
		l.RaiseError("wrong number of arguments")
	}
	l.Push(lua.LNumber(math.Floor(v*float64(high-low+1)) + float64(low)))
	return 1
}

// luaBits is the bit library.
var luaBits = map[string]lua.LGFunction{
	"tobit": func(l *lua.LState) int { return pushBits(l, bitArg(l, 1)) },
	"bnot":  func(l *lua.LState) int { return pushBits(l, ^bitArg(l, 1)) },
	"band":  foldBits(func(a, b uint32) uint32 { return a & b }), "bor": foldBits(func(a, b uint32) uint32 { return a | b }),
	"bxor":    foldBits(func(a, b uint32) uint32 { return a ^ b }),
	"lshift":  shiftBits(func(a uint32, n uint) uint32 { return a << n }),
	"rshift":  shiftBits(func(a uint32, n uint) uint32 { return a >> n }),
	"arshift": shiftBits(func(a uint32, n uint) uint32 { return uint32(int32(a) >> n) }),
	"rol":     shiftBits(func(a uint32, n uint) uint32 { return a<<n | a>>(32-n) }),
	"ror":     shiftBits(func(a uint32, n uint) uint32 { return a>>n | a<<(32-n) }),
	"bswap": func(l *lua.LState) int {
		b := bitArg(l, 1)
		return pushBits(l, b>>24|b>>8&0xff00|b<<8&0xff0000|b<<24)
	},
	"tohex": func(l *lua.LState) int {
		b, n, verb := bitArg(l, 1), 8, "%08x"
		if l.GetTop() > 1 {
			n = int(int32(bitArg(l, 2)))
		}
		if n < 0 {
			n, verb = -n, "%08X"
		}
		n = min(n, 8)
		l.Push(lua.LString(fmt.Sprintf(verb, b)[8-n:]))
		return 1
	},
}

func bitArg(l *lua.LState, i int) uint32 {
	n, ok := l.Get(i).(lua.LNumber)
	if s, isString := l.Get(i).(lua.LString); isString {
		var x float64
		x, ok = luaNumber(string(s))
		n = lua.LNumber(x)
	}
	if !ok {
		kind := l.Get(i).Type().String()
		if i > l.GetTop() {
			kind = "no value"
		}
		l.ArgError(i, "number expected, got "+kind)
	}
	x := math.Mod(math.RoundToEven(float64(n)), 1<<32)
	return uint32(int64(x))
}

func pushBits(l *lua.LState, b uint32) int {
	l.Push(lua.LNumber(int32(b)))
	return 1
}

func foldBits(f func(a, b uint32) uint32) lua.LGFunction {
	return func(l *lua.LState) int {
		b := bitArg(l, 1)
		for i := 2; i <= l.GetTop(); i++ {
			b = f(b, bitArg(l, i))
		}
		return pushBits(l, b)
	}
}

func shiftBits(f func(a uint32, n uint) uint32) lua.LGFunction {
	return func(l *lua.LState) int { return pushBits(l, f(bitArg(l, 1), uint(bitArg(l, 2)&31))) }
}
