package redisxtest

import (
	"slices"
	"strconv"
	"strings"
)

// asRESP3 puts right the types of replies for which miniredis has those of RESP2.
func asRESP3(name string, args []string, out []byte) []byte {
	has := func(option string) bool {
		return slices.ContainsFunc(args, func(a string) bool { return strings.EqualFold(a, option) })
	}
	switch name {
	case "ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE", "ZUNION", "ZINTER", "ZRANDMEMBER":
		if has("WITHSCORES") {
			return inPairs(out)
		}
	case "ZPOPMIN", "ZPOPMAX":
		if len(args) == 3 {
			return inPairs(out)
		}
	case "HRANDFIELD":
		if has("WITHVALUES") {
			return inPairs(out)
		}
	case "SINTER", "SUNION", "SDIFF":
		return asSet(out)
	case "SPOP":
		if len(args) == 3 {
			return asSet(out)
		}
	case "ZSCAN":
		return scoresAsText(out)
	case "GEOPOS", "XPENDING":
		return []byte(strings.ReplaceAll(string(out), "*-1\r\n", "_\r\n"))
	}
	return out
}

func asSet(out []byte) []byte {
	if len(out) == 0 || out[0] != '*' {
		return out
	}
	return append([]byte{'~'}, out[1:]...)
}

// items splits a list or map into its elements.
func items(out []byte) (list [][]byte, ok bool) {
	if len(out) == 0 || out[0] != '*' && out[0] != '%' && out[0] != '~' {
		return nil, false
	}
	i := slices.Index(out, '\n') + 1
	for i < len(out) {
		end := skipReply(out, i)
		if end < 0 {
			return nil, false
		}
		list, i = append(list, out[i:end]), end
	}
	return list, true
}

// inPairs makes a list of pairs of a flat list or a map.
func inPairs(out []byte) []byte {
	list, ok := items(out)
	if !ok || len(list)%2 != 0 {
		return out
	}
	b := []byte("*" + strconv.Itoa(len(list)/2) + "\r\n")
	for p := range slices.Chunk(list, 2) {
		b = append(b, "*2\r\n"...)
		b = append(append(b, p[0]...), p[1]...)
	}
	return b
}

// scoresAsText is ZSCAN, whose scores are strings in every protocol.
func scoresAsText(out []byte) []byte {
	outer, ok := items(out)
	if !ok || len(outer) != 2 {
		return out
	}
	inner, ok := items(outer[1])
	if !ok {
		return out
	}
	r := reply{resp: 3}
	r.array(2)
	r.raw(outer[0])
	r.array(len(inner))
	for _, v := range inner {
		if v[0] == ',' {
			r.bulk(strings.TrimRight(string(v[1:]), "\r\n"))
		} else {
			r.raw(v)
		}
	}
	return r.b
}

// scores writes the scores in a reply as the server does: miniredis has 1.7954388e+12 for a time in milliseconds that
// happens to be round. In RESP2 only their place tells them from members.
func scores(name string, args []string, out []byte) []byte {
	if len(out) == 0 || name[0] != 'Z' && name != "BZPOPMIN" && name != "BZPOPMAX" && name != "BZMPOP" {
		return out
	}
	every, from := 0, 0 // which elements of the list are scores
	switch name {
	case "ZSCORE", "ZINCRBY", "ZADD":
		return eachScore(out, out[0] == '$')
	case "ZMSCORE":
		every = 1
	case "ZPOPMIN", "ZPOPMAX":
		every, from = 2, 1
	case "BZPOPMIN", "BZPOPMAX":
		every, from = 3, 2
	case "ZMPOP", "BZMPOP", "ZSCAN":
		return nestedScores(out)
	default:
		if slices.ContainsFunc(args, func(a string) bool { return strings.EqualFold(a, "WITHSCORES") }) {
			every, from = 2, 1
		}
	}
	if every == 0 {
		return out
	}
	return listedScores(out, every, from)
}

func listedScores(out []byte, every, from int) []byte {
	list, ok := items(out)
	if !ok {
		return out
	}
	b := slices.Clone(out[:slices.Index(out, '\n')+1])
	for i, v := range list {
		if inner, ok := items(v); ok && len(inner) == 2 { // a pair
			b = append(b, listedScores(v, 2, 1)...)
			continue
		}
		b = append(b, eachScore(v, i%every == from)...)
	}
	return b
}

// nestedScores is for lists of the members with scores behind something else.
func nestedScores(out []byte) []byte {
	list, ok := items(out)
	if !ok || len(list) != 2 {
		return out
	}
	b := slices.Clone(out[:slices.Index(out, '\n')+1])
	return append(append(b, list[0]...), listedScores(list[1], 2, 1)...)
}

// eachScore writes one score; bulk tells that a string is one.
func eachScore(v []byte, bulk bool) []byte {
	head := slices.Index(v, '\n') + 1
	if head < 3 {
		return v
	}
	text := string(v[1 : head-2])
	if v[0] == '$' {
		if !bulk || isNull(v) {
			return v
		}
		text = strings.TrimSuffix(string(v[head:]), "\r\n")
	} else if v[0] != ',' {
		return v
	}
	n, ok := luaNumber(text)
	if !ok {
		return v
	}
	r := reply{}
	if v[0] == ',' {
		r.simpleKind(',', wireNumber(n))
	} else {
		r.bulk(wireNumber(n))
	}
	return r.b
}
