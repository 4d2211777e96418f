package chaos

// matchGlob reports whether all of s matches a pattern as KEYS takes it. A pattern that breaks off is taken as far as it goes.
func matchGlob(pattern, s string) bool {
	star, mark := -1, 0 // where the last * stands, and how much of s it has taken
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if n, ok := matchByte(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchByte matches one byte with the first element of a pattern, and returns the element's length.
func matchByte(pattern string, c byte) (n int, ok bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	case '[':
		return matchSet(pattern, c)
	}
	return 1, pattern[0] == c
}

// matchSet matches one byte with a set such as [a-c_] or [^0-9].
func matchSet(pattern string, c byte) (n int, ok bool) {
	i, not := 1, false
	if i < len(pattern) && pattern[i] == '^' {
		i, not = i+1, true
	}
	for i < len(pattern) && pattern[i] != ']' {
		low := pattern[i]
		if low == '\\' && i+1 < len(pattern) {
			i++
			low = pattern[i]
		}
		high := low
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			high = pattern[i+2]
			i += 2
		}
		ok = ok || min(low, high) <= c && c <= max(low, high)
		i++
	}
	return min(i+1, len(pattern)), ok != not
}
