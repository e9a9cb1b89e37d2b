package transforms

import (
	"maps"
	"slices"
	"strings"

	"girderworker/sandbox"
)

// Keywords of docker-py that say what a container may do and reach.

func (d *dockerOptions) capabilities(v any) ([]string, error) {
	if s, ok := v.(string); ok {
		v = []any{s}
	}
	list, err := stringsOf(v)
	if err != nil {
		return nil, err
	}
	var caps []string
	for _, s := range list {
		c, err := parseCapability(s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	return caps, nil
}

func (d *dockerOptions) capAdd(v any) (err error) {
	d.f.CapAdd, err = d.capabilities(v)
	return err
}

func (d *dockerOptions) capDrop(v any) (err error) {
	d.f.CapDrop, err = d.capabilities(v)
	return err
}

// security takes seccomp=unconfined within policy. Other profiles and labels are
// the machine's; those that ask for what is so in any case pass.
func (d *dockerOptions) security(v any) error {
	list, err := stringsOf(v)
	if err != nil {
		return err
	}
	for _, s := range list {
		switch strings.Replace(s, ":", "=", 1) {
		case "no-new-privileges", "no-new-privileges=true", "label=disable", "apparmor=unconfined":
		case "seccomp=unconfined":
			d.f.Seccomp = sandbox.SeccompUnconfined
		default:
			return problem("%.80q is not supported; there are seccomp=unconfined and no-new-privileges, which every job has", s)
		}
	}
	return nil
}

// devices are "host[:container[:access]]" or dicts of the API.
func (d *dockerOptions) devices(v any) error {
	list, ok := v.([]any)
	if !ok && v != nil {
		return wrongType(v, "a list")
	}
	for _, item := range list {
		var dev Device
		switch item := item.(type) {
		case string:
			parts := strings.SplitN(item, ":", 3)
			dev.Source = parts[0]
			if len(parts) > 1 {
				dev.Target = parts[1]
			}
			if len(parts) > 2 {
				dev.Access = parts[2]
			}
		case map[string]any:
			dev.Source, _ = item["PathOnHost"].(string)
			dev.Target, _ = item["PathInContainer"].(string)
			dev.Access, _ = item["CgroupPermissions"].(string)
		default:
			return wrongType(item, "a device")
		}
		if err := checkDevice(dev); err != nil {
			return err
		}
		if len(d.f.Devices) == maxDevices {
			return problem("more than %d", maxDevices)
		}
		d.f.Devices = append(d.f.Devices, dev)
	}
	return nil
}

func (d *dockerOptions) network(v any) error {
	return takesText(func(f *JobFile, s string) error {
		switch s {
		case "bridge", "default", "private":
			f.Network = sandbox.NetworkPrivate
		case "none":
			f.Network = sandbox.NetworkNone
		case "host":
			f.Network = sandbox.NetworkHost
		default:
			if strings.HasPrefix(s, "container:") {
				return problem("jobs do not share networks; write bridge, none or host")
			}
			return problem("%.40q: there are no named networks here; write bridge, none or host", s)
		}
		return nil
	})(d, v)
}

func (d *dockerOptions) networkDisabled(v any) error {
	return takesBool(func(f *JobFile, on bool) {
		if on {
			f.Network = sandbox.NetworkNone
		}
	})(d, v)
}

// healthcheck may be switched off.
func (d *dockerOptions) healthcheck(v any) error {
	m, _ := v.(map[string]any)
	for _, key := range []string{"test", "Test"} {
		if test, ok := m[key].([]any); ok && len(test) == 1 && test[0] == "NONE" {
			return nil
		}
	}
	return refuseUnless([]string{nothing})(d, v)
}

// logConfig may name what Docker does by default.
func (d *dockerOptions) logConfig(v any) error {
	m, _ := v.(map[string]any)
	config, _ := m["Config"].(map[string]any)
	if kind, ok := m["Type"].(string); ok && slices.Contains([]string{"", "json-file", "local", "journald"}, kind) && len(config) == 0 {
		return nil
	}
	return refuseUnless([]string{nothing})(d, v)
}

// extraHosts is a dict of names and addresses, or a list of "name:address".
func (d *dockerOptions) extraHosts(v any) (err error) {
	entries := map[string]string{}
	switch v := v.(type) {
	case nil:
		return nil
	case map[string]any:
		for name, address := range v {
			if entries[name], err = plainText(address); err != nil {
				return err
			}
		}
	case []any:
		list, err := stringsOf(v)
		if err != nil {
			return err
		}
		for _, s := range list {
			name, address, _ := strings.Cut(s, ":")
			entries[name] = address
		}
	default:
		return wrongType(v, "a dict of names and addresses")
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if d.f.ExtraHosts, err = addHost(d.f.ExtraHosts, name, entries[name]); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerOptions) dns(v any) error {
	servers, err := stringsOf(v)
	if err != nil {
		return err
	}
	if len(servers) > sandbox.MaxResolvers {
		return problem("more than %d", sandbox.MaxResolvers)
	}
	for _, s := range servers {
		if err := checkAddress(s); err != nil {
			return err
		}
	}
	d.f.DNS = servers
	return nil
}

// deviceRequests are docker.types.DeviceRequest: so many GPUs.
func (d *dockerOptions) deviceRequests(v any) error {
	list, ok := v.([]any)
	if !ok && v != nil {
		return wrongType(v, "a list of docker.types.DeviceRequest")
	}
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return wrongType(item, "a docker.types.DeviceRequest")
		}
		count, err := wholeOf(m["Count"])
		if err != nil {
			return err
		}
		if ids, _ := m["DeviceIDs"].([]any); count < 1 || count > MaxGPUs || len(ids) > 0 {
			return problem("a number of GPUs from 1 to %d is wanted, which ones are the worker's to choose", MaxGPUs)
		}
		d.f.Resources.GPUs += int(count)
	}
	return nil
}

// runtime is a name of Docker's configuration. nvidia is how GPUs were asked for
// before there were requests.
func (d *dockerOptions) runtime(v any) error {
	return takesText(func(f *JobFile, s string) error {
		switch s {
		case "runc", "io.containerd.runc.v2":
		case "nvidia":
			f.Resources.GPUs = max(f.Resources.GPUs, 1)
		default:
			return problem("%.40q: every job runs with the one runtime there is", s)
		}
		return nil
	})(d, v)
}
