package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// webHash is bcrypt's of "secret".
const webHash = `$2a$04$43ztuWuslZZ1DTed5y0ooOvEsdWiYqma9/eZE2zDgoUmJM98gSCci`

// freeAddress is one that nobody listens at now. Its port is below those that the
// kernel gives to connections, so that it is still free when somebody listens there.
func freeAddress(t *testing.T) string {
	t.Helper()
	for tries := 0; ; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(22768)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
		if tries == 100 {
			t.Fatal(err)
		}
	}
}

// watched is a world whose daemon serves metrics at the address.
func watched(t *testing.T, more ...string) (*world, string) {
	t.Helper()
	w := newWorld(t)
	w.stop()
	address := freeAddress(t)
	w.configure(append([]string{"slots = 4"}, more...)...)
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("metrics_address = off"), []byte("metrics_address = "+address), 1)
	if err := os.WriteFile(w.config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	w.start()
	return w, address
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// TestMetrics: what happened is counted, and Prometheus' own checker has nothing
// to say of the format.
func TestMetrics(t *testing.T) {
	w, address := watched(t)
	w.wait(w.submit("exit 0").ID)
	w.wait(w.submit("echo 12345678; exit 3").ID)
	_, body := fetch(t, "http://"+address+"/metrics")
	for _, line := range []string{
		`girder_worker_jobs{state="succeeded"} 1`, `girder_worker_jobs{state="failed"} 1`, `girder_worker_jobs{state="held"} 0`,
		`girder_worker_slots_capacity 4`, `girder_worker_slots_allocated 0`, `girder_worker_images 1`,
		`girder_worker_jobs_submitted_total{source="socket"} 2`, `girder_worker_jobs_submitted_total{source="amqp"} 0`,
		`girder_worker_jobs_finished_total{result="succeeded",source="socket"} 1`,
		`girder_worker_jobs_finished_total{result="failed",source="socket"} 1`,
		`girder_worker_jobs_finished_total{result="oom",source="amqp"} 0`,
		`girder_worker_attempts_ended_total{outcome="exited"} 2`,
		`girder_worker_queue_wait_seconds_count{source="socket"} 2`,
		`girder_worker_stage_duration_seconds_count{stage="running"} 2`,
		`girder_worker_job_peak_memory_bytes_count 2`,
		`girder_worker_log_bytes_total 9`,
		`girder_worker_orphans_reaped_total 0`, `girder_worker_scrape_missing 0`,
	} {
		if !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("not in the scrape: %s", line)
		}
	}
	if strings.Contains(body, "girder_worker_amqp_up") {
		t.Error("a worker without a broker tells of one")
	}
	if t.Failed() {
		t.Log(body)
	}
	if _, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.Command("promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(body)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	} else {
		t.Error("promtool is not installed: run packaging/deps test")
	}

	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := fetch(t, "http://"+address+path); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if _, err := w.client.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, body := fetch(t, "http://"+address+"/readyz"); code != 503 || !strings.Contains(body, "claims: failed: paused") || !strings.Contains(body, "database: ok") {
		t.Errorf("paused: %d %s", code, body)
	}
	if code, body := fetch(t, "http://"+address+"/healthz"); code != 200 {
		t.Errorf("a paused daemon needs no restart: %d %s", code, body)
	}
}

// A runner that was killed leaves something to clean up, which is counted.
func TestMetricsOfOrphans(t *testing.T) {
	w, address := watched(t)
	id := w.submit("echo up; sleep 1000").ID
	w.printed(id, "up")
	if err := w.runner(id, 1).Kill(); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is counted", func() bool {
		_, body := fetch(t, "http://"+address+"/metrics")
		return strings.Contains(body, "\ngirder_worker_orphans_reaped_total 1\n") &&
			strings.Contains(body, "\n"+`girder_worker_attempts_ended_total{outcome="interrupted"} 1`+"\n")
	})
	w.cancel(id)
	w.wait(id)
}

// A broker that is away degrades the worker; it stays ready.
func TestReadyWithoutBroker(t *testing.T) {
	broker := freeAddress(t)
	w, address := watched(t, "[celery]", "broker = amqp://"+broker)
	// Before it has tried it has only not connected yet.
	w.eventually("it is told", func() bool {
		code, body := fetch(t, "http://"+address+"/readyz")
		return code == 200 && strings.Contains(body, "broker: degraded: nothing listens at "+broker)
	})
	_, body := fetch(t, "http://"+address+"/metrics")
	if !strings.Contains(body, "\ngirder_worker_amqp_up 0\n") || !strings.Contains(body, "\n"+`girder_worker_amqp_rejected_total{reason="body"} 0`+"\n") ||
		strings.Contains(body, "\ngirder_worker_degraded 0\n") {
		t.Error(body)
	}
	st, err := w.client.Status(t.Context())
	if err != nil || st.Broker == nil || st.Broker.State != "degraded" || len(st.Degraded) == 0 {
		t.Errorf("%+v, %v", st.Broker, err)
	}
}

// TestMetricsWebConfig: with a web configuration nobody reads without a password
// and without TLS.
func TestMetricsWebConfig(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost",
			"-addext", "subjectAltName=IP:127.0.0.1", "-keyout", dir + "/key", "-out", dir + "/cert"},
		{"chmod", "0755", filepath.Dir(dir), dir}, {"chmod", "0644", dir + "/key", dir + "/cert"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	web := dir + "/web.yml"
	text := fmt.Sprintf("tls_server_config: {cert_file: %s/cert, key_file: %s/key}\nbasic_auth_users: {prometheus: %s}\n", dir, dir, webHash)
	if err := os.WriteFile(web, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, address := watched(t, "metrics_web_config = "+web)
	curl := func(args ...string) string {
		out, err := exec.Command("curl", append([]string{"-s", "-o", "/dev/null", "-w", "%{http_code}"}, args...)...).Output()
		if err != nil && len(out) == 0 {
			return err.Error()
		}
		return string(out)
	}
	url := "https://" + address + "/metrics"
	for want, args := range map[string][]string{
		"200": {"--cacert", dir + "/cert", "-u", "prometheus:secret", url},
		"401": {"--cacert", dir + "/cert", url},
		"400": {"http://" + address + "/metrics"},
		"000": {"-u", "prometheus:secret", url}, // a certificate that nobody vouches for
	} {
		if got := curl(args...); got != want {
			t.Errorf("curl %q: %s, want %s", args, got, want)
		}
	}
}

// TestPrometheus has Debian's Prometheus scrape a daemon, and its alerts fire.
func TestPrometheus(t *testing.T) {
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skip("prometheus is not installed: run packaging/deps test")
	}
	w, address := watched(t)
	dir := t.TempDir()
	rules, err := os.ReadFile("../contrib/prometheus/girder-worker.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	// As they are shipped, but for their patience.
	rules = regexp.MustCompile(`(?m)^( +for:) .*`).ReplaceAll(rules, []byte("$1 0s"))
	config := fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 200ms}\nrule_files: [rules.yml]\n"+
		"scrape_configs: [{job_name: girder-worker, scrape_timeout: 1s, static_configs: [{targets: [%q]}]}]\n", address)
	for name, data := range map[string][]byte{"rules.yml": rules, "prometheus.yml": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listen := freeAddress(t)
	var said bytes.Buffer
	cmd := exec.Command("prometheus", "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+listen, "--enable-feature=native-histograms")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-exited
		if t.Failed() {
			t.Logf("prometheus said:\n%s", &said)
		}
	})
	get := func(path string, into any) bool {
		client := http.Client{Timeout: 5 * time.Second}
		r, err := client.Get("http://" + listen + path)
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return json.NewDecoder(r.Body).Decode(into) == nil
	}
	// told has the alerts that fire; nil where Prometheus does not answer.
	told := func() map[string]bool {
		var answer struct {
			Data struct {
				Alerts []struct {
					Labels map[string]string
					State  string
				}
			}
		}
		if !get("/api/v1/alerts", &answer) {
			return nil
		}
		firing := map[string]bool{}
		for _, a := range answer.Data.Alerts {
			firing[a.Labels["alertname"]] = a.State == "firing"
		}
		return firing
	}
	w.wait(w.submit("exit 0").ID)
	w.eventually("it is scraped, native histograms with it", func() bool {
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		query := "/api/v1/query?query=histogram_count(girder_worker_stage_duration_seconds%7Bstage%3D%22running%22%7D)"
		return get(query, &answer) && len(answer.Data.Result) == 1 && answer.Data.Result[0].Value[1] == "1"
	})
	// An alert without its patience takes a scrape that was late for a daemon that is down.
	w.eventually("nothing is told", func() bool {
		firing := told()
		return firing != nil && !firing["GirderWorkerPaused"] && !firing["GirderWorkerDown"]
	})
	if _, err := w.client.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually("the pause is told", func() bool { return told()["GirderWorkerPaused"] })
	w.stop()
	w.eventually("the stopped daemon is told", func() bool { return told()["GirderWorkerDown"] })
}
