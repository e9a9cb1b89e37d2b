package transforms

import (
	"fmt"
	"strings"

	"girderworker/transforms/jsonpickle"
)

// The classes that a task may hold, by the name that all their modules give them.
const (
	classBind           = "BindMountVolume"
	classVolume         = "Volume" // what BindMountVolume was called before
	classTemporary      = "TemporaryVolume"
	classDefault        = "_DefaultTemporaryVolume"
	classVolumePath     = "VolumePath"
	classInputPipe      = "NamedInputPipe"
	classOutputPipe     = "NamedOutputPipe"
	classConnect        = "Connect"
	classHostStdOut     = "HostStdOut"
	classHostStdErr     = "HostStdErr"
	classStdOut         = "ContainerStdOut"
	classStdErr         = "ContainerStdErr"
	classChunked        = "ChunkedTransferEncodingStream"
	classProgress       = "ProgressPipe"
	classFileStream     = "GirderFileIdToStream"
	classFileVolume     = "GirderFileIdToVolume"
	classItemVolume     = "GirderItemIdToVolume"
	classFolderVolume   = "GirderFolderIdToVolume"
	classUploadItem     = "GirderUploadVolumePathToItem"
	classUploadFolder   = "GirderUploadVolumePathToFolder"
	classUploadArtifact = "GirderUploadVolumePathJobArtifact"

	classDirectFile = "DirectGirderFileIdToVolume"
	classAPIURL     = "GirderApiUrl"
	classToken      = "GirderToken"

	classClient = "GirderClient"

	// Of tasks in Python, which get paths on the host.
	classPyFile      = "GirderFileId"
	classPyItem      = "GirderItemId"
	classPyMetadata  = "GirderItemMetadata"
	classPyToItem    = "GirderUploadToItem"
	classPyToFolder  = "GirderUploadToFolder"
	classPyArtifact  = "GirderUploadJobArtifact"
	classPyDirect    = "GirderFileIdAllowDirect"
	classPyDirectory = "TemporaryDirectory"
)

// families are the classes by the modules that define them. Girder 3 and 5 have
// the first two; girder_worker_utils became girder_worker.utils in Girder 5.
var families = []struct {
	modules []string
	classes []string
}{
	{
		[]string{"girder_worker.docker.transforms", "girder_worker.docker.transforms.girder"},
		[]string{classBind, classVolume, classTemporary, classDefault, classVolumePath, classInputPipe, classOutputPipe, classConnect,
			classHostStdOut, classHostStdErr, classStdOut, classStdErr, classChunked, classProgress, classFileStream, classFileVolume,
			classItemVolume, classFolderVolume, classUploadItem, classUploadFolder, classUploadArtifact},
	},
	{
		[]string{"slicer_cli_web.girder_worker_plugin.direct_docker_run"},
		[]string{classDirectFile, classAPIURL, classToken},
	},
	{
		[]string{"girder_client"}, []string{classClient},
	},
	{
		[]string{"girder_worker_utils.transforms.girder_io", "girder_worker_utils.transforms.common", "girder_worker_utils.transforms.contrib.girder_io",
			"girder_worker.utils.transforms.girder_io", "girder_worker.utils.transforms.common", "girder_worker.utils.transforms.contrib.girder_io"},
		[]string{classPyFile, classPyItem, classPyMetadata, classPyToItem, classPyToFolder, classPyArtifact, classPyDirect, classPyDirectory},
	},
}

// kindOf is the class of an object without its module; "" when it is not one
// that a task may hold.
func kindOf(o *jsonpickle.Object) string {
	dot := strings.LastIndexByte(o.Class, '.')
	if dot < 0 {
		return ""
	}
	module, name := o.Class[:dot], o.Class[dot+1:]
	for _, family := range families {
		for _, c := range family.classes {
			if c != name {
				continue
			}
			for _, m := range family.modules {
				if m == module {
					return name
				}
			}
		}
	}
	if dockerType(o.Class) {
		return classDockerType
	}
	return ""
}

// classDockerType stands for the dict subclasses of docker-py's arguments, such
// as docker.types.Mount.
const classDockerType = "docker.types"

func dockerType(class string) bool {
	return strings.HasPrefix(class, "docker.types.")
}

// PickleOptions are what jsonpickle has to know to read the references in a task
// message and its result hooks.
func PickleOptions() jsonpickle.Options {
	return jsonpickle.Options{Fits: fits, Order: pickleOrder()}
}

// fits tells what can stand at a place that holds a reference.
func fits(at jsonpickle.Place, target jsonpickle.Value) bool {
	switch at.Key {
	case "_volume", "volumes":
		o, ok := target.(*jsonpickle.Object)
		return ok && strings.HasSuffix(o.Class, "Volume")
	case "_volumepath":
		o, ok := target.(*jsonpickle.Object)
		return ok && kindOf(o) == classVolumePath
	case "_input", "_output":
		_, ok := target.(*jsonpickle.Object)
		return ok
	case "when", "created", "updated":
		_, ok := target.(jsonpickle.Datetime)
		return ok
	case "id", "userId", "_id":
		_, ok := target.(jsonpickle.ObjectID)
		return ok
	case "gc":
		o, ok := target.(*jsonpickle.Object)
		return ok && kindOf(o) == classClient
	case "environment", "labels", "headers", "upload_kwargs":
		switch target.(type) {
		case *jsonpickle.Dict, *jsonpickle.List:
			return true
		}
		return false
	}
	return true
}

// pickleOrder is the order of attributes that hold objects: that of Girder
// Worker's classes, and of a Girder job document.
func pickleOrder() map[string][]string {
	order := map[string][]string{
		"girder_client." + classClient: {"_folderUploadCallbacks", "_itemUploadCallbacks", "_serverVersion", "_serverApiDescription",
			"incomingMetadata", "localMetadata", "progressReporterCls", "_session"},
		"": {"title", "args", "kwargs", "created", "updated", "when", "log", "meta", "timestamps", "userId",
			"access", "_id", "jobInfoSpec", "groups", "users", "id", "level", "flags"},
	}
	upload := []string{"gc", "item_id", "folder_id", "job_id", "upload_kwargs", "_volumepath", "job"}
	for _, family := range families {
		for _, class := range family.classes {
			switch class {
			case classUploadItem, classUploadFolder, classUploadArtifact, classPyToItem, classPyToFolder, classPyArtifact:
				for _, module := range family.modules {
					order[module+"."+class] = upload
				}
			}
		}
	}
	return order
}

// checkClasses refuses a value that holds an object of a class that is not known.
func checkClasses(path string, v jsonpickle.Value) error {
	switch v := v.(type) {
	case jsonpickle.Tuple:
		return checkItems(path, v)
	case jsonpickle.Set:
		return checkItems(path, v)
	case *jsonpickle.List:
		return checkItems(path, v.Items)
	case *jsonpickle.Dict:
		return checkMembers(path, v.Members)
	case *jsonpickle.Object:
		if kindOf(v) == "" {
			return taskProblem(path, "the class %s is not one that a job may use", v.Class)
		}
		return checkMembers(path, v.Attrs)
	}
	return nil
}

func checkItems(path string, items []jsonpickle.Value) error {
	for i, item := range items {
		if err := checkClasses(fmt.Sprintf("%s[%d]", path, i), item); err != nil {
			return err
		}
	}
	return nil
}

func checkMembers(path string, members []jsonpickle.Member) error {
	for _, m := range members {
		if err := checkClasses(fmt.Sprintf("%s.%.64s", path, m.Key), m.Value); err != nil {
			return err
		}
	}
	return nil
}

// taskProblem says what is wrong with a task and where.
func taskProblem(path, format string, args ...any) error {
	return inField(path, problem(format, args...))
}
