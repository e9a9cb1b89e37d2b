package amqp

import (
	"context"
	"fmt"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Check connects once as a client of that configuration does, and looks for what
// it needs without making or changing anything. address is the broker that
// answered, password masked. problems are for a person; missing are queues that
// the worker would make. An error says that no broker let it in.
func Check(ctx context.Context, config Config) (address string, problems, missing []string, err error) {
	c := New(config)
	var refused []string
	for _, b := range config.Brokers {
		n, err := c.dial(ctx, b, "check")
		if err != nil {
			refused = append(refused, connectProblem(b, err).Error())
			continue
		}
		defer n.close()
		for _, name := range config.Queues {
			err := n.try(func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
				return err
			})
			switch {
			case err == nil:
			case code(err) == amqp091.NotFound:
				missing = append(missing, name)
			default:
				problems = append(problems, queueProblem(name, err))
			}
		}
		return b.String(), append(refused, problems...), missing, nil
	}
	return "", nil, nil, fmt.Errorf("%s", strings.Join(refused, "; "))
}
