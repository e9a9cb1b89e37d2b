package transforms

import (
	"fmt"
	"path"

	"girderworker/transforms/jsonpickle"
)

// hookValue reads one of [Task.Hooks].
func hookValue(raw any) (jsonpickle.Value, error) {
	if body, ok := raw.([]byte); ok {
		return jsonpickle.Decode(body, PickleOptions())
	}
	return jsonpickle.DecodeTable(raw, PickleOptions())
}

// hook adds one of girder_result_hooks. Each was pickled on its own.
func (d *taskDecoder) hook(at string, raw any) error {
	if len(d.file.Uploads) == MaxUploads {
		return taskProblem("girder_result_hooks", "more than %d", MaxUploads)
	}
	v, err := hookValue(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if err := checkClasses(at, v); err != nil {
		return err
	}
	o, ok := v.(*jsonpickle.Object)
	if !ok {
		return taskProblem(at, "it is no transform")
	}
	var u Hook
	switch kind := kindOf(o); kind {
	case classUploadItem:
		u.Kind, u.MustExist = HookItem, true
		u.ID, err = idOf(at, o, "item_id")
	case classUploadFolder:
		u.Kind, u.MustExist = HookFolder, truth(o, "must_exist", true)
		u.ID, err = idOf(at, o, "folder_id")
	case classUploadArtifact:
		u.Kind, u.OnException = HookArtifact, truth(o, "_upload_on_exception", false)
		u.ArtifactName, _ = textOf(o, "name")
		u.ID, err = d.jobID(at, o)
	case classPyToItem, classPyToFolder, classPyArtifact, classPyMetadata:
		return taskProblem(at, "%s works on what a task in Python returns, and docker_run returns nothing; use %s", kind,
			map[string]string{classPyToItem: classUploadItem, classPyToFolder: classUploadFolder, classPyArtifact: classUploadArtifact, classPyMetadata: "another hook"}[kind])
	default:
		return taskProblem(at, "a %s is no result hook", o.Class)
	}
	if err != nil {
		return err
	}
	u.DeleteFile = truth(o, "delete_file", false)
	if err := uploadKwargs(at+".upload_kwargs", o, &u); err != nil {
		return err
	}
	if u.Girder, err = d.girder(at, o); err != nil {
		return err
	}
	pathValue, _ := o.Get("_volumepath")
	volumePath, ok := pathValue.(*jsonpickle.Object)
	if !ok || kindOf(volumePath) != classVolumePath {
		return taskProblem(at+"._volumepath", "it is no VolumePath; nothing else of the host can be uploaded")
	}
	volume, _, filename, err := d.volumePath(at+"._volumepath", volumePath, true)
	if err != nil {
		return err
	}
	u.From, u.Path = volume, path.Clean(filename)
	d.file.Uploads = append(d.file.Uploads, u)
	return nil
}

// truth is an attribute that is true or false, as Python takes other values for it.
func truth(o *jsonpickle.Object, attribute string, otherwise bool) bool {
	v, ok := o.Get(attribute)
	if !ok {
		return otherwise
	}
	switch v := v.(type) {
	case bool:
		return v
	case nil:
		return false
	case int64:
		return v != 0
	}
	return otherwise
}

func uploadKwargs(at string, o *jsonpickle.Object, u *Hook) error {
	v, _ := o.Get("upload_kwargs")
	kwargs, ok := v.(*jsonpickle.Dict)
	if !ok {
		if v == nil {
			return nil
		}
		return taskProblem(at, "they are no dict")
	}
	for _, m := range kwargs.Members {
		var to *string
		switch m.Key {
		case "reference":
			to = &u.Reference
		case "mimeType":
			to = &u.MimeType
		case "filename":
			to = &u.FileName
		default:
			return taskProblem(at, "%.100q is not supported; want reference, mimeType or filename", m.Key)
		}
		if m.Value == nil {
			continue
		}
		if *to, ok = m.Value.(string); !ok {
			return taskProblem(at+"."+m.Key, "it is no text")
		}
	}
	return nil
}

// jobID is the job that an artifact belongs to: the one named, the one whose
// document Girder put into the hook, or the one that runs.
func (d *taskDecoder) jobID(at string, o *jsonpickle.Object) (string, error) {
	if v, _ := o.Get("job_id"); v != nil {
		return idOf(at, o, "job_id")
	}
	if v, _ := o.Get("job"); v != nil {
		if job, ok := v.(*jsonpickle.Dict); ok {
			return idOf(at+".job", &jsonpickle.Object{Attrs: job.Members}, "_id")
		}
	}
	if !ValidID(d.task.JobID) {
		return "", taskProblem(at+".job_id", "there is no job in Girder that an artifact could belong to")
	}
	return d.task.JobID, nil
}
