package daemon

import (
	"fmt"

	"girderworker/daemon/amqp"
	"girderworker/daemon/config"
	"girderworker/transforms"
)

// Check finds in a configuration what only the parts that use it can tell. It is
// for [config.Sources].
func Check(c *config.Config) (problems config.Invalid) {
	bad := func(key string, err error) {
		if err != nil {
			problems = append(problems, config.Problem{Key: key, Err: fmt.Errorf("is bad: %w", err)})
		}
	}
	if c.Celery.Broker != "" {
		_, err := amqp.ParseBrokers(c.Celery.Broker)
		bad("celery.broker", err)
	}
	_, err := nodeName(c.Celery.Hostname, "host")
	bad("celery.hostname", err)
	_, err = queueNames(c.Celery.Queues)
	bad("celery.queues", err)
	_, err = transforms.ParseRunOptions(c.RunOptions)
	bad("docker.run_options", err)
	return problems
}
