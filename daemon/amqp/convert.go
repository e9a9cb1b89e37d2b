package amqp

import (
	"math"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/celery"
)

// delivery is a message that came over the connection, without a body that was clipped.
func (n *connection) delivery(queue string, m *amqp091.Delivery) celery.Delivery {
	d := fromAMQP(queue, m)
	if size, stub := n.clip.size(d.Body); stub {
		d.Body, d.Omitted = nil, size
	}
	return d
}

func fromAMQP(queue string, d *amqp091.Delivery) celery.Delivery {
	return celery.Delivery{
		Queue: queue, Exchange: d.Exchange, RoutingKey: d.RoutingKey, Redelivered: d.Redelivered,
		Properties: celery.Properties{
			ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
			CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration,
		},
		Headers: d.Headers,
		Body:    d.Body,
	}
}

func toAMQP(m celery.Message) amqp091.Publishing {
	headers, _ := field(m.Headers).(amqp091.Table)
	return amqp091.Publishing{
		Headers:     headers,
		ContentType: m.Properties.ContentType, ContentEncoding: m.Properties.ContentEncoding,
		DeliveryMode: m.Properties.DeliveryMode, Priority: m.Properties.Priority,
		CorrelationId: m.Properties.CorrelationID, ReplyTo: m.Properties.ReplyTo, Expiration: m.Properties.Expiration,
		Body: m.Body,
	}
}

// field is a header's value as the library encodes it: integers as Celery's own
// library writes them, 32 bits where they fit; text without the NUL that AMQP
// cannot carry in a key.
func field(v any) any {
	switch v := v.(type) {
	case map[string]any:
		t := make(amqp091.Table, len(v))
		for key, value := range v {
			t[strings.ToValidUTF8(key, "\ufffd")] = field(value)
		}
		return t
	case []any:
		all := make([]any, len(v))
		for i, value := range v {
			all[i] = field(value)
		}
		return all
	case int:
		return field(int64(v))
	case int64:
		if v >= math.MinInt32 && v <= math.MaxInt32 {
			return int32(v)
		}
		return v
	case nil, bool, float64, float32, string, []byte, int32, time.Time:
		return v
	}
	return nil
}
