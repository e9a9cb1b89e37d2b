package celery

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxPattern bounds a pattern that somebody else's message brings.
const maxPattern = 1024

// matchNode tells whether a node's name matches. The matchers are kombu's: "glob"
// as Python's fnmatch, "pcre" as its re.match, which begins at the start and may end
// anywhere. Both take time linear in the name, whatever the pattern; what only a
// backtracking engine can do (references back, looking around) is an error.
func matchNode(node, pattern, matcher string) (bool, error) {
	if len(pattern) > maxPattern {
		return false, fmt.Errorf("%w: a pattern of %d bytes, at most %d are allowed", ErrRequest, len(pattern), maxPattern)
	}
	var expr string
	switch matcher {
	case "glob":
		expr = `(?s)\A` + globExpr(pattern) + `\z`
	case "pcre":
		expr = `\A(?:` + pattern + `)`
	default:
		return false, fmt.Errorf("%w: matcher %s: only glob and pcre are understood", ErrRequest, quote(matcher))
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return false, fmt.Errorf("%w: pattern %s: %w", ErrRequest, quote(pattern), err)
	}
	return re.MatchString(node), nil
}

// globExpr is a shell pattern as a regular expression: *, ?, [set], [!set].
func globExpr(pattern string) string {
	var out strings.Builder
	for len(pattern) > 0 {
		c, size := utf8.DecodeRuneInString(pattern)
		pattern = pattern[size:]
		switch c {
		case '*':
			out.WriteString(".*")
		case '?':
			out.WriteString(".")
		case '[':
			set, rest, ok := globSet(pattern)
			if !ok {
				out.WriteString(`\[`)
				continue
			}
			pattern = rest
			out.WriteString(set)
		default:
			out.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return out.String()
}

// globSet reads a set up to its bracket; a bracket that stands first is a member.
func globSet(s string) (set, rest string, ok bool) {
	negated := strings.HasPrefix(s, "!")
	body := strings.TrimPrefix(s, "!")
	from := 0
	if strings.HasPrefix(body, "]") {
		from = 1
	}
	end := strings.IndexByte(body[from:], ']')
	if end < 0 {
		return "", "", false
	}
	members := body[:from+end]
	rest = body[from+end+1:]
	var out strings.Builder
	out.WriteByte('[')
	if negated {
		out.WriteByte('^')
	}
	for i, c := range members {
		if c == '-' && i > 0 && i < len(members)-1 {
			out.WriteByte('-') // a range, where it stands between two
		} else if strings.ContainsRune(`\]^[-&~`, c) {
			out.WriteByte('\\')
			out.WriteRune(c)
		} else {
			out.WriteRune(c)
		}
	}
	out.WriteByte(']')
	return out.String(), rest, true
}
