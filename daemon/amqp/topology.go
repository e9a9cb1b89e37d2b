package amqp

import (
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// exchange has an exchange exist: found with whatever flags, or made as Celery
// makes it.
func (n *connection) exchange(name, kind string, durable bool) error {
	err := n.try(func(ch *amqp091.Channel) error {
		return ch.ExchangeDeclarePassive(name, kind, durable, false, false, false, nil)
	})
	if code(err) != amqp091.NotFound {
		return err
	}
	return n.try(func(ch *amqp091.Channel) error {
		return ch.ExchangeDeclare(name, kind, durable, false, false, false, nil)
	})
}

// taskQueue has a task queue exist: found with whatever arguments, or made as
// Celery makes it, with the exchange of its name. That exchange is a convenience
// (tasks are published to the default one), so trouble with it alone is returned
// as note and not as an error.
func (n *connection) taskQueue(name string) (note, err error) {
	err = n.try(func(ch *amqp091.Channel) error {
		_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	if code(err) == amqp091.NotFound {
		err = n.try(func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclare(name, true, false, false, false, nil)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	if err := n.exchange(name, amqp091.ExchangeDirect, true); err != nil {
		return err, nil
	}
	return n.try(func(ch *amqp091.Channel) error { return ch.QueueBind(name, name, name, false, nil) }), nil
}
