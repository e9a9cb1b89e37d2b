package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/daemon/policy/policytest"
)

// TestCheckCommand: what a task file may name, and what is said of the rest.
func TestCheckCommand(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := policytest.RootsDir(t)
	p := func(name string) string { return filepath.Join(dir, name) }
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"script": {"#!/bin/sh\necho\n", 0o755}, "env": {"#! /usr/bin/env -S FOO=1 sh -e\n", 0o755}, "plain": {"#!/bin/sh\n", 0o644},
		"bare": {"echo\n", 0o755}, "empty": {"", 0o755}, "crlf": {"#!/bin/sh\r\necho\n", 0o755}, "nameless": {"#!\n", 0o755}, "relative": {"#!sh\n", 0o755},
		"gone": {"#!/no/such/interpreter\n", 0o755}, "enviless": {"#!/usr/bin/env no-such-program\n", 0o755}, "second": {"#!" + p("script") + "\n", 0o755},
		"round": {"#!" + p("round") + "\n", 0o755}, "by others": {"#!" + p("open") + "\n", 0o755}, "open": {"#!/bin/sh\n", 0o777}, "data": {"", 0o666}, "hidden": {"#!/bin/sh\n", 0o711},
	} {
		if err := os.WriteFile(p(name), []byte(file.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p(name), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	away := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(away, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"link": "script", "away": away, "dir": "/usr", "mine": "open"} {
		if err := os.Symlink(to, p(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		command []string
		want    string // the program, or what is said
	}{
		{[]string{"/bin/sh"}, "/bin/sh"},
		{[]string{"/bin/sh", p("script"), "-c", "/no/such/file", "relative", "/tmp"}, "/bin/sh"},
		{[]string{p("script")}, p("script")},
		{[]string{p("link")}, p("link")}, // a program may look at its name
		{[]string{p("env")}, p("env")},
		{[]string{p("second")}, p("second")},
		{[]string{p("hidden")}, p("hidden")},
		{[]string{"no-such-program"}, "there is no program no-such-program in /usr/local/sbin:"},
		{[]string{"echo a b"}, "if echo is the program, write a list of it and its arguments"},
		{[]string{p("script") + " -x"}, "if " + p("script") + " is the program, write a list"},
		{[]string{p("nothing")}, "there is no program " + p("nothing")},
		{[]string{p("plain")}, "is not executable: chmod a+x " + p("plain")},
		{[]string{p("dir")}, "it is no regular file"},
		{[]string{p("bare")}, "bare is no program: it begins neither with #!"},
		{[]string{p("empty")}, "empty is no program"},
		{[]string{p("crlf")}, `there is no program /bin/sh` + "\r"},
		{[]string{p("nameless")}, `whose interpreter "" cannot be used; its first line has to be #!`},
		{[]string{p("relative")}, `whose interpreter "sh" cannot be used`},
		{[]string{p("gone")}, "gone is a script whose interpreter cannot be used: there is no program /no/such/interpreter"},
		{[]string{p("enviless")}, "there is no program no-such-program"},
		{[]string{p("round")}, "cannot be used"},
		{[]string{p("open")}, "open can be changed by others than root"},
		{[]string{p("mine")}, "open can be changed by others than root"},
		{[]string{p("by others")}, "open can be changed by others than root"},
		{[]string{"/bin/sh", p("data")}, "its argument " + p("data") + " may be a program, too: "},
		{[]string{"/mnt/program"}, "beneath /mnt, which a command does not see"},
		{[]string{"/var/lib/program"}, "beneath /var, which a command does not see"},
		{[]string{p("away")}, "can be changed by others"}, // /tmp
		{[]string{"/etc/alternatives"}, "beneath /etc"},
	} {
		got, err := CheckCommand(test.command)
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != test.want || err != nil && (test.want == test.command[0] || !strings.Contains(got, test.want)) {
			t.Errorf("%q: got %q, %v; want %q", test.command, got, err, test.want)
		}
	}
	// Whoever looks and may not says so.
	if name, err := CheckCommand([]string{"sh"}); err != nil || !strings.HasSuffix(name, "/sh") {
		t.Errorf("sh is %q, %v", name, err)
	}
}
