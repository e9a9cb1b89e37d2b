package girdertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"girderworker/transforms/recordtest"
)

// ask makes a request with a token and returns the status and the answer.
func (s *Server) ask(t *testing.T, method, path, token string, query url.Values, body []byte) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, s.API()+"/"+path+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Girder-Token", token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// TestTransitions tries every pair of statuses, against what a real server did:
// testdata/transitions.json holds, for each handler, what it accepted.
func TestTransitions(t *testing.T) {
	data, err := os.ReadFile("testdata/transitions.json")
	if err != nil {
		t.Fatal(err)
	}
	var accepted map[string]map[string][]int
	if err := json.Unmarshal(data, &accepted); err != nil {
		t.Fatal(err)
	}
	s := New(t, Config{})
	user := s.AddUser(false)
	for handler, from := range accepted {
		for _, a := range statuses {
			for _, b := range statuses {
				id, token := s.AddJob(user, handler)
				s.mu.Lock()
				s.jobs[id].status = a
				s.mu.Unlock()
				status, answer := s.ask(t, "PUT", "job/"+id, token, url.Values{"status": {fmt.Sprint(b)}}, nil)
				if _, known := from[fmt.Sprint(a)]; !known {
					continue // a job of this handler cannot come there
				}
				want := a == b || slices.Contains(from[fmt.Sprint(a)], b)
				if (status == 200) != want || !want && !strings.Contains(answer, `"field":"status"`) {
					t.Errorf("%s %d -> %d: got %d %s", handler, a, b, status, answer)
				}
				if want && s.Job(id).Status != b || !want && s.Job(id).Status != a {
					t.Errorf("%s %d -> %d ended in %d", handler, a, b, s.Job(id).Status)
				}
				if stamps := len(s.Job(id).Timestamps); stamps != 0 && (!want || a == b) {
					t.Errorf("%s %d -> %d left %d timestamps", handler, a, b, stamps)
				}
			}
		}
	}
}

func TestCancel(t *testing.T) {
	s := New(t, Config{})
	user := s.AddUser(false)
	token := s.AddToken(user)
	for from, want := range map[int]int{0: 5, 1: 824, 2: 824, 3: 3, 4: 4, 5: 5, 824: 824} {
		id, _ := s.AddJob(user, "celery_handler")
		s.mu.Lock()
		s.jobs[id].status = from
		s.mu.Unlock()
		if status, answer := s.ask(t, "PUT", "job/"+id+"/cancel", token, nil, nil); status != 200 {
			t.Errorf("%d: %d %s", from, status, answer)
		}
		if got := s.Job(id).Status; got != want {
			t.Errorf("%d became %d, want %d", from, got, want)
		}
	}
}

// The words of refusals, as a real server said them.
func TestWords(t *testing.T) {
	s := New(t, Config{MinChunk: 10})
	user := s.AddUser(false)
	token := s.AddToken(user)
	folder := s.AddFolder(user, "Private")
	job, jobToken := s.AddJob(user, "celery_handler")
	other, otherToken := s.AddJob(user, "celery_handler")
	const none = "5f0000000000000000000000"
	upload := func() string {
		_, answer := s.ask(t, "POST", "file", token, url.Values{"parentType": {"folder"}, "parentId": {folder}, "name": {"p.bin"}, "size": {"30"}}, nil)
		var doc struct {
			ID string `json:"_id"`
		}
		if err := json.Unmarshal([]byte(answer), &doc); err != nil {
			t.Fatal(err)
		}
		return doc.ID
	}
	id := upload()
	chunk := func(offset, id string) url.Values { return url.Values{"offset": {offset}, "uploadId": {id}} }
	for _, c := range []struct {
		method, path, token string
		query               url.Values
		body                string
		status              int
		want                string
	}{
		{"PUT", "job/" + job, jobToken, url.Values{"status": {"77"}}, "", 400, `{"field":"status","message":"Invalid job status 77.","type":"validation"}`},
		{"PUT", "job/" + job, jobToken, url.Values{"status": {"abc"}}, "", 400, `{"field":"status","message":"Invalid job status abc.","type":"validation"}`},
		{"PUT", "job/" + job, jobToken, url.Values{"status": {"3"}}, "", 400, `{"field":"status","message":"Invalid state transition to '3', Current state is '0'.","type":"validation"}`},
		{"PUT", "job/" + job, jobToken, url.Values{"progressTotal": {"x"}}, "", 400, `{"message":"Invalid value for numeric parameter progressTotal: x.","type":"rest"}`},
		{"PUT", "job/" + job, jobToken, url.Values{"progressTotal": {""}}, "", 400, `{"message":"Invalid value for numeric parameter progressTotal: .","type":"rest"}`},
		{"PUT", "job/" + job, "", url.Values{"status": {"2"}}, "", 401, `{"message":"You must be logged in or have a valid auth token.","type":"access"}`},
		{"PUT", "job/" + job, "nope", url.Values{"status": {"2"}}, "", 401, `{"message":"You must be logged in or have a valid auth token.","type":"access"}`},
		{"PUT", "job/" + job, otherToken, url.Values{"log": {"x"}}, "", 401, `{"message":"Invalid token scope.\nRequired: jobs.job_` + job + `.\nAllowed: jobs.job_` + other + `","type":"access"}`},
		{"GET", "job/" + job, "", nil, "", 401, `{"message":"Invalid token scope.\nRequired: jobs.job_` + job + `.\nAllowed: ","type":"access"}`},
		{"PUT", "job/" + none, jobToken, nil, "", 400, `{"message":"Invalid job id (` + none + `).","type":"rest"}`},
		{"PUT", "job/zzz", jobToken, nil, "", 400, `{"field":"id","message":"Invalid ObjectId: zzz","type":"validation"}`},
		{"POST", "file/chunk", token, chunk("0", id), "01234", 400, `{"message":"Chunk is smaller than the minimum size.","type":"validation"}`},
		{"POST", "file/chunk", token, chunk("9", id), "0123456789", 400, `{"message":"Server has received 0 bytes, but client sent offset 9.","type":"rest"}`},
		{"POST", "file/chunk", token, chunk("0", id), strings.Repeat("x", 31), 400, `{"message":"Received too many bytes.","type":"validation"}`},
		{"POST", "file/chunk", token, chunk("0", none), "0123456789", 400, `{"message":"Invalid upload id (` + none + `).","type":"rest"}`},
		{"GET", "file/offset", token, url.Values{"uploadId": {id}}, "", 200, `{"offset":0}`},
		{"POST", "file/chunk", s.AddToken(s.AddUser(false)), chunk("0", id), "0123456789", 403, `{"message":"You did not initiate this upload.","type":"access"}`},
		{"DELETE", "file/upload/" + id, token, nil, "", 200, `{"message":"Upload canceled."}`},
		{"DELETE", "file/upload/" + id, token, nil, "", 400, `{"message":"Invalid upload id (` + id + `).","type":"rest"}`},
		// A job's token is of nobody: private data are closed to it.
		{"GET", "folder/" + folder, jobToken, nil, "", 401, `{"message":"Read access denied for folder ` + folder + ` (user None).","type":"access"}`},
		{"POST", "folder", s.AddToken(user, ScopeRead), url.Values{"parentId": {folder}, "name": {"x"}}, "", 401, `{"message":"Invalid token scope.\nRequired: core.data.write.\nAllowed: core.data.read","type":"access"}`},
		{"POST", "job", token, nil, "", 403, `{"message":"Invalid token scope.\nRequired: jobs.rest.create_job.\nAllowed: core.user_auth","type":"access"}`},
	} {
		if status, answer := s.ask(t, c.method, c.path, c.token, c.query, []byte(c.body)); status != c.status || answer != c.want {
			t.Errorf("%s %s?%s %q:\n got %d %s\nwant %d %s", c.method, c.path, c.query.Encode(), c.body, status, answer, c.status, c.want)
		}
	}
	if status, _ := s.ask(t, "POST", "job", s.AddToken(user, ScopeCreateJob), url.Values{"title": {"t"}, "handler": {"celery_handler"}}, nil); status != 200 {
		t.Errorf("a job could not be made: %d", status)
	}
}

func TestForms(t *testing.T) {
	s := New(t, Config{})
	id, token := s.AddJob(s.AddUser(false), "celery_handler")
	put := func(kind, body string) int {
		request, err := http.NewRequest("PUT", s.API()+"/job/"+id, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", kind)
		request.Header.Set("Girder-Token", token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	for _, c := range []struct {
		kind, body string
		status     int
	}{
		{"application/x-www-form-urlencoded", "log=line+1%0A", 200},
		{"application/x-www-form-urlencoded", "log=%ff%fe", 400},
		{"application/x-www-form-urlencoded", "log=a%00b", 200},
		{"application/x-www-form-urlencoded", "log=", 200},
		{"application/json", `{"log": "ignored"}`, 200},
	} {
		if got := put(c.kind, c.body); got != c.status {
			t.Errorf("%s %s: %d", c.kind, c.body, got)
		}
	}
	if got := s.Job(id).Log; !slices.Equal(got, []string{"line 1\n", "a\x00b"}) {
		t.Errorf("the log is %q", got)
	}
	put("application/x-www-form-urlencoded", "log=only&overwrite=true")
	if got := s.Job(id).Log; !slices.Equal(got, []string{"only"}) {
		t.Errorf("the log is %q", got)
	}
}

func TestRanges(t *testing.T) {
	s := New(t, Config{})
	user := s.AddUser(false)
	token := s.AddToken(user)
	id := s.AddFile(s.AddItem(s.AddFolder(user, "f"), "i"), "wxyz", []byte("wxyz"))
	for query, want := range map[string]string{"": "200 wxyz", "offset=1&endByte=3": "206 xy", "offset=2": "206 yz"} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		status, answer := s.ask(t, "GET", "file/"+id+"/download", token, values, nil)
		if got := fmt.Sprint(status, " ", answer); got != want {
			t.Errorf("%q: got %s, want %s", query, got, want)
		}
	}
}

func TestNamesThatAreTaken(t *testing.T) {
	s := New(t, Config{})
	user := s.AddUser(false)
	token := s.AddToken(user)
	folder := s.AddFolder(user, "f")
	for range 3 {
		s.ask(t, "POST", "file", token, url.Values{"parentType": {"folder"}, "parentId": {folder}, "name": {"a"}, "size": {"1"}}, []byte("x"))
	}
	want := []string{"a (1)/", "a (1)/a (1 bytes)", "a (2)/", "a (2)/a (1 bytes)", "a/", "a/a (1 bytes)"}
	if got := s.Tree(folder); !slices.Equal(got, want) {
		t.Errorf("the folder holds %q", got)
	}
	if status, answer := s.ask(t, "POST", "folder", token, url.Values{"parentId": {folder}, "name": {"sub"}}, nil); status != 200 {
		t.Error(answer)
	}
	if status, _ := s.ask(t, "POST", "folder", token, url.Values{"parentId": {folder}, "name": {"sub"}}, nil); status != 400 {
		t.Error("a second folder of the name was made")
	}
}

// shapes collects, for each route, the keys of the documents that it answered and
// the JSON types of their values.
type shapes map[string]map[string][]string

var ids = regexp.MustCompile(`[0-9a-f]{24}`)

func (s shapes) add(method, path string, status int, answer []byte) {
	var doc any
	if json.Unmarshal(answer, &doc) != nil {
		return
	}
	if list, ok := doc.([]any); ok {
		if len(list) == 0 {
			return
		}
		doc = list[0]
	}
	object, ok := doc.(map[string]any)
	if !ok {
		return
	}
	route := method + " " + ids.ReplaceAllString(path, "{id}")
	if kind, ok := object["_modelType"].(string); ok {
		route += " -> " + kind
	} else if _, ok := object["received"]; ok {
		route += " -> upload"
	}
	if status != 200 {
		route = "error"
	}
	if s[route] == nil {
		s[route] = map[string][]string{}
	}
	for key, v := range object {
		kind := "object"
		switch v.(type) {
		case nil:
			kind = "null"
		case bool:
			kind = "bool"
		case float64:
			kind = "number"
		case string:
			kind = "string"
		case []any:
			kind = "list"
		}
		if !slices.Contains(s[route][key], kind) {
			s[route][key] = append(s[route][key], kind)
			sort.Strings(s[route][key])
		}
	}
}

// answered are the shapes of this server's answers, in a round through its routes.
func answered(t *testing.T) shapes {
	s := New(t, Config{MinChunk: 1})
	admin := s.AddUser(true) // as in the recordings
	token := s.AddToken(admin)
	folder := s.AddFolder(admin, "Private")
	sub := s.AddFolder(folder, "sub")
	item := s.AddItem(folder, "item")
	file := s.AddFile(item, "a.txt", []byte("hello"))
	job, jobToken := s.AddJob(admin, "celery_handler")
	out := shapes{}
	call := func(method, path, token string, query url.Values, body string) string {
		status, answer := s.ask(t, method, path, token, query, []byte(body))
		out.add(method, path, status, []byte(answer))
		var doc struct {
			ID string `json:"_id"`
		}
		json.Unmarshal([]byte(answer), &doc) // lists have none
		return doc.ID
	}
	call("GET", "file/"+file, token, nil, "")
	call("GET", "item/"+item, token, nil, "")
	call("GET", "item/"+item+"/files", token, nil, "")
	call("GET", "item", token, url.Values{"folderId": {folder}}, "")
	call("GET", "folder/"+sub, token, nil, "")
	call("GET", "folder", token, url.Values{"parentType": {"folder"}, "parentId": {folder}}, "")
	call("POST", "folder", token, url.Values{"parentId": {folder}, "name": {"new"}}, "")
	call("GET", "system/version", "", nil, "")
	up := call("POST", "file", token, url.Values{"parentType": {"item"}, "parentId": {item}, "name": {"b.txt"}, "size": {"4"}}, "")
	call("POST", "file", token, url.Values{"parentType": {"item"}, "parentId": {item}, "name": {"r"}, "size": {"4"}, "reference": {"r"}}, "")
	call("POST", "file/chunk", token, url.Values{"offset": {"0"}, "uploadId": {up}}, "ab")
	call("POST", "file/chunk", token, url.Values{"offset": {"2"}, "uploadId": {up}}, "cd")
	call("POST", "file", token, url.Values{"parentType": {"folder"}, "parentId": {folder}, "name": {"c"}, "size": {"1"}}, "x")
	call("PUT", "file/"+file+"/contents", token, url.Values{"size": {"4"}}, "")
	call("PUT", "job/"+job, jobToken, url.Values{"status": {"2"}, "progressTotal": {"1"}}, "")
	call("PUT", "job/"+job, jobToken, url.Values{"status": {"1"}}, "")
	call("POST", "job/"+job+"/artifact", token, url.Values{"name": {"x.txt"}, "size": {"1"}, "mimeType": {"text/plain"}}, "x")
	return out
}

// check wants every document to have the keys of the real one, with values of a type
// that occurs there.
func check(t *testing.T, what string, got, real shapes) {
	for route, keys := range got {
		want := real[route]
		if want == nil {
			t.Errorf("%s: there is no %s to compare with", what, route)
			continue
		}
		for key, kinds := range want {
			if keys[key] == nil && route != "error" {
				t.Errorf("%s: %s lacks %s (%v)", what, route, key, kinds)
			}
		}
		for key, kinds := range keys {
			for _, kind := range kinds {
				if !slices.Contains(want[key], kind) {
					t.Errorf("%s: %s has %s as %s, not %v", what, route, key, kind, want[key])
				}
			}
		}
	}
}

// TestShapes holds the answers against those of a real server, written down in
// testdata/shapes.json.
func TestShapes(t *testing.T) {
	data, err := os.ReadFile("testdata/shapes.json")
	if err != nil {
		t.Fatal(err)
	}
	var real shapes
	if err := json.Unmarshal(data, &real); err != nil {
		t.Fatal(err)
	}
	check(t, "testdata", answered(t), real)
}

// TestRecordedShapes does the same with recordings themselves.
func TestRecordedShapes(t *testing.T) {
	real, exchanges := shapes{}, 0
	request := regexp.MustCompile(`^> (GET|PUT|POST|DELETE) /api/v1/(\S+)$`)
	answer := regexp.MustCompile(`^<   body \(\d+ bytes\): (.*)$`)
	for _, file := range recordtest.Files(t, ".http.log") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var method, path string
		status := 0
		for line := range strings.Lines(string(data)) {
			line = strings.TrimRight(line, "\n")
			if m := request.FindStringSubmatch(line); m != nil {
				method, path = m[1], m[2]
			}
			fmt.Sscanf(line, "< %d", &status)
			if m := answer.FindStringSubmatch(line); m != nil {
				exchanges++
				real.add(method, path, status, []byte(m[1]))
			}
		}
	}
	t.Logf("%d recorded answers", exchanges)
	got := answered(t)
	delete(got, "error") // these recordings hold few; testdata has them
	check(t, "recordings", got, real)
}

// A job has the fields that it was made with, and the parent whose task it names.
func TestJobFields(t *testing.T) {
	s := New(t, Config{})
	token := s.AddToken(s.AddUser(false), ScopeCreateJob)
	for _, other := range []string{`{"celeryTaskId": "a", "meta": {"k": "v"}}`, `{"celeryTaskId": "b", "celeryParentTaskId": "a"}`} {
		form := url.Values{"title": {"T"}, "type": {"y"}, "handler": {"celery_handler"}, "public": {"True"}, "args": {"[1]"}, "otherFields": {other}}
		if status, answer := s.ask(t, "POST", "job", token, form, nil); status != 200 {
			t.Fatal(status, answer)
		}
	}
	a, ok := s.JobOf("a")
	b, ok2 := s.JobOf("b")
	if _, ok3 := s.JobOf("c"); !ok || !ok2 || ok3 {
		t.Error(ok, ok2, ok3)
	}
	if a.Title != "T" || a.Type != "y" || a.Handler != "celery_handler" || !a.Public || a.Parent != "" || fmt.Sprint(a.Other["meta"]) != "map[k:v]" || b.Parent != a.ID {
		t.Errorf("%+v\n%+v", a, b)
	}
	if status, answer := s.ask(t, "POST", "job", token, url.Values{"title": {"T"}, "type": {"y"}, "args": {"{"}}, nil); status != 400 || !strings.Contains(answer, "Parameter args must be valid JSON.") {
		t.Error(status, answer)
	}
}
