// Package rabbittest runs a real RabbitMQ for tests: Debian's rabbitmq-server on
// free loopback ports, with its data in a temporary directory and a port mapper
// (epmd) of its own, so that it meets no other broker of the machine. One broker serves all
// tests of a package; each test takes a virtual host of its own. Between a client
// and the broker a [Proxy] can cut, hold and swallow connections.
package rabbittest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Programs of the Debian packages rabbitmq-server and erlang-base. Debian's
// wrapper in /usr/sbin is not used: it changes the user and reads /etc.
const (
	server  = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	erlCall = "/usr/bin/erl_call"
	epmd    = "/usr/bin/epmd"
)

// startPatience is for a start on a busy machine; a quiet one takes 8 s.
const (
	startPatience = 3 * time.Minute
	evalPatience  = 40 * time.Second
	evalPause     = 100 * time.Millisecond
)

// Broker is one RabbitMQ, started when it is first used. The zero value is
// ready; whoever has one calls Stop in TestMain.
type Broker struct {
	mu      sync.Mutex
	dir     string
	port    int
	tlsPort int
	dist    int
	mapper  int // epmd's port
	epmd    *exec.Cmd
	ca      *CA
	cmd     *exec.Cmd
	notify  *net.UnixConn
	gone    chan struct{} // closed when cmd has ended
	broken  error         // why there is none
	vhosts  int
}

// Use has the broker running when it returns. Where rabbitmq-server is not
// installed the test is listed as not run.
func (b *Broker) Use(t testing.TB) {
	t.Helper()
	for _, program := range []string{server, erlCall, epmd} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("needs RabbitMQ: %v (packaging/deps test installs it)", err)
		}
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
}

// Start is Use for a program that is no test, as the benchmark.
func (b *Broker) Start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken == nil && b.cmd == nil {
		b.broken = b.start()
	}
	return b.broken
}

// Stop ends the broker and removes its data.
func (b *Broker) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd != nil {
		b.end(syscall.SIGTERM)
	}
	if b.epmd != nil {
		b.epmd.Process.Kill()
		b.epmd.Wait()
	}
	if b.dir != "" {
		os.RemoveAll(b.dir)
	}
}

// Kill ends the broker as a power cut would; Use starts it again on the same data.
func (b *Broker) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end(syscall.SIGKILL)
}

// Restart stops the broker in order and starts it on the same data, within the
// same process, which takes less than a second. Between, down is called. RabbitMQ's
// own stop may wait for ever for a connection that is just being made, or was: then
// it is killed, with what it had not written of acknowledgements, and started,
// and Restart returns false.
func (b *Broker) Restart(t testing.TB, down func()) bool {
	t.Helper()
	if _, err := b.eval("rabbit_maintenance:suspend_all_client_listeners(), rabbit:stop()."); err != nil {
		t.Logf("RabbitMQ does not stop, and is killed: %v", err)
		b.Kill()
		if down != nil {
			down()
		}
		b.Use(t)
		return false
	}
	if down != nil {
		down()
	}
	// A start may end while parts of the last run still do, and then has started nothing.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		started := b.Eval(t, "rabbit:start().")
		if b.Eval(t, "rabbit:is_booted().") == "true" {
			return true
		}
		if time.Now().After(deadline) {
			t.Fatalf("RabbitMQ does not start again: %s", started)
		}
	}
}

// Addr is where it listens for AMQP in clear.
func (b *Broker) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)) }

// TLSAddr is where it listens for AMQP over TLS, with a certificate for
// "localhost" of the authority CA, and asking for one of the client.
func (b *Broker) TLSAddr() string { return net.JoinHostPort("localhost", strconv.Itoa(b.tlsPort)) }

// CA is the authority of the broker's certificate.
func (b *Broker) CA() *CA { return b.ca }

// Vhost makes a virtual host for the test, with all rights for guest, and
// returns its name. It is gone when the test ends.
func (b *Broker) Vhost(t testing.TB) string {
	t.Helper()
	b.Use(t)
	b.mu.Lock()
	b.vhosts++
	name := fmt.Sprintf("test%d", b.vhosts)
	b.mu.Unlock()
	b.Eval(t, fmt.Sprintf(`rabbit_vhost:add(<<"%s">>, <<"test">>), rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"%s">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).`, name, name))
	t.Cleanup(func() {
		b.Use(t) // a test may have left it dead
		b.Eval(t, fmt.Sprintf(`rabbit_vhost:delete(<<"%s">>, <<"test">>).`, name))
	})
	return name
}

// User makes a user of a virtual host with patterns of what it may configure,
// write and read. It is gone when the test ends.
func (b *Broker) User(t testing.TB, name, password, vhost, configure, write, read string) {
	t.Helper()
	b.Eval(t, fmt.Sprintf(`rabbit_auth_backend_internal:add_user(<<"%s">>, <<"%s">>, <<"test">>).`, name, password))
	t.Cleanup(func() {
		b.Use(t)
		b.Eval(t, fmt.Sprintf(`rabbit_auth_backend_internal:delete_user(<<"%s">>, <<"test">>).`, name))
	})
	b.Allow(t, name, vhost, configure, write, read)
}

// Allow changes what a user may do.
func (b *Broker) Allow(t testing.TB, name, vhost, configure, write, read string) {
	t.Helper()
	b.Eval(t, fmt.Sprintf(`rabbit_auth_backend_internal:set_permissions(<<"%s">>, <<"%s">>, <<"%s">>, <<"%s">>, <<"%s">>, <<"test">>).`,
		name, vhost, configure, write, read))
}

// Alarm raises the memory alarm, at which the broker blocks whoever publishes,
// or ends it.
func (b *Broker) Alarm(t testing.TB, on bool) {
	t.Helper()
	watermark := "0.4"
	if on {
		watermark = "0.000001"
	}
	b.Eval(t, fmt.Sprintf("vm_memory_monitor:set_vm_memory_high_watermark(%s).", watermark))
	// Each connection hears of it by itself, and blocks with the next message.
	for deadline := time.Now().Add(30 * time.Second); on; time.Sleep(10 * time.Millisecond) {
		states := b.Eval(t, "[proplists:get_value(state, C) || C <- rabbit_networking:connection_info_all([state])].")
		if !strings.Contains(states, "running") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("connections do not hear of the alarm: %s", states)
		}
	}
}

// Connections are the ids of the broker's connections to a virtual host.
func (b *Broker) Connections(t testing.TB, vhost string) []string {
	t.Helper()
	out := b.Eval(t, fmt.Sprintf(`[list_to_atom(pid_to_list(proplists:get_value(pid, C))) || C <- rabbit_networking:connection_info_all([pid, vhost]), proplists:get_value(vhost, C) == <<"%s">>].`, vhost))
	return strings.FieldsFunc(out, func(r rune) bool { return strings.ContainsRune("[]', \n", r) })
}

// CloseConnections has the broker close every connection to a virtual host, as
// an administrator would.
func (b *Broker) CloseConnections(t testing.TB, vhost string) {
	t.Helper()
	b.Eval(t, fmt.Sprintf(`rabbit_networking:close_connections([proplists:get_value(pid, C) || C <- rabbit_networking:connection_info_all([pid, vhost]), proplists:get_value(vhost, C) == <<"%s">>], "closed by the test").`, vhost))
}

// Depth is how many messages of a queue wait, and how many are with consumers.
func (b *Broker) Depth(t testing.TB, vhost, queue string) (ready, unacked int) {
	t.Helper()
	out := b.Eval(t, fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)), [{_, R}, {_, U}] = rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged]), {R, U}.`, vhost, queue))
	if _, err := fmt.Sscanf(out, "{%d, %d}", &ready, &unacked); err != nil {
		t.Fatalf("cannot read the depth of %s: %q", queue, out)
	}
	return ready, unacked
}

// Consumers is how many take messages of a queue.
func (b *Broker) Consumers(t testing.TB, vhost, queue string) (n int) {
	t.Helper()
	out := b.Eval(t, fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)), [{_, N}] = rabbit_amqqueue:info(Q, [consumers]), N.`, vhost, queue))
	if _, err := fmt.Sscan(out, &n); err != nil {
		t.Fatalf("cannot read the consumers of %s: %q", queue, out)
	}
	return n
}

// HasQueue tells whether a queue exists.
func (b *Broker) HasQueue(t testing.TB, vhost, queue string) bool {
	t.Helper()
	return b.Eval(t, fmt.Sprintf(`case rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)) of {ok, _} -> yes; _ -> no end.`, vhost, queue)) == "yes"
}

// Eval runs Erlang expressions in the broker and returns the last one's value.
func (b *Broker) Eval(t testing.TB, expressions string) string {
	t.Helper()
	out, err := b.eval(expressions)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *Broker) eval(expressions string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), evalPatience)
	defer cancel()
	for {
		cmd := exec.CommandContext(ctx, erlCall, "-address", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.dist)),
			"-c", cookie, "-timeout", strconv.Itoa(int(evalPatience.Seconds())), "-e")
		cmd.Stdin = strings.NewReader(expressions + "\n")
		out, err := cmd.CombinedOutput()
		text, ok := strings.CutPrefix(string(out), "{ok, ")
		switch {
		case err == nil && ok:
			return strings.TrimSuffix(strings.TrimSpace(text), "}"), nil
		case ctx.Err() == nil && strings.Contains(string(out), "failed to connect"):
			// A handshake has a few seconds, which a busy machine may not find; nothing was run.
			time.Sleep(evalPause)
		default:
			return "", fmt.Errorf("cannot run %q in RabbitMQ: %v: %s", expressions, err, out)
		}
	}
}

// cookie guards the distribution port, which is bound to loopback.
const cookie = "girderworkertest"

// start makes the directories the first time, and runs the broker until it is ready.
func (b *Broker) start() (err error) {
	if b.dir == "" {
		if err := b.prepare(); err != nil {
			return fmt.Errorf("cannot prepare RabbitMQ: %w", err)
		}
	}
	socket := filepath.Join(b.dir, "notify")
	os.Remove(socket)
	b.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(b.dir, "out"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	b.cmd = exec.Command(server)
	b.cmd.Dir = b.dir
	// With NOTIFY_SOCKET the script becomes the broker's process.
	b.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + filepath.Join(b.dir, "home"), "NOTIFY_SOCKET=" + socket,
		"RABBITMQ_NODENAME=rabbit@localhost", "RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(b.dir, "rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(b.dir, "plugins"),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(b.dir, "data"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(b.dir, "log"),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(b.dist),
		"ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT=" + strconv.Itoa(b.mapper), "ERL_ZFLAGS=-start_epmd false",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
	}
	b.cmd.Stdout, b.cmd.Stderr = log, log
	// Not a second's longer than the tests, even when they are killed.
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startLocked(b.cmd); err != nil {
		return fmt.Errorf("cannot start RabbitMQ: %w", err)
	}
	b.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) {
		defer close(gone)
		cmd.Wait()
	}(b.cmd, b.gone)
	if err := b.ready(); err != nil {
		b.end(syscall.SIGKILL)
		out, _ := os.ReadFile(filepath.Join(b.dir, "out"))
		return fmt.Errorf("%w\n%s", err, tail(out, 8192))
	}
	return nil
}

// ready waits for READY=1, see sd_notify(3).
func (b *Broker) ready() error {
	notify, gone := b.notify, b.gone
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-gone:
			notify.SetReadDeadline(time.Now())
		case <-stop:
		}
	}()
	notify.SetReadDeadline(time.Now().Add(startPatience))
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return fmt.Errorf("RabbitMQ did not become ready: %w", err)
		}
		if bytes.Contains(buf[:n], []byte("READY=1")) {
			return nil
		}
	}
}

func (b *Broker) end(sig syscall.Signal) {
	b.cmd.Process.Signal(sig)
	select {
	case <-b.gone:
	case <-time.After(startPatience):
		b.cmd.Process.Kill()
		<-b.gone
	}
	// Its port program's children, which notice a moment later by themselves.
	syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
	b.notify.Close()
	b.cmd = nil
}

// prepare writes what a broker needs before its first start.
func (b *Broker) prepare() (err error) {
	if b.dir, err = os.MkdirTemp("", "rabbittest-"); err != nil {
		return err
	}
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	b.port, b.tlsPort, b.dist, b.mapper = ports[0], ports[1], ports[2], ports[3]
	if b.ca, err = NewCA(b.dir); err != nil {
		return err
	}
	cert, key, err := b.ca.Issue("localhost")
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`listeners.tcp.1 = 127.0.0.1:%d
listeners.ssl.1 = 127.0.0.1:%d
ssl_options.cacertfile = %s
ssl_options.certfile = %s
ssl_options.keyfile = %s
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
log.file = false
log.console = true
loopback_users = none
disk_free_limit.absolute = 1MB
max_message_size = 536870912
`, b.port, b.tlsPort, b.ca.File, cert, key)
	home := filepath.Join(b.dir, "home")
	err = errors.Join(
		os.Mkdir(home, 0o700),
		os.WriteFile(filepath.Join(home, ".erlang.cookie"), []byte(cookie), 0o400),
		os.WriteFile(filepath.Join(b.dir, "plugins"), []byte("[].\n"), 0o600),
		os.WriteFile(filepath.Join(b.dir, "rabbitmq.conf"), []byte(conf), 0o600),
	)
	if err != nil {
		return err
	}
	return b.startMapper()
}

// startMapper returns when epmd answers. One that the broker started itself
// would be the machine's, and would stay.
func (b *Broker) startMapper() error {
	b.epmd = exec.Command(epmd, "-port", strconv.Itoa(b.mapper), "-address", "127.0.0.1")
	b.epmd.Env = []string{}
	b.epmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startLocked(b.epmd); err != nil {
		return fmt.Errorf("cannot start epmd: %w", err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(b.mapper))
	for deadline := time.Now().Add(startPatience); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot reach epmd: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freePorts finds ports that nobody has; all are held until the last is found, so
// that they differ. None is of those that the kernel gives to connections: it is
// seconds until the broker listens, and that happens again when it is restarted.
func freePorts(n int) (ports []int, err error) {
	for range 100 * n {
		l, listenErr := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort)))
		if listenErr != nil {
			err = listenErr
			continue
		}
		defer l.Close()
		if ports = append(ports, l.Addr().(*net.TCPAddr).Port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, err
}

// Ports below those of net.ipv4.ip_local_port_range.
const firstPort, lastPort = 10000, 32768

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
