package config

import (
	"net/url"
	"slices"
	"strings"
)

// A pythonOption is one that the Python worker has and this one does not. It is
// accepted, so that its file can be kept, and told as a warning.
type pythonOption struct {
	key string
	// value is the Python worker's own default (worker.dist.cfg), as it is
	// written there.
	value string
	// why it has no effect, and what has.
	why string
}

const noPython = "girder_worker.python says where Python tasks are"

var pythonOptions = []pythonOption{
	{"celery.backend", "rpc://guest:guest@localhost/", backendWhy},
	{"celery.concurrency", "", slotsWhy},
	{"celery.worker_concurrency", "", slotsWhy},
	{"celery.celeryd_concurrency", "", slotsWhy},
	{"girder_worker.core_modules", "", noPython},
	{"logging.format", "[%%(asctime)s] %%(levelname)s: %%(message)s", formatWhy},
	{"docker.gc", "", imagesWhy},
	{"docker.cache_timeout", "", imagesWhy},
	{"docker.exclude_images", "", imagesWhy},
}

const (
	backendWhy = "results go back through celery.broker, to the queues that their clients name"
	slotsWhy   = "girder_worker.slots, which is set, is how many jobs run at a time; without it this is"
	formatWhy  = "logging.output chooses between text and json"
	imagesWhy  = "`girder-worker images prune` removes what nobody needs"
)

// concurrency has the Python worker's options of how many tasks run at a time count
// as slots, where those are not set themselves.
func concurrency(entries []entry) []entry {
	const slots = sectionWorker + ".slots"
	if slices.ContainsFunc(entries, func(e entry) bool { return e.key == slots }) {
		return entries
	}
	for i := range entries {
		if o, ok := pythonDefault(entries[i].key); ok && o.why == slotsWhy {
			entries[i].key = slots
		}
	}
	return entries
}

func pythonDefault(key string) (pythonOption, bool) {
	i := slices.IndexFunc(pythonOptions, func(o pythonOption) bool { return o.key == key })
	if i < 0 {
		return pythonOption{}, false
	}
	return pythonOptions[i], true
}

// without tells whether an option is accepted without an effect, and why it has
// none; an empty reason needs no warning.
func without(keys []Key, key, value string) (why string, ok bool) {
	section, name, _ := strings.Cut(key, ".")
	if o, known := pythonDefault(key); known {
		if key == "celery.backend" {
			return otherBackend(value), true
		}
		return o.why, true
	}
	switch {
	case section == sectionDefault && slices.ContainsFunc(keys, func(k Key) bool { return k.Name == name }):
		// configparser would hand it on to every section.
		return "it stands in [DEFAULT], from where only values named as %(" + name + ")s are taken", true
	case section == sectionDefault:
		return "", true
	case section == sectionCelery && near(keys, key) == "":
		return "it is an option of Celery, whose protocol this worker speaks without being it", true
	}
	return "", false
}

// otherBackend is what to say of a result backend: none but rpc:// is served.
func otherBackend(value string) string {
	if scheme, _, ok := strings.Cut(value, "://"); ok && scheme != "rpc" && scheme != "amqp" && scheme != "" {
		return backendWhy + "; nobody finds results at " + scheme + "://"
	}
	return backendWhy
}

// pythonVariables are those of Girder 5's worker (girder_worker/celeryconfig.py,
// app.py, log_utils.py, docker/tasks) that are no option here, without their
// prefix: each says why it has no effect, or nothing. BROKER, API_URL,
// DOCKER_RUN_OPTIONS and LOGGING_LEVEL are options.
var pythonVariables = map[string]func(value string) string{
	"BACKEND":         otherBackend,
	"LOGGING_FORMAT":  func(string) string { return formatWhy },
	"CELERY_APP_MAIN": func(string) string { return "tasks are told apart by their own names" },
	"TASK_ALWAYS_EAGER": func(value string) string {
		if strings.EqualFold(value, "true") {
			return "a worker takes tasks from its broker and never runs them in their caller"
		}
		return ""
	},
	"JOB_GC_SCOPE": func(string) string {
		return "it is read where Girder makes tokens; set it for the server"
	},
}

// near is the option that somebody may have meant, or nothing.
func near(keys []Key, key string) string {
	section, name, _ := strings.Cut(key, ".")
	best, distance := "", 1+max(2, len(name)/4)
	for _, k := range keys {
		d := edits(name, k.Name)
		if k.Section != section {
			d++
		}
		if d < distance {
			best, distance = k.String(), d
		}
	}
	return best
}

func suggest(keys []Key, key string) string {
	if n := near(keys, key); n != "" {
		return "did you mean " + n + "?"
	}
	return "girder-worker.cfg(5) lists them"
}

func nearestVariable(keys []Key, name string) string {
	best, distance := "", 3
	for _, k := range keys {
		if d := edits(name, k.Variable()); d < distance {
			best, distance = k.Variable(), d
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
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

// Masked is value without the passwords in it, for showing: those of URLs, and
// all of an option whose name tells of one, and the variables of containers.
func Masked(name, value string) string {
	if name == "run_options" && strings.Contains(value, `"environment"`) {
		return mask // a container's variables may hold a token
	}
	for _, word := range []string{"pass", "secret", "token"} {
		if strings.Contains(strings.ToLower(name), word) && value != "" {
			return mask
		}
	}
	return MaskURLs(value)
}

const mask = "***"

// MaskURLs replaces the passwords of URLs in a text. It takes an "@" too much
// rather than one too few: a password may hold what should have been escaped.
func MaskURLs(text string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "://")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("://")
		end := strings.IndexAny(rest, " \t\n\r\"'<>")
		if end < 0 {
			end = len(rest)
		}
		if next := strings.Index(rest[:end], "://"); next >= 0 {
			// The scheme of the next URL belongs to what is written before it.
			if cut := strings.LastIndexAny(rest[:next], ";,"); cut >= 0 {
				end = cut
			}
		}
		one := rest[:end]
		if at := strings.LastIndexByte(one, '@'); at >= 0 {
			if user, _, has := strings.Cut(one[:at], ":"); has {
				one = user + ":" + mask + one[at:]
			}
		}
		if u, err := url.Parse("x://" + one); err == nil && u.RawQuery != "" {
			one = maskQuery(one)
		}
		b.WriteString(one)
		text = rest[end:]
	}
}

// maskQuery replaces the values of parameters that are secrets.
func maskQuery(address string) string {
	path, query, _ := strings.Cut(address, "?")
	parts := strings.Split(query, "&")
	for i, p := range parts {
		name, value, _ := strings.Cut(p, "=")
		if m := Masked(name, "x"); value != "" && m == mask {
			parts[i] = name + "=" + mask
		}
	}
	return path + "?" + strings.Join(parts, "&")
}
