package transforms

import (
	"slices"
	"strings"
)

// AllGPUs asks for every device that a job may have, as docker's count of -1.
const AllGPUs = -1

const maxDeviceNames = 4096

// GPUDevices are the names of a resource's Devices.
func GPUDevices(devices string) []string {
	if devices == "" {
		return nil
	}
	return strings.Split(devices, ",")
}

// checkGPUDevices refuses what is no list of names of devices.
func checkGPUDevices(devices string) error {
	names := GPUDevices(devices)
	for i, name := range names {
		kind, bare, qualified := strings.Cut(name, "=")
		if !qualified {
			kind, bare = "", name
		}
		if bare == "" || qualified && !strings.Contains(kind, "/") || strings.ContainsAny(bare, " /=") {
			return problem("%.80q is no name of a GPU, such as 0, GPU-5b1c2d3e or nvidia.com/gpu=0", name)
		}
		if slices.Contains(names[:i], name) {
			return problem("%.80q stands there twice", name)
		}
	}
	if len(names) > MaxGPUs {
		return problem("%d devices; the limit is %d", len(names), MaxGPUs)
	}
	return nil
}

// GPULabel is the label of an image by which Girder Worker knew that its
// containers want GPUs; its value is then GPULabelValue.
const (
	GPULabel      = "com.nvidia.volumes.needed"
	GPULabelValue = "nvidia_driver"
)

// DeclinesGPU tells whether a job says that it wants none, whatever its image
// says: by NVIDIA_VISIBLE_DEVICES in its environment, as with Docker.
func (f *JobFile) DeclinesGPU() bool {
	v, ok := f.Env["NVIDIA_VISIBLE_DEVICES"]
	return ok && (v == "" || v == "void" || v == "none")
}
