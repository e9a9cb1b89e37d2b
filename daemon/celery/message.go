package celery

// Delivery is a message as it was taken from a queue.
//
// Header values are nil, bool, any integer, float32 or float64, string, []byte,
// [time.Time], and slices and string-keyed maps of those, of whatever named type
// the AMQP library has for them. Anything else is a wrong type.
type Delivery struct {
	Queue       string // that it was consumed from
	Exchange    string // that it was published to; "" is the default exchange
	RoutingKey  string
	Redelivered bool
	Properties  Properties
	Headers     map[string]any
	Body        []byte
	// Omitted is the size of a body that was too large to be read; Body is empty then.
	Omitted uint64
}

// Properties are the AMQP basic properties that Celery uses. Empty is absent.
type Properties struct {
	ContentType     string
	ContentEncoding string
	DeliveryMode    uint8 // 1 transient, 2 persistent
	Priority        uint8
	CorrelationID   string
	ReplyTo         string
	Expiration      string // milliseconds, as text
}

// Message is a message to publish, not mandatory and not immediate: a queue that
// is gone drops it, as Celery's messages are dropped. Header values are nil, bool,
// int64, float64, string, []any and map[string]any.
type Message struct {
	Exchange   string
	RoutingKey string
	Properties Properties
	Headers    map[string]any
	Body       []byte
}

// Exchanges that Celery's messages go to besides those of the task queues.
const (
	ControlExchange = "celery.pidbox"       // fanout, not durable
	ReplyExchange   = "reply.celery.pidbox" // direct, not durable
	EventExchange   = "celeryev"            // topic, durable
)

const (
	transient  = 1
	persistent = 2

	typeJSON = "application/json"
	utf8Name = "utf-8"
)

func jsonProperties(mode uint8) Properties {
	return Properties{ContentType: typeJSON, ContentEncoding: utf8Name, DeliveryMode: mode}
}
