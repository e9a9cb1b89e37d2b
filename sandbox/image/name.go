package image

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"sync"
)

const (
	defaultDomain = "docker.io"
	defaultRepo   = "library/"
	defaultTag    = "latest"
	maxRef        = 255
)

// whenUsed compiles an expression when it is first used. Every start of a
// container starts this program twice, and most starts never see an image.
func whenUsed(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

var (
	domainForm = whenUsed(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$`)
	pathForm   = whenUsed(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm    = whenUsed(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestForm = whenUsed(`^sha256:[0-9a-f]{64}$`)
	prefixForm = whenUsed(`^(?:sha256:)?[0-9a-f]{12,64}$`)
)

// reference is a parsed image name.
type reference struct {
	name   string // domain/path:tag, complete
	digest string // "" when the name has none; the name's tag then means nothing
}

// parseRef reads a reference as Docker does: without a domain it is of
// docker.io, without a tag it is latest.
func parseRef(ref string) (reference, error) {
	bad := func(why string) (reference, error) {
		return reference{}, blame(ErrName, "%q: %s; write it as in busybox, busybox:1.36 or registry.example.org/lab/tool:2", printable(ref), why)
	}
	if ref == "" {
		return bad("it is empty")
	}
	if len(ref) > maxRef {
		return bad("it is too long")
	}
	rest, digest, hasDigest := strings.Cut(ref, "@")
	if hasDigest && !digestForm().MatchString(digest) {
		return bad("what follows @ is not sha256:HEX")
	}
	tag := defaultTag
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, tag = rest[:i], rest[i+1:]
	}
	if !tagForm().MatchString(tag) {
		return bad("its tag has a character that tags cannot have")
	}
	domain, path, found := strings.Cut(rest, "/")
	if !found || !strings.ContainsAny(domain, ".:[") && domain != "localhost" && strings.ToLower(domain) == domain {
		domain, path = defaultDomain, rest
	}
	if domain == "index.docker.io" {
		domain = defaultDomain
	}
	if !domainForm().MatchString(domain) {
		return bad("its registry is not a host name")
	}
	if domain == defaultDomain && !strings.Contains(path, "/") {
		path = defaultRepo + path
	}
	if !pathForm().MatchString(path) {
		return bad("only lower-case letters, digits and single . _ - / between them are allowed")
	}
	return reference{name: domain + "/" + path + ":" + tag, digest: digest}, nil
}

// CheckName tells whether ref can name an image, and returns its short form,
// with the tag that it means.
func CheckName(ref string) (string, error) {
	r, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	if r.digest != "" {
		return "", blame(ErrName, "%q: a digest cannot be given to an image", ref)
	}
	return short(r.name), nil
}

// short drops from a complete name what everybody leaves out, where it then
// still means the same.
func short(name string) string {
	for _, prefix := range []string{defaultDomain + "/" + defaultRepo, defaultDomain + "/"} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if back, err := parseRef(rest); err == nil && back.name == name {
			return rest
		}
	}
	return name
}

// near returns up to three of names that a person may have meant by ref.
func near(ref string, names []string) []string {
	wanted, _, _ := strings.Cut(ref, "@")
	repo, _ := splitTag(wanted)
	base := repo[strings.LastIndexByte(repo, '/')+1:]
	type candidate struct {
		name  string
		score int
	}
	var found []candidate
	for _, name := range names {
		other, _ := splitTag(name)
		otherBase := other[strings.LastIndexByte(other, '/')+1:]
		d := distance(base, otherBase)
		if d <= 2 && d < len(base) || len(base) >= 3 && strings.Contains(otherBase, base) {
			found = append(found, candidate{name, d})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.name, b.name))
	})
	var out []string
	for _, c := range found {
		if len(out) < 3 && !slices.Contains(out, c.name) {
			out = append(out, c.name)
		}
	}
	return out
}

func splitTag(ref string) (repo, tag string) {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}

// distance is the edit distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
