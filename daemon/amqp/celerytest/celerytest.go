// Package celerytest is the real Celery client for tests: it runs small Python
// scripts with Debian's python3-celery against a broker.
package celerytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// patience is for a script on a busy machine.
const patience = 2 * time.Minute

// prelude is before every script: the app as Girder configures its own, and
// say(), whose values the test gets.
const prelude = `
import json, os, sys
from celery import Celery
app = Celery('girder_worker', broker=os.environ['BROKER'], backend='rpc://')
app.conf.update(
    accept_content=['json', 'pickle', 'yaml'], task_serializer='json', result_serializer='json',
    broker_connection_timeout=20, broker_connection_retry_on_startup=False,
    broker_transport_options={}, worker_hijack_root_logger=False)
def say(value):
    sys.stdout.write(json.dumps(value, default=repr) + '\n')
    sys.stdout.flush()
`

// Client runs scripts against one broker.
type Client struct {
	python string
	broker string
}

// New finds Python with Celery. Where it is not installed the test is listed as
// not run. broker is a URL as Celery takes it.
func New(t testing.TB, broker string) *Client {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has Debian's packages
	if _, err := os.Stat(python); err != nil {
		t.Skipf("needs Python: %v", err)
	}
	if _, err := os.Stat("/usr/lib/python3/dist-packages/celery"); err != nil {
		t.Skipf("needs the Celery client: %v (packaging/deps test installs python3-celery)", err)
	}
	return &Client{python, broker}
}

// Run runs a script that has app and say(value), and returns what it said, a
// JSON value each.
func (c *Client) Run(t testing.TB, script string) []json.RawMessage {
	t.Helper()
	said, err := c.run(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return said
}

func (c *Client) run(ctx context.Context, script string) ([]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.python, "-")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "BROKER=" + c.broker, "HOME=/nonexistent", "PYTHONDONTWRITEBYTECODE=1"}
	cmd.Dir = os.TempDir()
	cmd.Stdin = strings.NewReader(prelude + script)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the Celery client: %w\n%s\n%s", err, out.String(), stderr.String())
	}
	var said []json.RawMessage
	for line := range strings.Lines(out.String()) {
		if !json.Valid([]byte(line)) {
			return nil, fmt.Errorf("the Celery client said %q, which is not JSON", line)
		}
		said = append(said, json.RawMessage(line))
	}
	return said, nil
}
