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

// gpuCapabilities are those that Docker's nvidia driver can meet
// (daemon/nvidia_linux.go); a GPU by CDI comes with all of them.
var gpuCapabilities = []string{"gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display", "ngx"}

// deviceRequests are docker.types.DeviceRequest: so many GPUs, all of them, or
// those of the names given.
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
		if err := d.deviceRequest(m); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerOptions) deviceRequest(m map[string]any) error {
	switch driver := m["Driver"]; driver {
	case nil, "", "nvidia", "cdi":
	default:
		return problem("the driver %s is not there; GPUs are had by nvidia, or by their names by cdi", shown(driver))
	}
	if options, _ := m["Options"].(map[string]any); len(options) > 0 {
		return problem("Options are a driver's, which there is none of here")
	}
	if sets, ok := m["Capabilities"].([]any); ok && len(sets) > 0 {
		if err := canMeet(sets); err != nil {
			return err
		}
	}
	count, err := wholeOf(m["Count"])
	if err != nil {
		return err
	}
	ids, err := stringsOf(m["DeviceIDs"])
	if err != nil {
		return err
	}
	switch {
	case len(ids) > 0 && count != 0:
		return problem("Count and DeviceIDs exclude each other")
	case len(ids) > 0:
		return d.gpus(ids)
	case count == AllGPUs:
		return d.gpus([]string{"all"})
	case count < 1 || count > MaxGPUs:
		return problem("a Count from 1 to %d is wanted, -1 for all, or DeviceIDs", MaxGPUs)
	case d.f.Resources.Devices != "":
		return problem("some requests give names and others a number")
	case d.f.Resources.GPUs != AllGPUs:
		d.f.Resources.GPUs += int(count)
	}
	return nil
}

// canMeet refuses capabilities of which no set can be had.
func canMeet(sets []any) error {
	var lacks string
	for _, set := range sets {
		names, err := stringsOf(set)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(names, func(name string) bool { return !slices.Contains(gpuCapabilities, name) })
		if i < 0 {
			return nil
		}
		lacks = names[i]
	}
	return problem("no device here has the capability %.40q; there are GPUs", lacks)
}

// gpus asks for devices by their names, of which "all" is every one.
func (d *dockerOptions) gpus(ids []string) error {
	res := &d.f.Resources
	if len(ids) == 1 && ids[0] == "all" {
		res.GPUs, res.Devices = AllGPUs, ""
		return nil
	}
	if res.GPUs == AllGPUs {
		return nil // they are among all
	}
	if res.Devices == "" && res.GPUs > 0 {
		return problem("some requests give names and others a number")
	}
	names := GPUDevices(res.Devices)
	for _, id := range ids {
		if !slices.Contains(names, id) {
			names = append(names, id)
		}
	}
	res.Devices = strings.Join(names, ",")
	res.GPUs = len(names)
	return checkGPUDevices(res.Devices)
}

// runtime is a name of Docker's configuration. nvidia is how GPUs were asked for
// before there were requests: one, or what NVIDIA_VISIBLE_DEVICES names.
func (d *dockerOptions) runtime(v any) error {
	return takesText(func(f *JobFile, s string) error {
		switch s {
		case "runc", "io.containerd.runc.v2":
		case "nvidia":
			d.nvidia = true
		default:
			return problem("%.40q: every job runs with the one runtime there is", s)
		}
		return nil
	})(d, v)
}
