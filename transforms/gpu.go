package transforms

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
