package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"girderworker/daemon/amqp"
	"girderworker/daemon/config"
	"girderworker/daemon/policy"
	"girderworker/sandbox/gpu"
)

func (p *patient) configuration(context.Context) (all []Finding) {
	const hint = "mend it; `girder-worker config list` shows what is in force"
	var invalid config.Invalid
	switch {
	case errors.As(p.problem, &invalid):
		for _, one := range invalid {
			all = append(all, bad(hint, "%s", config.MaskURLs(fmt.Sprint(one)))...)
		}
	case denied(p.problem):
		return unseen("the configuration: it may hold a password; the defaults are looked at here")
	case p.problem != nil:
		return bad(hint, "%v", p.problem)
	}
	for _, w := range p.warnings {
		all = append(all, warn("", "%s", w)...)
	}
	if len(all) > 0 {
		return all
	}
	var there []string
	for _, file := range p.Sources.Files() {
		if _, err := os.Stat(file); err == nil {
			there = append(there, file)
		}
	}
	if len(there) == 0 {
		return ok("no file: the defaults")
	}
	return ok("%s", strings.Join(there, ", "))
}

func (p *patient) policy(context.Context) []Finding {
	const hint = "`girder-worker policy check` names every problem; the daemon keeps what it had"
	path := p.config.PolicyFile
	text, err := policy.Read(path)
	if denied(err) {
		return unseen("the policy")
	}
	if err != nil {
		return bad("it and its directory must be root's alone to write: chown root, chmod go-w", "%v", err)
	}
	if text == nil {
		p.rules = policy.Default()
		return ok("no %s: what is built in", path)
	}
	rules, err := policy.Parse(path, text, policy.SystemNames())
	p.rules = rules
	if err != nil {
		var all []Finding
		for l := range strings.Lines(err.Error()) {
			all = append(all, bad(hint, "%s", strings.TrimSpace(l))...)
		}
		return all
	}
	if _, err := rules.ReadKeys(); err != nil && !denied(err) {
		return warn("images that need that signature are refused", "%v", err)
	}
	return ok("%s", path)
}

// daemon is what the daemon says of itself.
func (p *patient) daemon(context.Context) (all []Finding) {
	if p.status == nil {
		return bad("`systemctl start girder-worker`, `journalctl -u girder-worker`", "%v", p.down)
	}
	st := p.status
	for _, text := range st.Degraded {
		all = append(all, bad("", "%s", text)...)
	}
	for _, text := range st.Warnings {
		all = append(all, warn("", "%s", text)...)
	}
	if st.Paused || st.Draining {
		all = append(all, warn("`girder-worker resume`", "it is paused: no job starts")...)
	}
	if len(all) > 0 {
		return all
	}
	return ok("version %s, process %d, up for %v, %d attempts under way", st.Version, st.PID, time.Since(st.Started).Round(time.Second), st.Attempts)
}

func (p *patient) images(ctx context.Context) []Finding {
	if p.status == nil {
		return skip("the daemon does not answer")
	}
	if p.status.Images.Count == 0 {
		return warn("`girder-worker images import FILE`, with what `docker save` made", "there are none: every job needs one")
	}
	return ok("%d, %.1f GiB", p.status.Images.Count, float64(p.status.Images.Bytes)/(1<<30))
}

func (p *patient) gpus(context.Context) (all []Finding) {
	inv := gpu.Read(p.config.GPUs.Dirs, p.config.GPUs.Kinds)
	for _, err := range inv.Problems {
		all = append(all, warn("the file must be root's and whole: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`", "left out: %v", err)...)
	}
	if len(inv.Devices) > 0 {
		return append(all, ok("%s", strings.Join(inv.Devices, ", "))...)
	}
	cards, _ := filepath.Glob("/dev/nvidia[0-9]*")
	if len(cards) > 0 {
		return append(all, warn("`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`", "%s is there, and no CDI file describes it: jobs cannot have it", cards[0])...)
	}
	if len(all) == 0 {
		return ok("none; no job can ask for one")
	}
	return all
}

func (p *patient) broker(ctx context.Context) []Finding {
	c := p.config.Celery
	var all []Finding
	if c.Broker == "" && p.root {
		// The service has it as a credential from there, where there is one.
		file := filepath.Join(filepath.Dir(p.Sources.Files()[0]), "broker")
		if url, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(url)) != "none" {
			c.Broker = strings.TrimSpace(string(url))
			if st, err := os.Stat(file); err == nil && st.Mode()&0o077 != 0 {
				all = warn("chmod 0600 "+file, "others than root may read %s, and the password in it: its mode is %04o", file, st.Mode().Perm())
			}
		}
	}
	switch {
	case c.Broker == "" && p.status != nil && p.status.Broker != nil:
		// The password is not for everybody, and what the daemon knows is.
		if p.status.Broker.State == "ready" {
			return ok("the daemon is connected to %s", p.status.Broker.Address)
		}
		return bad("`sudo girder-worker doctor` tries it itself", "the daemon says: %s", strings.Join(p.status.Broker.Problems, "; "))
	case c.Broker == "":
		return ok("none is configured: jobs come from this machine only")
	case p.Offline:
		return append(all, skip("not asked, as it is another machine")...)
	}
	brokers, err := amqp.ParseBrokers(c.Broker)
	if err != nil {
		return append(all, bad("mend celery.broker, or the file broker beside worker.cfg", "%v", err)...)
	}
	var queues []string
	for name := range strings.SplitSeq(c.Queues, ",") {
		if name = strings.TrimSpace(name); name != "" && !slices.Contains(queues, name) {
			queues = append(queues, name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	address, problems, missing, err := amqp.Check(ctx, amqp.Config{
		Brokers: brokers, NodeName: "doctor", Queues: queues, Logger: slog.New(slog.DiscardHandler),
		TLS: amqp.TLS{CA: c.CA, Cert: c.Cert, Key: c.Key, ServerName: c.ServerName},
	})
	if err != nil {
		return append(all, bad("jobs that were taken go on, and results wait", "%v", err)...)
	}
	told := len(all)
	for _, text := range problems {
		all = append(all, bad("", "%s", text)...)
	}
	if len(missing) > 0 {
		all = append(all, warn("the worker makes them when it connects, if it may; or the name is wrong (celery.queues)", "%s has no queue %s", address, strings.Join(missing, ", "))...)
	}
	if len(all) == told {
		all = append(all, ok("%s lets the worker in, with %s", address, strings.Join(queues, ", "))...)
	}
	return all
}

// girder asks the servers that are known here for their version.
func (p *patient) girder(ctx context.Context) (all []Finding) {
	var addresses []string
	for part := range strings.SplitSeq(p.config.APIURL, ",") {
		_, to, found := strings.Cut(part, "=")
		if !found {
			to = part
		}
		if to = strings.TrimRight(strings.TrimSpace(to), "/"); strings.HasPrefix(to, "http") {
			addresses = append(addresses, to)
		}
	}
	if p.status != nil {
		for _, s := range p.status.Servers {
			if s.Problem != "" {
				all = append(all, bad("reports wait, and jobs go on; see `girder-worker status`", "%s: %s", s.Address, s.Problem)...)
			}
		}
	}
	switch {
	case len(addresses) == 0 && len(all) == 0:
		return ok("no address is configured (api_url), and no report is stuck")
	case len(addresses) > 0 && p.Offline:
		return append(all, skip("not asked, as it is another machine: %s", strings.Join(addresses, ", "))...)
	}
	for _, address := range addresses {
		status, err := ask(ctx, address+"/system/version")
		switch {
		case err != nil:
			all = append(all, bad("check the network and girder_worker.api_url", "cannot reach %s: %v", address, err)...)
		case status != http.StatusOK:
			all = append(all, bad("api_url ends with /api/v1", "%s is no Girder: it answers %d", address, status)...)
		default:
			all = append(all, ok("%s answers", address)...)
		}
	}
	return all
}

// ask makes one request and follows nothing.
func ask(ctx context.Context, url string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	answer, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	answer.Body.Close()
	return answer.StatusCode, nil
}

func (p *patient) registry(ctx context.Context) (all []Finding) {
	c := p.config.Images
	for _, host := range c.Registries {
		if host == "*" {
			all = append(all, ok("images may come from any registry; none is asked here")...)
			continue
		}
		if p.Offline {
			all = append(all, skip("not asked, as it is another machine: %s", host)...)
			continue
		}
		scheme := "https"
		if slices.Contains(c.PlainHTTP, host) {
			scheme = "http"
		}
		status, err := ask(ctx, fmt.Sprintf("%s://%s/v2/", scheme, host))
		switch {
		case err != nil:
			all = append(all, warn("images that are here are used; or import archives", "cannot reach %s: %v", host, err)...)
		case status != http.StatusOK && status != http.StatusUnauthorized:
			all = append(all, warn("see images.registries", "%s is no registry: it answers %d", host, status)...)
		default:
			all = append(all, ok("%s answers", host)...)
		}
	}
	if len(all) == 0 {
		return ok("nothing is pulled; images are imported")
	}
	return all
}
