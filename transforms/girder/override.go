package girder

import (
	"fmt"
	"slices"
	"strings"
)

// Override says where a Girder is reached from here, when messages name it by an
// address that is good only elsewhere (the Python worker's GIRDER_WORKER_API_URL,
// for several servers). The zero value changes nothing.
type Override struct {
	all   string // for every address
	rules []rule // by prefix, the longest first
}

type rule struct{ from, to string }

// ParseOverride reads what a configuration says: "URL", the root of the API for
// whatever address is named, or "FROM=TO" for addresses that begin with FROM; several
// are separated by commas.
func ParseOverride(s string) (Override, error) {
	var o Override
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		from, to, mapped := strings.Cut(part, "=")
		if !mapped {
			from, to = "", part
		}
		for _, address := range []string{from, to} {
			if address == "" && !mapped {
				continue
			}
			if _, err := parseAPI(address); err != nil {
				return Override{}, err
			}
		}
		from, to = strings.TrimRight(from, "/"), strings.TrimRight(to, "/")
		switch {
		case mapped:
			o.rules = append(o.rules, rule{from, to})
		case o.all != "":
			return Override{}, fmt.Errorf("cannot reach every Girder at %s and at %s: name FROM=TO for each", o.all, to)
		default:
			o.all = to
		}
	}
	slices.SortStableFunc(o.rules, func(a, b rule) int { return len(b.from) - len(a.from) })
	return o, nil
}

// Apply returns the root of the API to use for one that a message named.
func (o Override) Apply(api string) string {
	api = strings.TrimRight(api, "/")
	for _, r := range o.rules {
		if rest, ok := strings.CutPrefix(api, r.from); ok && (rest == "" || rest[0] == '/') {
			return r.to + rest
		}
	}
	if o.all != "" {
		return o.all
	}
	return api
}
