package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// The file that the packages install is valid as it is, and stays so when
// every option in it is switched on. It has every option, and what it gives as a
// default is the default.
func TestShippedFile(t *testing.T) {
	text, err := os.ReadFile("../../packaging/etc/worker.cfg")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "worker.cfg")
	load := func(text string) Config {
		t.Helper()
		write(t, path, text)
		c, warnings, err := Load(Sources{File: path})
		if err != nil || len(warnings) > 0 {
			t.Fatal(warnings, err)
		}
		return c
	}
	asItIs := load(string(text))
	none := load("")
	if live, restart := Changed(none, asItIs); len(live)+len(restart) > 0 {
		t.Errorf("as it is installed it changes %q and %q", live, restart)
	}

	option := regexp.MustCompile(`(?m)^#([a-z_]+ =)`)
	on := load(option.ReplaceAllString(string(text), "$1"))
	var named []string
	section := ""
	for _, m := range regexp.MustCompile(`(?m)^\[([a-z_]+)\]|^#([a-z_]+) =`).FindAllStringSubmatch(string(text), -1) {
		if m[1] != "" {
			section = m[1]
		} else {
			named = append(named, section+"."+m[2])
		}
	}
	var all []string
	for _, k := range on.Keys() {
		all = append(all, k.String())
	}
	slices.Sort(named)
	slices.Sort(all)
	if !slices.Equal(named, all) {
		t.Errorf("it names\n%q, and there are\n%q", named, all)
	}
	live, restart := Changed(none, on)
	// Examples, of what has no default or one that the machine decides, and
	// defaults that are made of another option's value.
	examples := []string{
		"celery.broker", "celery.broker_ca", "celery.broker_cert", "celery.broker_key", "celery.broker_server_name", "celery.hostname",
		"girder_worker.audit_log", "girder_worker.cpus", "girder_worker.drop_dir", "girder_worker.girder_key_file", "girder_worker.girder_url", "girder_worker.memory", "girder_worker.metrics_web_config", "girder_worker.slots", "girder_worker.socket",
		"limits.cpus", "limits.memory", "limits.scratch",
	}
	for _, key := range append(live, restart...) {
		if !slices.Contains(examples, key) {
			t.Errorf("%s is given with another value than its default", key)
		}
	}
	if on.SocketPath() != none.SocketPath() || on.AuditPath() != none.AuditPath() || on.DropPath() != none.DropPath() {
		t.Error("a path is given that is not the default")
	}
}
