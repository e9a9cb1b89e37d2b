package amqp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/amqp/celerytest"
	"girderworker/daemon/amqp/rabbittest"
	"girderworker/daemon/celery"
)

func TestParseBrokers(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"amqp://", "amqp://guest:**@localhost:5672//"},
		{"amqp://guest:guest@localhost/", "amqp://guest:**@localhost:5672//"},
		{"amqp://guest@localhost//", "amqp://guest:**@localhost:5672//"},
		{"pyamqp://u:p%40%3A%2Fx@h:1/v", "amqp://u:**@h:1/v"},
		{"amqp://u:p@x@h/v%2Fw", "amqp://u:**@h:5672/v/w"},
		{"amqps://u:secret@[::1]/%2f", "amqps://u:**@[::1]:5671//"},
		{"amqps://h?cacertfile=/ca&heartbeat=7&auth_mechanism=EXTERNAL", "amqps://guest:**@h:5671//"},
		{" amqp://a ; amqp://b:2;", "amqp://guest:**@a:5672// amqp://guest:**@b:2//"},
		{"", "error: no broker is named: write amqp://USER:PASSWORD@HOST:5672/VHOST"},
		{"localhost", "error: broker localhost: not a URL: write amqp://USER:PASSWORD@HOST:5672/VHOST"},
		{"redis://:secret@h/0", `error: broker redis://**@h/0: "redis" is no broker that is understood here: only RabbitMQ is (amqp:// or amqps://)`},
		{"amqp://u:se%cret@h", "error: broker amqp://**@h: the password has a % that starts no escape: write it as %25"},
		{"amqp://u:secret@h:70000", `error: broker amqp://**@h:70000: the port "70000" is not valid`},
		{"amqp://u:secret@::1", "error: broker amqp://**@::1: write an IPv6 address in brackets"},
		{"amqp://u:secret@h/%zz", `error: broker amqp://**@h/%zz: the virtual host "%zz" is not valid`},
		{"amqps://u:secret@h?verify=verify_none", "error: broker amqps://**@h?verify=verify_none: verify=verify_none is refused: whoever answers could read and make tasks; name the authority's file instead (cacertfile)"},
		{"amqp://u:secret@h?certfile=x", "error: broker amqp://**@h?certfile=x: certificates need amqps://"},
		{"amqp://h?heartbeet=7", `error: broker amqp://h?heartbeet=7: the parameter "heartbeet" is not known`},
	} {
		all, err := ParseBrokers(tt.text)
		var got []string
		for _, b := range all {
			got = append(got, b.String())
			if text := fmt.Sprintf("%#v %+v %v", b, b, b); strings.Contains(text, "secret") {
				t.Errorf("%s shows the password", text)
			}
		}
		if err != nil {
			got = []string{"error: " + err.Error()}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, strings.Join(got, " "), tt.want)
		}
	}
	all, err := ParseBrokers("amqps://u:p%40%3A%2Fx@h?cacertfile=/ca&certfile=/c&keyfile=/k&server_name_indication=n&heartbeat=7")
	if err != nil || all[0].password != "p@:/x" || all[0].TLS != (TLS{"/ca", "/c", "/k", "n"}) || all[0].Heartbeat != 7*time.Second {
		t.Errorf("%+v, %v", all, err)
	}
}

// A worker starts without its broker, and finds it when it is there.
func TestBrokerAbsent(t *testing.T) {
	vhost := rabbit.Vhost(t)
	p := rabbittest.NewProxy(t, rabbit.Addr())
	p.Refuse(true)
	w := startWorker(t, brokerURL(p.Addr(), vhost), 1)
	w.trouble("cannot connect")
	if err := w.client.Publish(t.Context(), celery.Message{RoutingKey: "celery"}); !errors.Is(err, ErrNotConnected) {
		t.Errorf("published: %v", err)
	}
	w.client.Event(celery.Message{})
	p.Refuse(false)
	w.ready()
	if s := w.client.Status(); s.EventsDropped != 1 {
		t.Errorf("status %+v", s)
	}
	// Cut off again and again, it comes back.
	for range 3 {
		before := w.client.Status().Connects
		p.Cut()
		w.status("connected again", func(s Status) bool { return s.State == Ready && s.Connects >= before+2 })
	}
	rabbit.CloseConnections(t, vhost)
	w.until("it was told why", func() bool { return strings.Contains(w.troubles, "closed by the test") })
	w.ready()
	// Nothing listens at all; the next node of the list serves.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	other := startWorker(t, "amqp://"+l.Addr().String()+";"+brokerURL(rabbit.Addr(), vhost), 0, func(c *Config) { c.NodeName = "celery@other" })
	other.ready()
	if !strings.Contains(other.log.String(), "nothing listens at") {
		t.Error("the dead node is not named")
	}
}

// A network that goes silent is noticed by the heartbeat.
func TestSilentNetwork(t *testing.T) {
	vhost := rabbit.Vhost(t)
	p := rabbittest.NewProxy(t, rabbit.Addr())
	w := startWorker(t, brokerURL(p.Addr(), vhost), 1)
	w.ready()
	p.Hold(rabbittest.Up, true)
	p.Hold(rabbittest.Down, true)
	w.trouble("the connection broke")
	p.Cut()
	p.Hold(rabbittest.Up, false)
	p.Hold(rabbittest.Down, false)
	w.ready()
	newSender(t, vhost).send("celery", 0, 1, 0)
	w.until("a task", func() bool { return w.tasks["0"] == 1 })
}

func TestLogin(t *testing.T) {
	vhost := rabbit.Vhost(t)
	rabbit.User(t, "login", "secret", vhost, ".*", ".*", ".*")
	w := startWorker(t, "amqp://login:secret2@"+rabbit.Addr()+"/"+vhost, 1)
	w.trouble(`does not let user "login" in: check user and password`)
	rabbit.Eval(t, `rabbit_auth_backend_internal:change_password(<<"login">>, <<"secret2">>, <<"test">>).`)
	w.ready()
	w = startWorker(t, "amqp://login:secret2@"+rabbit.Addr()+"/nowhere", 1)
	w.trouble(`refuses virtual host "nowhere" to user "login"`)
}

func TestTLS(t *testing.T) {
	vhost := rabbit.Vhost(t)
	cert, key, err := rabbit.CA().Issue("worker")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	stranger, err := rabbittest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	right := TLS{CA: rabbit.CA().File, Cert: cert, Key: key}
	_, port, _ := net.SplitHostPort(rabbit.TLSAddr())
	for _, tt := range []struct {
		name, host string
		tls        TLS
		trouble    string // empty: it works
	}{
		{"right", "localhost", right, ""},
		{"no client certificate", "localhost", TLS{CA: right.CA}, "it may want a client certificate"},
		{"unknown authority", "localhost", TLS{CA: stranger.File, Cert: cert, Key: key}, `(of "CN=localhost", signed by "CN=rabbittest") is not signed by an authority in ` + stranger.File},
		{"the system's authorities", "localhost", TLS{Cert: cert, Key: key}, "is not signed by a known authority: name its authority's file in celery.broker_ca"},
		{"other name", "127.0.0.1", right, "is for another name"},
		{"name given", "127.0.0.1", TLS{CA: right.CA, Cert: cert, Key: key, ServerName: "localhost"}, ""},
		{"no such file", "localhost", TLS{CA: filepath.Join(dir, "none")}, "cannot read the authorities"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := startWorker(t, fmt.Sprintf("amqps://%s:%s/%s", tt.host, port, vhost), 1, func(c *Config) { c.TLS = tt.tls })
			if tt.trouble == "" {
				w.ready()
			} else {
				w.trouble(tt.trouble)
			}
		})
	}
	w := startWorker(t, "amqps://"+rabbit.Addr()+"/"+vhost, 1, func(c *Config) { c.TLS = right })
	w.trouble("does not speak TLS")
	// What the URL's query says holds.
	w = startWorker(t, fmt.Sprintf("amqps://localhost:%s/%s?cacertfile=%s&certfile=%s&keyfile=%s", port, vhost, right.CA, cert, key), 1)
	w.ready()
}

func TestPublish(t *testing.T) {
	vhost := rabbit.Vhost(t)
	p := rabbittest.NewProxy(t, rabbit.Addr())
	w := startWorker(t, brokerURL(p.Addr(), vhost), 0)
	w.ready()
	s := newSender(t, vhost)
	s.queue("reply", nil)
	s.queue("short", map[string]any{"x-max-length": int32(1), "x-overflow": "reject-publish"})
	m := celery.Message{
		RoutingKey: "reply", Body: []byte(`{"a": 1}`),
		Properties: celery.Properties{ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: 1, CorrelationID: "id", Priority: 3, ReplyTo: "r", Expiration: "60000"},
		Headers:    map[string]any{"n": nil, "i": int64(1), "big": int64(1) << 40, "f": 1.5, "b": true, "a": []any{"x", map[string]any{"k": "v"}}},
	}
	if err := w.client.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	d, ok, err := s.ch.Get("reply", true)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	got := fromAMQP("reply", &d)
	if got.Properties != m.Properties || string(got.Body) != string(m.Body) ||
		fmt.Sprint(got.Headers) != "map[a:[x map[k:v]] b:true big:1099511627776 f:1.5 i:1 n:<nil>]" {
		t.Errorf("arrived %+v", got)
	}
	for _, tt := range []struct {
		exchange, key string
		want          error
	}{
		{"", "gone", ErrUnroutable},
		{"nowhere", "x", ErrUnroutable},
		{"", "short", nil},
		{"", "short", ErrNacked},
		{"", "reply", nil},
	} {
		if err := w.client.Publish(t.Context(), celery.Message{Exchange: tt.exchange, RoutingKey: tt.key}); !errors.Is(err, tt.want) {
			t.Errorf("to %q %q: %v, want %v", tt.exchange, tt.key, err, tt.want)
		}
	}
	// Many at a time.
	errs := make(chan error)
	for range 200 {
		go func() { errs <- w.client.Publish(t.Context(), celery.Message{RoutingKey: "reply"}) }()
	}
	for range 200 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	arrived := func() int {
		ready, _ := rabbit.Depth(t, vhost, "reply")
		return ready
	}
	// The confirmation is lost.
	before := arrived()
	p.Hold(rabbittest.Down, true)
	go func() { errs <- w.client.Publish(t.Context(), celery.Message{RoutingKey: "reply"}) }()
	eventually(t, "it has arrived", func() bool { return arrived() > before })
	p.Cut()
	p.Hold(rabbittest.Down, false)
	if err := <-errs; !errors.Is(err, ErrUnconfirmed) && !errors.Is(err, ErrNotConnected) {
		t.Error(err)
	}
	// That it lost its connection is not known everywhere yet.
	eventually(t, "it publishes again", func() bool {
		return w.client.Publish(t.Context(), celery.Message{RoutingKey: "reply"}) == nil
	})
	before = arrived()
	p.Hold(rabbittest.Down, true)
	ctx, end := context.WithCancelCause(t.Context())
	go func() { errs <- w.client.Publish(ctx, celery.Message{RoutingKey: "reply"}) }()
	eventually(t, "it has arrived", func() bool { return arrived() > before })
	end(context.DeadlineExceeded)
	if err := <-errs; !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	p.Hold(rabbittest.Down, false)
}

// While RabbitMQ is short of memory results wait and tasks are still taken.
func TestBlocked(t *testing.T) {
	vhost := rabbit.Vhost(t)
	w := startWorker(t, brokerURL(rabbit.Addr(), vhost), 1)
	w.ready()
	newSender(t, vhost).send("celery", 0, 2, 0)
	w.until("a task", func() bool { return len(w.tasks) == 1 })
	if err := w.client.Publish(t.Context(), celery.Message{RoutingKey: "reply"}); !errors.Is(err, ErrUnroutable) {
		t.Fatal(err)
	}
	rabbit.Alarm(t, true)
	defer rabbit.Alarm(t, false)
	// It is the next message that makes RabbitMQ say it.
	first := make(chan error, 1)
	go func() { first <- w.client.Publish(t.Context(), celery.Message{RoutingKey: "celery"}) }()
	w.trouble("RabbitMQ takes no messages (low on memory)")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.client.Publish(ctx, celery.Message{RoutingKey: "celery"}); !errors.Is(err, ErrNotConnected) {
		t.Error(err)
	}
	second := make(chan error, 1)
	go func() { second <- w.client.Publish(t.Context(), celery.Message{RoutingKey: "celery"}) }()
	w.client.Event(celery.Message{Exchange: celery.EventExchange})
	w.done(1)
	w.until("a task all the same", func() bool { return len(w.tasks) == 2 })
	rabbit.Alarm(t, false)
	for _, done := range []chan error{first, second} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	w.ready()
	if s := w.client.Status(); s.EventsDropped != 1 {
		t.Errorf("status %+v", s)
	}
}

// The real client's requests arrive, also at a second worker of the same name;
// a monitor sees the events.
func TestControlAndEvents(t *testing.T) {
	vhost := rabbit.Vhost(t)
	a := startWorker(t, brokerURL(rabbit.Addr(), vhost), 0)
	a.ready()
	b := startWorker(t, brokerURL(rabbit.Addr(), vhost), 0)
	b.trouble("another worker on this RabbitMQ is called celery@test")
	c := celerytest.New(t, "amqp://guest:guest@"+rabbit.Addr()+"/"+vhost)
	c.Run(t, "app.control.revoke('some-id')")
	for _, w := range []*worker{a, b} {
		w.until("the request", func() bool { return len(w.control) == 1 })
		if d := w.control[0]; !strings.Contains(string(d.Body), `"revoke"`) || d.Properties.ContentType != "application/json" {
			t.Errorf("control %+v", d)
		}
	}
	a.stop()
	b.ready()
	c.Run(t, "app.control.revoke('another-id')")
	b.until("the request", func() bool { return len(b.control) > 1 })
	stop := make(chan struct{})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			b.client.Event(celery.Message{
				Exchange: celery.EventExchange, RoutingKey: "worker.heartbeat",
				Properties: celery.Properties{ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: 1},
				Body:       []byte(`{"type": "worker-heartbeat", "hostname": "celery@test", "timestamp": 1.0, "clock": 1, "utcoffset": 0, "pid": 1, "freq": 2.0}`),
			})
		}
	}()
	said := c.Run(t, `
with app.connection() as conn:
    recv = app.events.Receiver(conn, handlers={'worker-heartbeat': lambda e: (say(e['hostname']), setattr(recv, 'should_stop', True))})
    recv.capture(limit=1, timeout=30, wakeup=False)
`)
	close(stop)
	<-sent
	if len(said) == 0 || string(said[0]) != "\"celery@test\"\n" {
		t.Errorf("the monitor saw %q", said)
	}
}

// A question ends with its context, whatever RabbitMQ answers.
func TestAskSilent(t *testing.T) {
	vhost := rabbit.Vhost(t)
	p := rabbittest.NewProxy(t, rabbit.Addr())
	w := startWorker(t, brokerURL(p.Addr(), vhost), 1)
	w.ready()
	question := func(ctx context.Context) error {
		_, err := w.client.Ask(ctx, time.Millisecond, func(to celery.Address) (celery.Message, error) {
			return celery.QueryTask([]string{"x"}, "ticket", to, time.Now().Add(time.Minute), &celery.Clock{})
		})
		return err
	}
	ask := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return question(ctx)
	}
	p.Hold(rabbittest.Down, true)
	for range 2 * maxQuestions {
		if err := ask(5 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("asked of nobody: %v", err)
		}
	}
	p.Hold(rabbittest.Down, false)
	if err := ask(time.Minute); err != nil {
		t.Errorf("asked: %v", err)
	}
	rabbit.Alarm(t, true)
	defer rabbit.Alarm(t, false)
	// It is a message that makes RabbitMQ say it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan error, 1)
	go func() { asked <- question(ctx) }()
	w.trouble("RabbitMQ takes no messages (low on memory)")
	cancel()
	if err := <-asked; err == nil {
		t.Error("it was answered while RabbitMQ is short of memory")
	}
	if err := ask(time.Minute); !errors.Is(err, ErrNotConnected) {
		t.Errorf("asked while it is short of memory: %v", err)
	}
}
