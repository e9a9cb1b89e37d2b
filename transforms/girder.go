package transforms

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// firstGirder is the name of a server that was given none.
const firstGirder = "girder"

// GirderAccess is a server of a job's document, with how to get in: a token, an
// API key, the machine's key, or none of them for what anybody may see.
type GirderAccess struct {
	Name string
	// URL is the root of the REST API, without a slash at its end. The server of
	// the machine's key may have none until the document is completed.
	URL string
	// Token and APIKey are secrets; [Masked] once they have been taken out.
	Token, APIKey string
	MachineKey    bool
	// Session is girder_client_session_kwargs: verify, cert, headers, proxies.
	Session map[string]any
}

// girders is the address of one server, an object that describes one, or a list
// of those.
func (r *reader) girders() (all []GirderAccess, err error) {
	if r.kind() != '[' {
		g, err := r.girder()
		return []GirderAccess{g}, err
	}
	err = r.array(MaxGirders, func() error {
		g, err := r.girder()
		all = append(all, g)
		return err
	})
	if err == nil && len(all) == 0 {
		err = problem("no server in the list")
	}
	return all, err
}

func (r *reader) girder() (g GirderAccess, err error) {
	g.Name = firstGirder
	if r.kind() == '"' {
		g.URL, err = r.apiURL()
		return g, err
	}
	err = r.object(func(key string) (err error) {
		switch key {
		case "name":
			g.Name, err = r.identifier()
		case "api_url":
			g.URL, err = r.apiURL()
		case "token":
			g.Token, err = r.token(MaxSecret)
		case "api_key":
			g.APIKey, err = r.token(MaxSecret)
		case "machine_key":
			g.MachineKey, err = r.boolean()
		case "session":
			g.Session, err = r.session()
		default:
			err = problem("unknown field")
		}
		return err
	})
	switch {
	case err != nil:
	case g.URL == "" && !g.MachineKey:
		err = inField("api_url", problem("missing"))
	case g.MachineKey && g.Token+g.APIKey != "":
		err = inField("machine_key", problem("there is a token or an api_key already; give one of them"))
	case g.MachineKey && g.Session != nil:
		err = inField("session", problem("the machine's key goes to its server as the machine's admin says"))
	case g.Token != "" && g.APIKey != "":
		err = inField("api_key", problem("there is a token already; give one of both"))
	}
	return g, err
}

func (r *reader) apiURL() (string, error) {
	s, err := r.webAddress()
	if err == nil && strings.ContainsAny(s, "?#") {
		err = problem("%.200q is more than the root of Girder's REST API, as in https://girder.example.org/api/v1", s)
	}
	return strings.TrimRight(s, "/"), err
}

// session reads what transforms/girder.ParseSession understands.
func (r *reader) session() (map[string]any, error) {
	session := make(map[string]any)
	err := r.object(func(key string) (err error) {
		switch key {
		case "verify":
			if r.kind() == '"' {
				session[key], err = r.hostPath()
			} else {
				session[key], err = r.boolean()
			}
		case "cert":
			if r.kind() == '"' {
				session[key], err = r.hostPath()
				break
			}
			pair := []any{}
			err = r.array(2, func() error {
				p, err := r.hostPath()
				pair = append(pair, p)
				return err
			})
			if err == nil && len(pair) != 2 {
				err = problem("write a path, or those of the certificate and the key")
			}
			session[key] = pair
		case "headers", "proxies":
			var texts map[string]string
			if key == "headers" {
				texts, err = r.headers()
			} else {
				texts, err = r.proxies()
			}
			if len(texts) > 0 {
				session[key] = anyMap(texts)
			}
		default:
			err = problem("unknown field; it takes verify, cert, headers and proxies")
		}
		return err
	})
	if len(session) == 0 {
		session = nil
	}
	return session, err
}

// proxies are addresses by scheme, or by scheme and host.
func (r *reader) proxies() (map[string]string, error) {
	proxies := make(map[string]string)
	return proxies, r.object(func(key string) (err error) {
		if len(proxies) == 16 {
			return problem("more than 16 proxies")
		}
		proxies[key], err = r.token(MaxPath)
		return err
	})
}

func anyMap(in map[string]string) map[string]any {
	out := make(map[string]any, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

func (r *reader) girderID() (string, error) {
	s, err := r.text()
	if err == nil && !ValidID(s) {
		err = problem("%.40q is no id of Girder, which has 24 digits and letters from a to f", s)
	}
	return s, err
}

func (r *reader) download() (d Fetch, err error) {
	rename := ""
	kind := func(k FetchKind) (err error) {
		if d.Kind != "" {
			return problem("there is an id already; give one of file_id, item_id and folder_id")
		}
		d.Kind = k
		d.ID, err = r.girderID()
		return err
	}
	err = r.object(func(key string) (err error) {
		switch key {
		case "name":
			d.Name, err = r.identifier()
		case "girder":
			d.Girder, err = r.identifier()
		case "file_id":
			err = kind(FetchFile)
		case "item_id":
			err = kind(FetchItem)
		case "folder_id":
			err = kind(FetchFolder)
		case "volume":
			d.Into, err = r.identifier()
		case "filename", "item_name", "folder_name":
			if rename != "" {
				return problem("there is %s already", rename)
			}
			rename = key
			d.Rename, err = r.relativePath()
		case "direct_file_path":
			d.Direct, err = r.hostPath()
		default:
			err = problem("unknown field")
		}
		return err
	})
	switch {
	case err != nil:
	case d.Name == "":
		err = inField("name", problem("missing"))
	case d.Kind == "":
		err = inField("file_id", problem("missing; say what to download with file_id, item_id or folder_id"))
	case rename != "" && rename != renameField[d.Kind]:
		err = inField(rename, problem("of a %s it is %s", d.Kind, renameField[d.Kind]))
	case d.Rename == ".":
		err = inField(rename, problem("%q is no name", d.Rename))
	case d.Direct != "" && d.Kind != FetchFile:
		err = inField("direct_file_path", problem("only a file has one"))
	}
	return d, err
}

// renameField is what Girder Worker calls the other name of each kind.
var renameField = map[FetchKind]string{FetchFile: "filename", FetchItem: "item_name", FetchFolder: "folder_name"}

// relativePath is a clean path below a directory, or "." for that directory.
func (r *reader) relativePath() (string, error) {
	s, err := r.text()
	switch {
	case err != nil:
	case s == "":
		err = problem("an empty path")
	case len(s) > MaxPath:
		err = problem("a path of %d bytes; the limit is %d", len(s), MaxPath)
	case path.IsAbs(s), s == "..", strings.HasPrefix(s, "../"):
		err = problem("%q leads out of the volume", s)
	case path.Clean(s) != s:
		err = problem("%q is not a clean path; write %q", s, path.Clean(s))
	}
	return s, err
}

func (r *reader) upload() (u Hook, err error) {
	mustExist := true
	kind := func(k HookKind) (err error) {
		if u.Kind != "" {
			return problem("there is an id already; give one of item_id, folder_id and job_id")
		}
		u.Kind = k
		u.ID, err = r.girderID()
		return err
	}
	err = r.object(func(key string) (err error) {
		switch key {
		case "name":
			u.Name, err = r.identifier()
		case "girder":
			u.Girder, err = r.identifier()
		case "item_id":
			err = kind(HookItem)
		case "folder_id":
			err = kind(HookFolder)
		case "job_id":
			err = kind(HookArtifact)
		case "volume":
			u.From, err = r.identifier()
		case "path":
			u.Path, err = r.relativePath()
		case "artifact_name":
			u.ArtifactName, err = r.line(MaxName)
		case "upload_kwargs":
			err = r.object(func(key string) error { return r.uploadOption(&u, key) })
		case "delete_file":
			u.DeleteFile, err = r.boolean()
		case "must_exist":
			mustExist, err = r.boolean()
		case "upload_on_exception":
			u.OnException, err = r.boolean()
		default:
			err = problem("unknown field")
		}
		return err
	})
	if u.Path == "" {
		u.Path = u.Name
	}
	u.MustExist = mustExist && u.Kind != HookArtifact // what an artifact lacks is no error
	options := u.Reference != "" || u.MimeType != "" || u.FileName != ""
	switch {
	case err != nil:
	case u.Path == "":
		err = inField("path", problem("missing; say what to upload"))
	case u.Kind == "":
		err = inField("item_id", problem("missing; say where to with item_id, folder_id or job_id"))
	case u.ArtifactName != "" && u.Kind != HookArtifact:
		err = inField("artifact_name", problem("only an upload to a job has one"))
	case options && u.Kind == HookArtifact:
		err = inField("upload_kwargs", problem("only uploads to an item or folder have them"))
	}
	return u, err
}

func (r *reader) uploadOption(u *Hook, key string) (err error) {
	switch key {
	case "reference":
		u.Reference, err = r.line(MaxReference)
	case "mimeType":
		u.MimeType, err = r.line(MaxName)
	case "filename":
		if u.FileName, err = r.line(MaxName); err == nil && strings.Contains(u.FileName, "/") {
			err = problem("%q is not the name of a file", u.FileName)
		}
	default:
		err = problem("unknown field; it takes reference, mimeType and filename")
	}
	return err
}

func (w *writer) girder(f *JobFile) {
	switch len(f.Girders) {
	case 0:
	case 1:
		w.open("girder", '{')
		w.access(&f.Girders[0])
		w.close('}')
	default:
		list(w, "girder", f.Girders, w.access)
	}
	list(w, "downloads", f.Downloads, func(d *Fetch) {
		w.text("name", d.Name)
		w.text("girder", d.Girder)
		w.text(string(d.Kind)+"_id", d.ID)
		w.text("volume", d.Into)
		w.text(renameField[d.Kind], d.Rename)
		w.text("direct_file_path", d.Direct)
	})
	list(w, "uploads", f.Uploads, func(u *Hook) {
		w.text("name", u.Name)
		w.text("girder", u.Girder)
		if u.Kind == HookArtifact {
			w.text("job_id", u.ID)
		} else {
			w.text(string(u.Kind)+"_id", u.ID)
		}
		w.text("volume", u.From)
		if u.Path != u.Name {
			w.text("path", u.Path)
		}
		w.text("artifact_name", u.ArtifactName)
		if u.Reference != "" || u.MimeType != "" || u.FileName != "" {
			w.open("upload_kwargs", '{')
			w.text("reference", u.Reference)
			w.text("mimeType", u.MimeType)
			w.text("filename", u.FileName)
			w.close('}')
		}
		w.flag("delete_file", u.DeleteFile)
		if u.Kind != HookArtifact && !u.MustExist {
			w.key("must_exist")
			w.b = append(w.b, "false"...)
		}
		w.flag("upload_on_exception", u.OnException)
	})
}

func (w *writer) access(g *GirderAccess) {
	if g.Name != firstGirder {
		w.text("name", g.Name)
	}
	w.text("api_url", g.URL)
	w.text("token", g.Token)
	w.text("api_key", g.APIKey)
	w.flag("machine_key", g.MachineKey)
	if g.Session == nil {
		return
	}
	w.open("session", '{')
	switch verify := g.Session["verify"].(type) {
	case bool:
		w.key("verify")
		w.b = strconv.AppendBool(w.b, verify)
	case string:
		w.text("verify", verify)
	}
	switch cert := g.Session["cert"].(type) {
	case string:
		w.text("cert", cert)
	case []any:
		w.texts("cert", textList(cert))
	}
	w.object("headers", textMap(g.Session["headers"]))
	w.object("proxies", textMap(g.Session["proxies"]))
	w.close('}')
}

func textList(in []any) []string {
	out := make([]string, len(in))
	for i := range in {
		out[i], _ = in[i].(string)
	}
	return out
}

func textMap(v any) map[string]string {
	in, _ := v.(map[string]any)
	out := make(map[string]string, len(in))
	for key := range in {
		out[key], _ = in[key].(string)
	}
	return out
}

// NeedsGirder tells whether the job uses a server of Girder.
func (f *JobFile) NeedsGirder() bool {
	if len(f.Downloads)+len(f.Uploads) > 0 || f.Stdin.FileID != "" {
		return true
	}
	for i := range f.Inputs {
		if f.Inputs[i].FileID != "" {
			return true
		}
	}
	return false
}

// girderName resolves a reference to a server.
func (f *JobFile) girderName(name string) string {
	if name == "" && len(f.Girders) > 0 {
		return f.Girders[0].Name
	}
	return name
}

// checkTransfers holds references against what they refer to, and gives those
// that are meant anyway their short form.
func (f *JobFile) checkTransfers() error {
	known := make(map[string]bool, len(f.Girders))
	for i := range f.Girders {
		if known[f.Girders[i].Name] {
			return inField("girder", problem("two servers are named %s", f.Girders[i].Name))
		}
		known[f.Girders[i].Name] = true
	}
	girder := func(field string, name *string) error {
		if *name == "" {
			return nil
		}
		if !known[*name] {
			return inField(field, problem("there is no Girder server %s in the document", *name))
		}
		if *name == f.Girders[0].Name {
			*name = ""
		}
		return nil
	}
	err := f.eachPipe(func(field, name string, p *Pipe) error { return girder(field+"."+name, &p.Girder) })
	if err != nil {
		return err
	}
	place := func(field string, name *string) error {
		switch {
		case *name == DefaultVolume:
			*name = ""
		case *name != "" && f.place(*name) == "":
			return inField(field, problem("there is no volume or bind named %s in the document", *name))
		}
		return nil
	}
	for i := range f.Downloads {
		field := fmt.Sprintf("downloads[%d].", i)
		if err := girder(field+"girder", &f.Downloads[i].Girder); err != nil {
			return err
		}
		if err := place(field+"volume", &f.Downloads[i].Into); err != nil {
			return err
		}
	}
	for i := range f.Uploads {
		field := fmt.Sprintf("uploads[%d].", i)
		if err := girder(field+"girder", &f.Uploads[i].Girder); err != nil {
			return err
		}
		if err := place(field+"volume", &f.Uploads[i].From); err != nil {
			return err
		}
	}
	return nil
}

// moves says in the plan what is downloaded and uploaded, and with which servers.
func (f *JobFile) moves(p *Plan) error {
	if f.NeedsGirder() && len(f.Girders) == 0 {
		return inField("girder", problem("missing; say which server has the job's files, as in https://girder.example.org/api/v1, or keep it with your API key in ~/.config/girder-worker/girder.json"))
	}
	for i := range f.Girders {
		g := &f.Girders[i]
		p.Girders = append(p.Girders, Girder{Name: g.Name, URL: g.URL, Session: withoutSecrets(g.Session), MachineKey: g.MachineKey})
	}
	or := func(name string) string {
		if name == "" {
			return DefaultVolume
		}
		return name
	}
	for _, d := range f.Downloads {
		d.Girder, d.Into = f.girderName(d.Girder), or(d.Into)
		p.Fetches = append(p.Fetches, d)
	}
	taken := make(map[string]bool)
	for i := range f.Uploads {
		taken[f.Uploads[i].Name] = true
	}
	for i, u := range f.Uploads {
		u.Girder, u.From = f.girderName(u.Girder), or(u.From)
		if u.Name == "" {
			for u.Name = fmt.Sprintf("upload-%d", i+1); taken[u.Name]; {
				u.Name += "_"
			}
			taken[u.Name] = true
		}
		p.Hooks = append(p.Hooks, u)
	}
	return nil
}
