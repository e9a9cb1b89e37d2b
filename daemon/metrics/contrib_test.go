package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// families are the names of all metrics that there are, with those that a
// histogram is made of.
func families(t *testing.T) (plain, all []string) {
	t.Helper()
	gathered, err := registry(fixed{}, NewEvents()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range gathered {
		plain = append(plain, f.GetName())
		all = append(all, f.GetName())
		if f.GetType().String() == "HISTOGRAM" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				all = append(all, f.GetName()+suffix)
			}
		}
	}
	return plain, all
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestEveryMetricIsDescribed: the manual has each of ours, and no other.
func TestEveryMetricIsDescribed(t *testing.T) {
	plain, _ := families(t)
	manual := read(t, "../../man/girder-worker-metrics.7.md")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile(`\*\*(girder_worker_[a-z0-9_]+)`).FindAllStringSubmatch(manual, -1) {
		named[m[1]] = true
	}
	for _, name := range plain {
		if strings.HasPrefix(name, prefix) && !named[name] {
			t.Errorf("the manual lacks %s", name)
		}
		delete(named, name)
	}
	for name := range named {
		t.Errorf("the manual describes %s, which there is not", name)
	}
}

var metricName = regexp.MustCompile(`\b(?:girder_worker|process|go)_[a-z0-9_]+\b`)

// TestDashboard: every metric that it asks for is there, and panels do not overlap.
func TestDashboard(t *testing.T) {
	_, all := families(t)
	text := read(t, "../../contrib/grafana/girder-worker.json")
	var board struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(text), &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for i, p := range board.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: its id is another's, or it has no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W < 1 || p.GridPos.H < 1 {
			t.Errorf("panel %q is at %+v", p.Title, p.GridPos)
		}
		for _, q := range board.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				if !slices.Contains(all, name) {
					t.Errorf("panel %q asks for %s, which there is not", p.Title, name)
				}
			}
		}
	}
}

// TestDashboardExpressions has Prometheus' own parser read every expression.
func TestDashboardExpressions(t *testing.T) {
	promtool(t)
	var board struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "../../contrib/grafana/girder-worker.json")), &board); err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			rules = append(rules, rule{"a:b:c", strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(target.Expr)})
		}
	}
	// JSON is YAML. Each rule in a group of its own may be called as the others.
	groups := map[string][]map[string]any{"groups": {}}
	for i, r := range rules {
		groups["groups"] = append(groups["groups"], map[string]any{"name": string(rune('a'+i%26)) + strings.Repeat("x", i/26), "rules": []rule{r}})
	}
	data, err := json.Marshal(groups)
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/rules.yml"
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", "--lint=none", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func promtool(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is not installed: run packaging/deps test")
	}
}

// TestRules: the alerts ask for what there is, are right as Prometheus sees it, and
// each is tested to fire and to be quiet.
func TestRules(t *testing.T) {
	promtool(t)
	_, all := families(t)
	rules := read(t, "../../contrib/prometheus/girder-worker.rules.yml")
	for _, line := range strings.Split(rules, "\n") {
		if strings.Contains(line, "summary:") || strings.Contains(line, "description:") {
			continue
		}
		for _, name := range metricName.FindAllString(line, -1) {
			if !slices.Contains(all, name) {
				t.Errorf("the rules ask for %s, which there is not", name)
			}
		}
	}
	tests := read(t, "../../contrib/prometheus/girder-worker.rules.test.yml")
	for _, alert := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1) {
		if n := strings.Count(tests, "alertname: "+alert[1]+"\n"); n != 2 {
			t.Errorf("%s is tested %d times, want that it fires and that it is quiet", alert[1], n)
		}
	}
	for _, args := range [][]string{{"check", "rules", "girder-worker.rules.yml"}, {"test", "rules", "girder-worker.rules.test.yml"}} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = "../../contrib/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args, err, out)
		}
	}
}
