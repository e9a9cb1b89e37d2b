package transforms

import (
	"strings"
)

// Keywords of docker-py that limit what a container takes.

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
