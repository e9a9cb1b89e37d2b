package config

import (
	"flag"
	"strings"
)

// A Key is one option: its place in the file and what it means.
type Key struct {
	Section, Name string
	// Help is one line for a person.
	Help string
	// Live is set when a reload applies a change; other keys need a restart.
	Live bool

	value flag.Value
}

// String is the key as errors name it.
func (k Key) String() string { return k.Section + "." + k.Name }

// plain tells whether the key's flag and variable go without its section: those
// of the daemon, and of Celery, whose names Girder's users know.
func (k Key) plain() bool { return k.Section == sectionWorker || k.Section == sectionCelery }

// Variable is the environment variable that overrides the key.
func (k Key) Variable() string {
	name := k.Name
	if !k.plain() {
		name = k.Section + "_" + k.Name
	}
	return envPrefix + strings.ToUpper(name)
}

// Flag is the key's command line flag without dashes.
func (k Key) Flag() string {
	name := k.Name
	if !k.plain() {
		name = k.Section + "-" + k.Name
	}
	return strings.ReplaceAll(name, "_", "-")
}

// Value is the key's value as the file would spell it.
func (k Key) Value() string { return k.value.String() }

// Kind is a word for the values that the key takes, as help shows it.
func (k Key) Kind() string {
	switch k.value.(type) {
	case *pathValue:
		return "path"
	case *addressValue:
		return "address"
	case *apiValue, *girderValue, *brokerValue:
		return "URL"
	case *nameValue:
		return "name"
	case *countValue, *count64Value, *cpusValue:
		return "N"
	case *sizeValue, *boundValue:
		return "size"
	case *durationValue, *importTimeValue:
		return "time"
	case *listValue, *namesValue, *pathsValue:
		return "list"
	case *hostsValue:
		return "hosts"
	case *keywordsValue:
		return "JSON"
	}
	return "word"
}

// BrokerVariable is the environment variable of celery.broker.
const BrokerVariable = envPrefix + "BROKER"

const (
	envPrefix      = "GIRDER_WORKER_"
	sectionWorker  = "girder_worker"
	sectionGPUs    = "gpus"
	sectionLimits  = "limits"
	sectionHistory = "retention"
	sectionImages  = "images"
	sectionLogging = "logging"
	sectionCelery  = "celery"
	sectionDocker  = "docker"
	// sectionDefault is [DEFAULT], whose options other values may name.
	sectionDefault = "default"
)

// Keys lists every option, bound to c.
func (c *Config) Keys() []Key {
	return []Key{
		{sectionWorker, "state_dir", "what must survive a reboot", false, (*pathValue)(&c.StateDir)},
		{sectionWorker, "runtime_dir", "what must not survive a reboot", false, (*pathValue)(&c.RuntimeDir)},
		{sectionWorker, "socket", "the API's Unix socket (default: girder-worker.sock in runtime_dir)", false, (*pathValue)(&c.Socket)},
		{sectionWorker, "metrics_address", "host:port of /metrics, /healthz and /readyz; off for none", false, (*addressValue)(&c.MetricsAddress)},
		{sectionWorker, "metrics_web_config", "TLS and users for metrics: an exporter's web configuration", false, (*pathValue)(&c.MetricsWebConfig)},
		{sectionWorker, "user", "user of the daemon's unprivileged half", false, (*nameValue)(&c.User)},
		{sectionWorker, "group", "group whose members may use the socket", false, (*nameValue)(&c.Group)},
		{sectionWorker, "admin_group", "group whose members see and change every job", false, (*nameValue)(&c.AdminGroup)},
		{sectionWorker, "launcher", "how attempts are started: auto, session or systemd", false, (*launcherValue)(&c.Launcher)},
		{sectionWorker, "policy_file", "what jobs may ask, and whose; reloaded when it is changed", false, (*pathValue)(&c.PolicyFile)},
		{sectionWorker, "tasks_dir", "directory of task files, which are read again when they change", false, (*pathValue)(&c.TasksDir)},
		{sectionWorker, "audit_log", "who had what run (default: audit.jsonl in state_dir)", false, (*pathValue)(&c.AuditLog)},
		{sectionWorker, "drop_dir", "directory watched for image archives (default: images/drop in state_dir)", false, (*pathValue)(&c.DropDir)},
		{sectionWorker, "outage", "how long downloads and uploads wait for a Girder out of reach", true, (*durationValue)(&c.Outage)},
		{sectionWorker, "api_url", "where Girder is reached from here: URL, or FROM=TO,... by prefix", true, (*apiValue)(&c.APIURL)},
		{sectionWorker, "girder_url", "Girder that jobs may use with the machine's own API key", false, (*girderValue)(&c.GirderURL)},
		{sectionWorker, "girder_key_file", "the key, in a file of root with mode 0600", false, (*pathValue)(&c.GirderKeyFile)},
		{sectionWorker, "max_queue", "how many jobs may wait", true, &countValue{&c.MaxQueue, 1, 100_000_000}},
		{sectionWorker, "slots", "attempts at a time (default: half the processors)", true, &countValue{&c.Machine.Slots, 1, MaxSlots}},
		{sectionWorker, "cpus", "processors for all jobs (default: all)", true, (*cpusValue)(&c.Machine.CPUs)},
		{sectionWorker, "memory", "memory for all jobs (default: 80 % of the machine's)", true, (*sizeValue)(&c.Machine.Memory)},
		{sectionWorker, "id_base", "first host id of the range for containers", false, &countValue{&c.IDs.Base, SliceSize, maxID}},
		{sectionWorker, "id_size", "how many ids the range has, a multiple of 65536", false, &countValue{&c.IDs.Size, 2 * SliceSize, maxID}},
		{sectionWorker, "python", "interpreters or virtual environments with task packages, by commas", false, &listValue{&c.Python.Interpreters, absolute}},
		{sectionWorker, "plugins_enabled", "the plugins that count, by commas (default: all that are installed)", true, &namesValue{listValue{&c.Python.Enabled, oneName}}},
		{sectionWorker, "plugin_load_path", "more directories with plugins, apart by colons", true, &pathsValue{&c.Python.LoadPath}},
		{sectionWorker, "python_ready", "interpreters ready for next calls, the first to go for memory; 0 for none", false, &countValue{&c.Python.Ready, 0, 64}},
		{sectionWorker, "python_ready_time", "for how long one waits", false, (*durationValue)(&c.Python.ReadyTime)},
		{sectionWorker, "tmp_root", "where Python tasks keep what is temporary; relative: in their scratch", true, (*textValue)(&c.Python.TmpRoot)},
		{sectionWorker, "python_import_time", "how long the imports that look for tasks may take, for each of python", true, &importTimeValue{durationValue: (*durationValue)(&c.Python.ImportTime)}},
		{sectionGPUs, "cdi_dirs", "directories of the files that describe GPUs, apart by commas", false, &listValue{&c.GPUs.Dirs, absolute}},
		{sectionGPUs, "kinds", "kinds of device that are GPUs, as vendor/class", false, &listValue{&c.GPUs.Kinds, deviceKind}},
		{sectionGPUs, "share", "how many jobs may have one GPU at a time", true, &countValue{&c.GPUs.Share, 1, 64}},
		{sectionGPUs, "hooks", "programs that may prepare a container for a GPU", false, &listValue{&c.GPUs.Hooks, absolute}},
		{sectionCelery, "app_main", "name of the application, after which tasks of a program are named", true, (*textValue)(&c.Python.AppMain)},
		{sectionCelery, "broker", "RabbitMQ to take tasks from: amqp://USER:PASSWORD@HOST/VHOST, several by ;", false, (*brokerValue)(&c.Celery.Broker)},
		{sectionCelery, "broker_ca", "signs the broker's certificate (PEM; default: the system's)", false, (*pathValue)(&c.Celery.CA)},
		{sectionCelery, "broker_cert", "certificate to show to the broker (PEM)", false, (*pathValue)(&c.Celery.Cert)},
		{sectionCelery, "broker_key", "its key (PEM; default: in broker_cert)", false, (*pathValue)(&c.Celery.Key)},
		{sectionCelery, "broker_server_name", "name in the broker's certificate (default: the host)", false, (*textValue)(&c.Celery.ServerName)},
		{sectionCelery, "hostname", "name of this worker, NAME@HOST (default: celery@ and the machine's)", false, (*textValue)(&c.Celery.Hostname)},
		{sectionCelery, "queues", "queues to take tasks from, by commas", false, (*textValue)(&c.Celery.Queues)},
		{sectionCelery, "worker_eta_task_limit", "tasks with an ETA that are held; with so many no more tasks are taken", true, &countValue{&c.Celery.ETALimit, 1, 1_000_000}},
		{sectionDocker, "run_options", "keywords of docker-py that tasks get which have them not: a JSON object", true, (*keywordsValue)(&c.RunOptions)},
		{sectionLimits, "cpus", "processors of a job that names none (default: cpus / slots)", true, (*cpusValue)(&c.Limits.CPUs)},
		{sectionLimits, "memory", "memory of a job that names none (default: memory / slots)", true, (*sizeValue)(&c.Limits.Memory)},
		{sectionLimits, "pids", "processes and threads of a job", true, &count64Value{&c.Limits.PIDs, 1, 4 << 20}},
		{sectionLimits, "shm", "size of a job's /dev/shm", true, (*sizeValue)(&c.Limits.Shm)},
		{sectionLimits, "log", "output kept of a job", true, (*sizeValue)(&c.Limits.Log)},
		{sectionLimits, "scratch", "what a job may write (default: 10 % of the state file system, 80 % / slots from 8 on)", true, (*sizeValue)(&c.Limits.Scratch)},
		{sectionLimits, "time", "how long a job may run", true, (*durationValue)(&c.Limits.Time)},
		{sectionImages, "quota", "what the layers of all images may take together; none for no bound", false, (*boundValue)(&c.Images.Quota)},
		{sectionImages, "registries", "registries to pull from, HOST or HOST:PORT; * for any, none to pull never", true, (*hostsValue)(&c.Images.Registries)},
		{sectionImages, "plain_http", "registries that are spoken to without TLS", true, (*hostsValue)(&c.Images.PlainHTTP)},
		{sectionImages, "auth_file", "credentials for registries, as docker login writes them", true, (*pathValue)(&c.Images.AuthFile)},
		{sectionImages, "ca_file", "certificates in PEM to trust, beside the system's, for registries", true, (*pathValue)(&c.Images.CAFile)},
		{sectionImages, "pull_timeout", "how long a pull may take", true, (*durationValue)(&c.Images.PullTimeout)},
		{sectionImages, "connect_timeout", "how long a registry may take to answer at all", true, (*durationValue)(&c.Images.ConnectTimeout)},
		{sectionImages, "prune_every", "how often unneeded images are removed; 0 leaves that to the admin", true, (*durationValue)(&c.Images.PruneEvery)},
		{sectionHistory, "age", "finished jobs older than this are removed; 0 keeps them", true, (*durationValue)(&c.Retention.Age)},
		{sectionHistory, "count", "finished jobs beyond this number are removed; 0 keeps them", true, &countValue{&c.Retention.Count, 0, 100_000_000}},
		{sectionHistory, "reports", "how long after a job's end it is tried to report it to Girder", true, (*durationValue)(&c.Retention.Reports)},
		{sectionLogging, "level", "debug, info, warning or error", true, (*levelValue)(&c.Log.Level)},
		{sectionLogging, "output", "text or json", false, (*outputValue)(&c.Log.JSON)},
	}
}

// MaxSlots bounds the attempts of one daemon.
const MaxSlots = 1000

// maxID keeps ids below 2^31: some file systems and tools have signed ones.
const maxID = 1<<31 - 1
