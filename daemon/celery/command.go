package celery

import (
	"fmt"
	"math"
	"slices"
	"time"

	"girderworker/transforms/jsonpickle"
)

// Command is a request on the control exchange, which every worker gets.
type Command struct {
	Method    string
	Arguments map[string]any // plain values
	// Destination, or Pattern with Matcher, say which nodes it is for; none of them: all.
	Destination []string
	Pattern     string
	Matcher     string
	// Ticket and ReplyTo are empty where nobody waits for an answer.
	Ticket  string
	ReplyTo Address
	Clock   int64     // the sender's; 0: none
	Expires time.Time // after this the sender has stopped waiting; zero: never
}

// Address is where an answer goes.
type Address struct{ Exchange, RoutingKey string }

// Bounds of a request. Celery's own have some hundred bytes; a revocation may name
// many tasks.
const (
	maxCommand      = 4 << 20
	maxDestinations = 10_000
)

// DecodeCommand reads a request. An error wraps ErrRequest: the message is to be
// logged and forgotten, control queues know no acknowledgement.
func DecodeCommand(d Delivery) (Command, error) {
	dict, err := controlBody(d)
	if err != nil {
		return Command{}, err
	}
	f := mapFields("field", dict)
	c := Command{
		Method: f.text("method", maxName), Arguments: f.table("arguments"),
		Pattern: f.text("pattern", maxPattern), Matcher: f.text("matcher", maxName), Ticket: f.text("ticket", maxID),
	}
	switch v := f.value("destination").(type) {
	case nil:
	case string:
		c.Destination = []string{v}
	case []any:
		if len(v) > maxDestinations {
			f.wrong("destination", "%d nodes, at most %d are allowed", len(v), maxDestinations)
			break
		}
		for i, node := range v {
			name, ok := node.(string)
			if !ok {
				f.wrong("destination", "[%d]: %s, not a node", i, kindOf(node))
			}
			c.Destination = append(c.Destination, name)
		}
	default:
		f.mismatch("destination", "a list of nodes", v)
	}
	if to := f.table("reply_to"); to != nil {
		r := mapFields("field reply_to,", to)
		c.ReplyTo = Address{r.text("exchange", maxID), r.text("routing_key", maxID)}
		f.errs = append(f.errs, r.errs...)
	}
	c.Clock, c.Expires = controlHeaders(d.Headers, f)
	if c.Method == "" {
		f.wrong("method", "there is none")
	}
	if err := f.err(); err != nil {
		return Command{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return c, nil
}

// controlBody reads a message of the control exchanges: plain JSON, an object.
func controlBody(d Delivery) (map[string]any, error) {
	body, failure := content(d, maxCommand)
	if failure != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, failure.Err)
	}
	v, err := jsonpickle.Decode(body, jsonpickle.Options{Limits: jsonpickle.Limits{Bytes: maxCommand}})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	dict, ok := plainOf(v).(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: %s, not an object", ErrRequest, kindOf(plainOf(v)))
	}
	return dict, nil
}

// controlHeaders reads the clock, and until when the sender waits: seconds since 1970, 0 is for ever.
func controlHeaders(headers map[string]any, f *fields) (clock int64, expires time.Time) {
	h := headerFields(headers)
	clock, _ = h.integer("clock", 0, math.MaxInt64)
	var seconds float64
	switch v := h.value("expires").(type) {
	case nil:
	case int64:
		seconds = float64(v)
	case float64:
		seconds = v
	default:
		h.mismatch("expires", "seconds since 1970", v)
	}
	f.errs = append(f.errs, h.errs...)
	if seconds > 0 && seconds < 1<<33 {
		expires = time.UnixMicro(int64(seconds * 1e6))
	}
	return clock, expires
}

// For tells whether a node is to carry the command out now. An error wraps
// ErrRequest: the pattern cannot be matched, so the command is for nobody.
func (c *Command) For(node string, now time.Time) (bool, error) {
	switch {
	// Celery's client has all expire, after a second, also what it waits for no answer to.
	case !c.Expires.IsZero() && now.After(c.Expires) && c.ReplyTo != (Address{}):
		return false, nil
	case len(c.Destination) > 0:
		return slices.Contains(c.Destination, node), nil
	case c.Pattern != "" && c.Matcher != "":
		return matchNode(node, c.Pattern, c.Matcher)
	}
	return true, nil
}

// Reply is the message that answers the command with what [Panel.Answer] gave. ok
// is false where nobody waits.
func (c *Command) Reply(node string, answer Answer, clock *Clock) (m Message, ok bool, err error) {
	if answer.Silent || c.ReplyTo == (Address{}) {
		return Message{}, false, nil
	}
	body, err := jsonpickle.EncodePlain(clean(dict(node, answer.Value)))
	if err != nil {
		return Message{}, false, fmt.Errorf("cannot answer %s: %w", quote(c.Method), err)
	}
	headers := map[string]any{"ticket": orNil(c.Ticket), "clock": clock.Forward()}
	return Message{Exchange: c.ReplyTo.Exchange, RoutingKey: c.ReplyTo.RoutingKey,
		Properties: jsonProperties(transient), Headers: headers, Body: body}, true, nil
}

// broadcast is a command as a message to every node.
func broadcast(method string, arguments jsonpickle.Value, ticket string, replyTo Address, expires time.Time, clock *Clock) (Message, error) {
	var to jsonpickle.Value
	if replyTo != (Address{}) {
		to = dict("exchange", replyTo.Exchange, "routing_key", replyTo.RoutingKey)
	}
	body, err := jsonpickle.EncodePlain(clean(dict("method", method, "arguments", arguments,
		"destination", nil, "pattern", nil, "matcher", nil, "ticket", orNil(ticket), "reply_to", to)))
	if err != nil {
		return Message{}, fmt.Errorf("cannot write the command %s: %w", method, err)
	}
	return Message{Exchange: ControlExchange, Properties: jsonProperties(persistent),
		Headers: map[string]any{"clock": clock.Forward(), "expires": unix(expires)}, Body: body}, nil
}
