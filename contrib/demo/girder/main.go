// Command girder is the Girder server of the demo: the one of the tests, with a
// folder and a file in it, and a switch for outages.
//
// It writes what a job needs to know to standard output, as lines of NAME=VALUE,
// and serves until it is killed. Below /demo/ there is what a job must not reach
// in a real one: POST /demo/away makes the server answer 503, POST /demo/back
// ends that, GET /demo/tree shows the folder, GET /demo/file the files of the item.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"girderworker/transforms/girder/girdertest"
)

// process is the owner of the server: what is to be undone is undone at the end.
type process struct{ undo []func() }

func (p *process) TempDir() string {
	dir, err := os.MkdirTemp("", "demo-girder-")
	if err != nil {
		p.Fatalf("cannot make a directory for uploads: %v", err)
	}
	p.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (p *process) Cleanup(f func()) { p.undo = append(p.undo, f) }

func (p *process) end() {
	for len(p.undo) > 0 {
		last := len(p.undo) - 1
		p.undo[last]()
		p.undo = p.undo[:last]
	}
}

func (p *process) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "girder: "+format+"\n", args...)
	p.end()
	os.Exit(1)
}

func main() {
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: girder FILE    (a file that the server shall have)") }
	flag.Parse()
	p := &process{}
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	data, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		p.Fatalf("cannot read the file that the server shall have: %v", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)

	var s *girdertest.Server
	var folder, result string
	switches := http.NewServeMux()
	switches.HandleFunc("POST /demo/away", func(http.ResponseWriter, *http.Request) {
		s.Fail("", -1, girdertest.Status(http.StatusServiceUnavailable))
	})
	switches.HandleFunc("POST /demo/back", func(http.ResponseWriter, *http.Request) { s.Mend() })
	switches.HandleFunc("GET /demo/tree", func(w http.ResponseWriter, _ *http.Request) {
		for _, line := range s.Tree(folder) {
			fmt.Fprintln(w, line)
		}
	})
	switches.HandleFunc("GET /demo/file", func(w http.ResponseWriter, r *http.Request) {
		for _, f := range s.Files(result) {
			if f.Name == r.FormValue("name") {
				w.Write(f.Data)
			}
		}
	})
	s = girdertest.New(p, girdertest.Config{Handler: func(routes http.Handler) http.Handler {
		switches.Handle("/", routes)
		return switches
	}})
	defer p.end()

	user := s.AddUser(true)
	folder = s.AddFolder(user, "study")
	scan := s.AddItem(folder, "scan")
	result = s.AddItem(folder, "result")
	job, _ := s.AddJob(user, "local")
	expired := s.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)
	s.RevokeToken(expired)
	for _, line := range [][2]string{
		{"API", s.API()}, {"KEY", s.AddAPIKey(user)}, {"TOKEN", s.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)}, {"EXPIRED", expired},
		{"FOLDER", folder}, {"SCAN", scan}, {"FILE", s.AddFile(scan, filepath.Base(flag.Arg(0)), data)}, {"RESULT", result}, {"JOB", job},
	} {
		fmt.Printf("%s=%s\n", line[0], line[1])
	}
	<-stop
}
