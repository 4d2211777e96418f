package redisxtest

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/ast"
	"github.com/yuin/gopher-lua/parse"
)

// luaScript is a script that compiles. gopher-lua's machine runs it, with three things done before: what the server does to
// numbers when it makes strings of them, how it reads numbers out of strings, and the names and libraries that scripts have.
type luaScript struct {
	sha, source string
	proto       *lua.FunctionProto
	shebang     bool
	flags       []string
}

func (s *luaScript) has(flag string) bool { return slices.Contains(s.flags, flag) }

func sha1Hex(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

const chunkName = "user_script"

// compileScript reports what is wrong in the words of the server's reply.
func compileScript(source string) (*luaScript, error) {
	s := &luaScript{sha: sha1Hex(source), source: source}
	body := source
	if strings.HasPrefix(source, "#!") {
		line, rest, found := strings.Cut(source, "\n")
		if !found {
			return nil, errors.New("ERR Invalid script shebang")
		}
		s.shebang, body = true, "\n"+rest
		if err := s.readShebang(line[2:]); err != nil {
			return nil, err
		}
	}
	var err error
	if s.proto, err = compileLua(body, chunkName); err != nil {
		return nil, fmt.Errorf("ERR Error compiling script (new function): %w", err)
	}
	return s, nil
}

var scriptFlags = []string{"no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"}

func (s *luaScript) readShebang(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "lua" {
		engine := ""
		if len(words) > 0 {
			engine = words[0]
		}
		return fmt.Errorf("ERR Could not find scripting engine '%s'", engine)
	}
	for _, w := range words[1:] {
		list, ok := strings.CutPrefix(w, "flags=")
		if !ok {
			return fmt.Errorf("ERR Unknown lua shebang option: %s", w)
		}
		for f := range strings.SplitSeq(list, ",") {
			if !slices.Contains(scriptFlags, f) {
				return fmt.Errorf("ERR Unexpected flag in script shebang: %s", f)
			}
			s.flags = append(s.flags, f)
		}
	}
	return nil
}

// compileLua parses, rewrites and compiles.
func compileLua(source, name string) (*lua.FunctionProto, error) {
	chunk, err := parse.Parse(strings.NewReader(source), name)
	if err != nil {
		var p *parse.Error
		if !errors.As(err, &p) {
			return nil, err
		}
		if p.Pos.Line == parse.EOF {
			return nil, fmt.Errorf("%s:%d: syntax error near '<eof>'", name, strings.Count(source, "\n")+1)
		}
		return nil, fmt.Errorf("%s:%d: %s near '%s'", name, p.Pos.Line, p.Message, p.Token)
	}
	w := &rewriter{name: name}
	w.block(chunk)
	if w.err != nil {
		return nil, w.err
	}
	return lua.Compile(chunk, name)
}

// The functions that the rewriter puts in; no script can write their names.
const concatName, operandName = "\x00concat", "\x00operand"

// rewriter makes of a..b..c a call that formats numbers as the server does, and has operands that are strings read as the
// server reads them.
type rewriter struct {
	name string
	err  error
}

func (w *rewriter) block(list []ast.Stmt) {
	for _, s := range list {
		w.stmt(s)
	}
}

func (w *rewriter) stmt(s ast.Stmt) {
	switch s := s.(type) {
	case *ast.AssignStmt:
		w.list(s.Lhs)
		w.list(s.Rhs)
	case *ast.LocalAssignStmt:
		w.list(s.Exprs)
	case *ast.FuncCallStmt:
		s.Expr = w.expr(s.Expr)
	case *ast.DoBlockStmt:
		w.block(s.Stmts)
	case *ast.WhileStmt:
		s.Condition = w.expr(s.Condition)
		w.block(s.Stmts)
	case *ast.RepeatStmt:
		s.Condition = w.expr(s.Condition)
		w.block(s.Stmts)
	case *ast.IfStmt:
		s.Condition = w.expr(s.Condition)
		w.block(s.Then)
		w.block(s.Else)
	case *ast.NumberForStmt:
		s.Init, s.Limit, s.Step = w.expr(s.Init), w.expr(s.Limit), w.expr(s.Step)
		w.block(s.Stmts)
	case *ast.GenericForStmt:
		w.list(s.Exprs)
		w.block(s.Stmts)
	case *ast.FuncDefStmt:
		w.expr(s.Func)
		if s.Name != nil && s.Name.Func != nil {
			s.Name.Func = w.expr(s.Name.Func)
		}
	case *ast.ReturnStmt:
		w.list(s.Exprs)
	case *ast.GotoStmt: // Lua 5.1 has none
		w.err = fmt.Errorf("%s:%d: '=' expected near '%s'", w.name, s.Line(), s.Label)
	case *ast.LabelStmt:
		w.err = fmt.Errorf("%s:%d: unexpected symbol near ':'", w.name, s.Line())
	}
}

func (w *rewriter) list(exprs []ast.Expr) {
	for i := range exprs {
		exprs[i] = w.expr(exprs[i])
	}
}

func (w *rewriter) expr(e ast.Expr) ast.Expr {
	switch e := e.(type) {
	case *ast.NumberExpr:
		if n, ok := luaNumber(e.Value); ok && !math.IsInf(n, 0) {
			e.Value = strconv.FormatFloat(n, 'e', -1, 64)
		}
	case *ast.AttrGetExpr:
		e.Object, e.Key = w.expr(e.Object), w.expr(e.Key)
	case *ast.TableExpr:
		for _, f := range e.Fields {
			f.Key, f.Value = w.expr(f.Key), w.expr(f.Value)
		}
	case *ast.FuncCallExpr:
		e.Func, e.Receiver = w.expr(e.Func), w.expr(e.Receiver)
		w.list(e.Args)
	case *ast.LogicalOpExpr:
		e.Lhs, e.Rhs = w.expr(e.Lhs), w.expr(e.Rhs)
	case *ast.RelationalOpExpr:
		e.Lhs, e.Rhs = w.expr(e.Lhs), w.expr(e.Rhs)
	case *ast.ArithmeticOpExpr:
		e.Lhs, e.Rhs = w.operand(e.Lhs), w.operand(e.Rhs)
	case *ast.UnaryMinusOpExpr:
		e.Expr = w.operand(e.Expr)
	case *ast.UnaryNotOpExpr:
		e.Expr = w.expr(e.Expr)
	case *ast.UnaryLenOpExpr:
		e.Expr = w.expr(e.Expr)
	case *ast.FunctionExpr:
		w.block(e.Stmts)
	case *ast.StringConcatOpExpr:
		var parts []ast.Expr
		for {
			parts = append(parts, single(w.expr(e.Lhs)))
			next, ok := e.Rhs.(*ast.StringConcatOpExpr)
			if !ok {
				break
			}
			e = next
		}
		return call(e, concatName, append(parts, single(w.expr(e.Rhs))))
	}
	return e
}

func (w *rewriter) operand(e ast.Expr) ast.Expr {
	e = w.expr(e)
	switch e.(type) {
	case *ast.NumberExpr, *ast.ArithmeticOpExpr, *ast.UnaryMinusOpExpr, *ast.UnaryLenOpExpr:
		return e
	}
	return call(e, operandName, []ast.Expr{single(e)})
}

// single cuts a call or ... down to its first value.
func single(e ast.Expr) ast.Expr {
	switch e := e.(type) {
	case *ast.FuncCallExpr:
		e.AdjustRet = true
	case *ast.Comma3Expr:
		e.AdjustRet = true
	}
	return e
}

// call is a call that is no tail call, so that errors know the line.
func call(at ast.Expr, name string, args []ast.Expr) ast.Expr {
	fn := &ast.IdentExpr{Value: name}
	c := &ast.FuncCallExpr{Func: fn, Args: args, AdjustRet: true}
	for _, n := range []ast.PositionHolder{fn, c} {
		n.SetLine(at.Line())
		n.SetLastLine(at.LastLine())
	}
	return c
}

// luaNumber reads a number as C's strtod and Lua 5.1 do.
func luaNumber(s string) (float64, bool) {
	s = strings.ToLower(strings.Trim(s, " \t\n\v\f\r"))
	digits, sign := s, 1.0
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		if digits[0] == '-' {
			sign = -1
		}
		digits = digits[1:]
	}
	switch digits {
	case "inf", "infinity":
		return math.Inf(int(sign)), true
	case "nan":
		return math.Copysign(math.NaN(), sign), true
	}
	if digits == "" || !strings.ContainsRune(".0123456789", rune(digits[0])) || strings.Contains(digits, "_") {
		return 0, false
	}
	if strings.HasPrefix(digits, "0x") && !strings.Contains(digits, "p") {
		digits += "p0"
	} else if strings.HasPrefix(digits, "0b") || strings.HasPrefix(digits, "0o") {
		return 0, false
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return sign * n, true
}

// luaFormat writes a number as printf does with %.14g, which is how Lua makes strings of numbers.
func luaFormat(n float64) string { return formatG(n, 14) }

func formatG(n float64, precision int) string {
	switch {
	case math.IsNaN(n) && math.Signbit(n):
		return "-nan"
	case math.IsNaN(n):
		return "nan"
	case math.IsInf(n, 1):
		return "inf"
	case math.IsInf(n, -1):
		return "-inf"
	}
	return strconv.FormatFloat(n, 'g', precision, 64)
}

// luaText is the string of a value that may stand for one, as lua_tolstring makes it.
func luaText(v lua.LValue) (string, bool) {
	switch v := v.(type) {
	case lua.LString:
		return string(v), true
	case lua.LNumber:
		return luaFormat(float64(v)), true
	}
	return "", false
}
