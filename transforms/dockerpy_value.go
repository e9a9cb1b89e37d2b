package transforms

import (
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"girderworker/sandbox"
)

// Keywords of docker-py whose values have a form of their own, as
// docker/types/containers.py and docker/utils/utils.py read them.

func checkHostname(s string) error {
	for label := range strings.SplitSeq(s, ".") {
		if !ValidIdentifier(label) || strings.ContainsRune(label, '_') || strings.HasSuffix(label, "-") {
			return problem("%.80q is not a host name", s)
		}
	}
	if len(s) > 63 {
		return problem("a host name of %d bytes; the limit is 63", len(s))
	}
	return nil
}

func checkName(s string) error {
	if len(s) > MaxName {
		return problem("%d bytes; the limit is %d", len(s), MaxName)
	}
	return nil
}

// whole is an int.
func wholeOf(v any) (int64, error) {
	switch v := v.(type) {
	case nil:
		return 0, nil
	case int64:
		return v, nil
	}
	return 0, wrongType(v, "a whole number")
}

// plainText is what Python's str() makes of a value that an environment holds.
func plainText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool, int64, float64:
		if f, ok := v.(float64); ok {
			return pythonFloat(f), nil
		}
		return shown(v), nil
	case *big.Int:
		return v.String(), nil
	}
	return "", wrongType(v, "a text")
}

// pythonFloat is repr() of a float.
func pythonFloat(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if abs := max(f, -f); abs != 0 && abs < 1e16 && abs >= 1e-4 {
		s = strconv.FormatFloat(f, 'f', -1, 64)
	}
	switch s {
	case "+Inf":
		return "inf"
	case "-Inf":
		return "-inf"
	case "NaN":
		return "nan"
	}
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}

// stringsOf is a list of texts; numbers become texts, as in a list of groups.
func stringsOf(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []any:
		list := make([]string, len(v))
		for i, item := range v {
			var err error
			if list[i], err = plainText(item); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, wrongType(v, "a list")
}

func (d *dockerOptions) environment(v any) error {
	if v == nil {
		return nil
	}
	env := map[string]string{}
	set := func(key, value string) error {
		switch {
		case key == "" || strings.ContainsAny(key, "=\x00") || strings.ContainsRune(value, 0):
			return problem("%.60q is no name of a variable, or its value holds a NUL", key)
		case len(key)+1+len(value) > MaxArgument:
			return problem("%s: the kernel takes at most %d bytes in one variable", key, MaxArgument)
		case len(env) == MaxEnv:
			return problem("more than %d variables", MaxEnv)
		}
		env[key] = value
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if v[key] == nil {
				continue // Docker takes it for the daemon's own variable, which it has not
			}
			value, err := plainText(v[key])
			if err != nil {
				return err
			}
			if err := set(key, value); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return wrongType(item, "KEY=VALUE")
			}
			if key, value, ok := strings.Cut(s, "="); ok {
				if err := set(key, value); err != nil {
					return err
				}
			}
		}
	default:
		return wrongType(v, "a dict or a list of KEY=VALUE")
	}
	d.f.Env = env
	return nil
}

func (d *dockerOptions) user(v any) error {
	if v == nil || v == "" {
		return nil
	}
	s, err := plainText(v)
	if err != nil {
		return err
	}
	name, group, both := strings.Cut(s, ":")
	if !validName(name) || both && !validName(group) {
		return problem("%.80q is not NAME, UID, NAME:GROUP or UID:GID", s)
	}
	d.f.User = s
	return nil
}

func (d *dockerOptions) groupAdd(v any) error {
	groups, err := stringsOf(v)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := checkGroup(g); err != nil {
			return err
		}
	}
	if len(groups) > maxCapabilities {
		return problem("more than %d groups", maxCapabilities)
	}
	d.f.GroupAdd = groups
	return nil
}

// labels are a dict, or a list of names with empty values.
func (d *dockerOptions) labels(v any) error {
	labels := map[string]string{}
	switch v := v.(type) {
	case nil:
		return nil
	case map[string]any:
		for key, value := range v {
			s, err := plainText(value)
			if err != nil {
				return err
			}
			labels[key] = s
		}
	case []any:
		names, err := stringsOf(v)
		if err != nil {
			return err
		}
		for _, name := range names {
			labels[name] = ""
		}
	default:
		return wrongType(v, "a dict or a list of names")
	}
	if len(labels) > maxLabels {
		return problem("more than %d labels", maxLabels)
	}
	for key, value := range labels {
		if err := checkLabel(key, value); err != nil {
			return err
		}
	}
	d.f.Labels = labels
	return nil
}

func (d *dockerOptions) stopSignal(v any) error {
	if v == nil || v == "" {
		return nil
	}
	s, err := plainText(v)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return problem("%d is no signal", n)
		}
		d.f.StopSignal = n
		return nil
	}
	d.f.StopSignal, err = ParseSignal(s)
	return err
}

// tmpfs is a dict of targets and mount options, or a list of "target:options".
func (d *dockerOptions) tmpfs(v any) error {
	targets := map[string]string{}
	switch v := v.(type) {
	case nil:
		return nil
	case map[string]any:
		for target, options := range v {
			s, ok := options.(string)
			if !ok && options != nil {
				return wrongType(options, "mount options, such as size=64m")
			}
			targets[target] = s
		}
	case []any:
		list, err := stringsOf(v)
		if err != nil {
			return err
		}
		for _, s := range list {
			target, options, _ := strings.Cut(s, ":")
			targets[target] = options
		}
	default:
		return wrongType(v, "a dict or a list")
	}
	for _, target := range slices.Sorted(maps.Keys(targets)) {
		t := Tmpfs{Target: target}
		if err := t.options(targets[target]); err != nil {
			return err
		}
		if err := d.addTmpfs(t); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerOptions) addTmpfs(t Tmpfs) error {
	if len(d.f.Tmpfs) == maxTmpfs {
		return problem("more than %d", maxTmpfs)
	}
	d.f.Tmpfs = append(d.f.Tmpfs, t)
	return checkTmpfs(t)
}

// options reads mount options of a tmpfs.
func (t *Tmpfs) options(s string) error {
	for option := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "", "rw", "nosuid", "nodev", "noexec":
		case "exec":
			t.Exec = true
		case "size":
			n, err := ParseBytes(value)
			if err != nil {
				return problem("%s", err)
			}
			t.Size = n
		case "mode":
			n, err := strconv.ParseUint(value, 8, 32)
			if err != nil {
				return problem("%.20q is no mode", value)
			}
			t.Mode = uint32(n)
		default:
			return problem("the mount option %.40q of %s is not supported; there are size, mode, exec and noexec", option, t.Target)
		}
	}
	return nil
}

// mounts are docker.types.Mount: bind and tmpfs. A volume of Docker's is not
// there to be mounted.
func (d *dockerOptions) mounts(v any) error {
	list, ok := v.([]any)
	if !ok && v != nil {
		return wrongType(v, "a list of docker.types.Mount")
	}
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return wrongType(item, "a docker.types.Mount")
		}
		if err := d.mount(m); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerOptions) mount(m map[string]any) error {
	target, _ := m["Target"].(string)
	if err := checkPath(target); err != nil {
		return err
	}
	readOnly, _ := m["ReadOnly"].(bool)
	switch m["Type"] {
	case "bind":
		source, _ := m["Source"].(string)
		if err := checkPath(source); err != nil {
			return err
		}
		if len(d.f.Binds) == MaxBinds {
			return problem("more than %d binds", MaxBinds)
		}
		d.f.Binds = append(d.f.Binds, Bind{Source: source, Target: target, ReadOnly: readOnly})
		return nil
	case "tmpfs":
		t := Tmpfs{Target: target}
		options, _ := m["TmpfsOptions"].(map[string]any)
		var err error
		if t.Size, err = bytesOf(options["SizeBytes"]); err != nil {
			return err
		}
		mode, err := wholeOf(options["Mode"])
		if err != nil || mode < 0 || mode > 0o7777 {
			return problem("the mode of %s is none", target)
		}
		t.Mode = uint32(mode)
		return d.addTmpfs(t)
	}
	return problem("a mount of type %s at %s; there are bind and tmpfs, and no named volumes", shown(m["Type"]), target)
}

func (d *dockerOptions) ulimits(v any) error {
	list, ok := v.([]any)
	if !ok && v != nil {
		return wrongType(v, "a list of docker.types.Ulimit")
	}
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return wrongType(item, "a docker.types.Ulimit")
		}
		get := func(names ...string) any {
			for _, name := range names {
				if m[name] != nil {
					return m[name]
				}
			}
			return nil
		}
		name, _ := get("Name", "name").(string)
		soft, err := wholeOf(get("Soft", "soft"))
		if err != nil {
			return err
		}
		hard := soft
		if given := get("Hard", "hard"); given != nil {
			if hard, err = wholeOf(given); err != nil {
				return err
			}
		}
		u := Ulimit{Name: strings.ToLower(name), Soft: soft, Hard: hard}
		if err := checkUlimit(u); err != nil {
			return err
		}
		if len(d.f.Ulimits) == maxUlimits {
			return problem("more than %d", maxUlimits)
		}
		d.f.Ulimits = append(d.f.Ulimits, u)
	}
	return nil
}

func (d *dockerOptions) sysctls(v any) error {
	m, ok := v.(map[string]any)
	if !ok && v != nil {
		return wrongType(v, "a dict")
	}
	if len(m) > maxSysctls {
		return problem("more than %d", maxSysctls)
	}
	for name, value := range m {
		s, err := plainText(value)
		if err != nil {
			return err
		}
		if err := checkSysctl(name, s); err != nil {
			return err
		}
		if d.f.Sysctls == nil {
			d.f.Sysctls = map[string]string{}
		}
		d.f.Sysctls[name] = s
	}
	return nil
}

func (d *dockerOptions) memswap(v any) error {
	if n, ok := v.(int64); ok && n == -1 {
		return problem("-1 is swap without end; name a size")
	}
	n, err := bytesOf(v)
	d.swap = n
	return err
}

func (d *dockerOptions) nanoCPUs(v any) error {
	n, err := wholeOf(v)
	if err != nil || n < 0 {
		return wrongType(v, "a number of nano-processors")
	}
	if n > 0 {
		d.f.Resources.CPUs = float64(n) / 1e9
	}
	return nil
}

func (d *dockerOptions) cpuQuota(v any) (err error) {
	if d.quota, err = wholeOf(v); err == nil && d.quota != 0 && d.quota != -1 && d.quota < 1000 {
		err = problem("%d microseconds; the kernel takes no less than 1000", d.quota)
	}
	return err
}

func (d *dockerOptions) cpuPeriod(v any) (err error) {
	if d.period, err = wholeOf(v); err == nil && d.period != 0 && (d.period < 1000 || d.period > 1_000_000) {
		err = problem("%d microseconds; the kernel takes 1000 to 1000000", d.period)
	}
	return err
}

func (d *dockerOptions) cpuShares(v any) error {
	n, err := wholeOf(v)
	if err == nil && n != 0 && (n < 2 || n > maxShares) {
		err = problem("%d is not between 2 and %d", n, maxShares)
	}
	d.f.Resources.CPUShares = n
	return err
}

// pids of -1 and 0 are no limit to Docker; here they are the default one.
func (d *dockerOptions) pids(v any) error {
	n, err := wholeOf(v)
	if err == nil && (n < -1 || n > MaxPIDs) {
		err = problem("%d is not between 1 and %d", n, MaxPIDs)
	}
	d.f.Resources.PIDs = max(n, 0)
	return err
}

func (d *dockerOptions) storage(v any) error {
	m, ok := v.(map[string]any)
	if !ok && v != nil {
		return wrongType(v, "a dict")
	}
	for key, value := range m {
		if key != "size" {
			return problem("the option %.40q is not supported; there is size", key)
		}
		n, err := bytesOf(value)
		if err != nil {
			return err
		}
		d.f.Resources.Scratch = n
	}
	return nil
}

func (d *dockerOptions) oomScore(v any) error {
	n, err := wholeOf(v)
	if err == nil && (n < 0 || n > 1000) {
		err = problem("%d is not between 0 and 1000: no job is more precious than the machine", n)
	}
	d.f.OOMScoreAdj = int(n)
	return err
}

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
