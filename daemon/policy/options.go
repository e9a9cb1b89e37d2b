package policy

import (
	"math"
	"path"
	"slices"
	"strings"

	"girderworker/sandbox"
)

func (c *checker) capAdd() {
	for _, name := range c.job.Plan.Options.CapAdd {
		if !slices.Contains(sandbox.DefaultCapabilities(), name) && !matchAny(c.rights.capabilities, name) {
			c.refuse("cap_add", "capabilities", "%s is not allowed", name)
		}
	}
}

// scheduling are limits that let a process keep others from the processor. They
// are for those only whom the policy names a number.
var scheduling = []string{"rtprio", "nice", "rttime"}

func (c *checker) ulimitRules() {
	for _, u := range c.job.Plan.Options.Ulimits {
		want := uint64(math.MaxUint64)
		if u.Hard >= 0 {
			want = uint64(u.Hard)
		}
		most, limited := c.rights.ulimits[u.Name]
		switch {
		case limited && want > most:
			c.refuse("ulimits", "ulimits", "%s: more than %d", u.Name, most)
		case !limited && want > 0 && slices.Contains(scheduling, u.Name):
			c.refuse("ulimits", "ulimits", "%s: it would let the job go before others", u.Name)
		}
	}
}

func (c *checker) sysctlNames() {
	for name := range c.job.Plan.Options.Sysctls {
		// As a name may have its dots, as a path its slashes; no mixture of both.
		if strings.Contains(name, "/") || strings.Contains(name, "..") || !matchAny(c.rights.sysctls, name) {
			c.refuse("sysctls", "sysctls", "%s is not allowed", name)
		}
	}
}

func (c *checker) devices() {
	for _, d := range c.job.Plan.Options.Devices {
		// The pattern is for a path that leads where it says.
		if path.Clean(d.Source) != d.Source || !Within(d.Source, "/dev") || !matchAny(c.rights.devices, d.Source) {
			c.refuse("devices", "devices", "%s is not allowed", d.Source)
		}
	}
}

func (c *checker) seccomp() {
	if c.job.Plan.Options.Seccomp == sandbox.SeccompUnconfined && !c.rights.unconfined {
		c.refuse("seccomp", "seccomp_unconfined", "no job may do without the filter of system calls")
	}
}
