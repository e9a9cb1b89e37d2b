package celery

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	girderToken = "pLHr0cdUyQ2RxBOda5AIaCMry1KyCbksH7g1XwAcXip0IeREt6jjltCKFWFXZl1v"
	plainBody   = `[["busybox"], {"container_args": ["a", 1, 2.5, true, null]}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`
)

// delivery is a message as Girder sends it, with changes.
func delivery(change func(*Delivery)) Delivery {
	d := Delivery{
		Queue: "celery", RoutingKey: "celery", Body: []byte(plainBody),
		Properties: Properties{ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: 2,
			CorrelationID: "8cb285be", ReplyTo: "fd8987d0"},
		Headers: map[string]any{
			"lang": "py", "task": "girder_worker.docker.tasks.docker_run", "id": "8cb285be", "shadow": nil, "eta": nil, "expires": nil,
			"group": nil, "group_index": nil, "retries": int32(0), "timelimit": []any{nil, nil}, "root_id": "8cb285be", "parent_id": nil,
			"argsrepr": "('busybox',)", "kwargsrepr": "{}", "origin": "gen1@lab", "ignore_result": false,
			"jobInfoSpec": map[string]any{"method": "PUT", "url": "http://girder.test/api/v1/job/6b00f6cc4c398922d75c6423",
				"reference": "6b00f6cc4c398922d75c6423", "headers": map[string]any{"Girder-Token": girderToken}, "logPrint": true},
			"girder_api_url": "http://girder.test/api/v1", "girder_client_token": "CLIENT-TOKEN",
		},
	}
	if change != nil {
		change(&d)
	}
	return d
}

func with(header string, value any) func(*Delivery) {
	return func(d *Delivery) { d.Headers[header] = value }
}

func body(text string) func(*Delivery) { return func(d *Delivery) { d.Body = []byte(text) } }

func spec(key string, value any) func(*Delivery) {
	return func(d *Delivery) {
		s := maps.Clone(d.Headers["jobInfoSpec"].(map[string]any))
		s[key] = value
		d.Headers["jobInfoSpec"] = s
	}
}

// named is what the AMQP library calls a table.
type named map[string]any

func TestDecode(t *testing.T) {
	index := 3
	for name, c := range map[string]struct {
		change func(*Delivery)
		check  func(Task) bool
	}{
		"as Girder sends it": {nil, func(k Task) bool {
			return k.Protocol == 2 && k.ID == "8cb285be" && k.ReplyTo == "fd8987d0" && k.Job.Reference == "6b00f6cc4c398922d75c6423" && k.Job.LogPrint &&
				k.Job.Headers["Girder-Token"] == girderToken && k.ClientToken == "CLIENT-TOKEN" && k.APIURL == "http://girder.test/api/v1" &&
				string(k.Args) == `["busybox"]` && string(k.Kwargs) == `{"container_args": ["a", 1, 2.5, true, null]}` && strings.HasPrefix(string(k.Embed), `{"callbacks"`) &&
				Repr(k.Positional) == `('busybox',)` && Repr(k.Keyword) == `{'container_args': ['a', 1, 2.5, True, None]}` && k.Queue == "celery"
		}},
		"minimal headers": {func(d *Delivery) {
			d.Headers = map[string]any{"lang": "py", "task": "t", "id": "i"}
			d.Properties = Properties{ContentType: "application/json"}
		}, func(k Task) bool {
			return k.Job == nil && k.ReplyTo == "" && k.Root() == "i" && k.DisplayName() == "t" && k.ArgsRepr == "('busybox',)"
		}},
		"all headers": {func(d *Delivery) {
			for key, v := range map[string]any{"shadow": "shown", "eta": "2026-11-21T01:20:33.927974+00:00", "expires": "2026-11-22T00:00:00+02:00",
				"group": "g", "group_index": int64(3), "retries": uint8(2), "timelimit": []any{float32(1.5), int16(60)}, "root_id": "r", "parent_id": "p", "ignore_result": true} {
				d.Headers[key] = v
			}
			d.Properties.Priority, d.Redelivered = 200, true
		}, func(k Task) bool {
			return k.DisplayName() == "shown" && k.ETA.Equal(time.Date(2026, 11, 21, 1, 20, 33, 927974000, time.UTC)) && k.Expires.Equal(time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)) &&
				k.Group == "g" && *k.GroupIndex == index && k.Retries == 2 && k.Hard == 1500*time.Millisecond && k.Soft == time.Minute && k.Root() == "r" && k.ParentID == "p" &&
				k.IgnoreResult && k.Priority == 9 && k.Redelivered
		}},
		"naive time":    {with("eta", "2026-11-21 01:20:33"), func(k Task) bool { return k.ETA.Equal(time.Date(2026, 11, 21, 1, 20, 33, 0, time.UTC)) }},
		"time of AMQP":  {with("eta", noon), func(k Task) bool { return k.ETA.Equal(noon) }},
		"date":          {with("expires", "2026-11-21"), func(k Task) bool { return k.Expires.Equal(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)) }},
		"no limits":     {with("timelimit", nil), func(k Task) bool { return k.Hard == 0 && k.Soft == 0 }},
		"long repr":     {with("argsrepr", strings.Repeat("ü", 5000)), func(k Task) bool { return len(k.ArgsRepr) <= maxRepr && strings.HasSuffix(k.ArgsRepr, "…") }},
		"bytes as text": {with("origin", []byte("gen1")), func(k Task) bool { return k.Origin == "gen1" }},
		"named tables": {with("jobInfoSpec", named{"url": "https://g/job/1", "headers": named{"Girder-Token": "T"}}), func(k Task) bool {
			return k.Job.Method == "PUT" && k.Job.Headers["Girder-Token"] == "T" && k.Job.LogPrint
		}},
		"no logPrint": {spec("logPrint", false), func(k Task) bool { return !k.Job.LogPrint }},
		"apiUrl":      {func(d *Delivery) { delete(d.Headers, "girder_api_url"); d.Headers["apiUrl"] = "https://old/api/v1" }, func(k Task) bool { return k.APIURL == "https://old/api/v1" }},
		"jobInfo": {func(d *Delivery) {
			delete(d.Headers, "jobInfoSpec")
			d.Body = []byte(`[[], {"jobInfo": {"url": "http://g/job/2", "method": "put"}, "image": "i"}, {}]`)
		}, func(k Task) bool {
			return k.Job.URL == "http://g/job/2" && k.Job.Method == "PUT" && Repr(k.Keyword) == "{'image': 'i'}"
		}},
		"jobInfo and spec": {body(`[[], {"jobInfo": {"url": "http://g/job/2"}}, {}]`), func(k Task) bool { return k.Job.Reference == "6b00f6cc4c398922d75c6423" && Repr(k.Keyword) == "{}" }},
		"hooks": {with("girder_result_hooks", []any{named{"py/object": "a.B", "n": int32(5), "l": []any{nil}}}), func(k Task) bool {
			return len(k.Hooks) == 1 && string(k.Hooks[0]) == `{"l":[null],"n":5,"py/object":"a.B"}`
		}},
		"session":       {with("girder_client_session_kwargs", named{"verify": false}), func(k Task) bool { return string(k.Session) == `{"verify":false}` }},
		"embed is null": {body(`[[], {}, null]`), func(k Task) bool { return len(k.Chain) == 0 }},
		"args are null": {body(`[null, null, {}]`), func(k Task) bool { return len(k.Positional) == 0 && len(k.Keyword.Members) == 0 }},
		"one callback":  {body(`[[], {}, {"callbacks": {"task": "t.cb"}}]`), func(k Task) bool { return len(k.Callbacks) == 1 && k.Callbacks[0].Task == "t.cb" }},
		"hybrid": {body(`{"args": [1], "kwargs": {"a": 2}, "callbacks": [{"task": "c"}], "id": "other"}`), func(k Task) bool {
			return k.ID == "8cb285be" && Repr(k.Positional) == "(1,)" && len(k.Callbacks) == 1 && string(k.Args) == "[1]" && k.Embed == nil
		}},
		"NaN": {body(`[[NaN, -Infinity, 123456789012345678901234567890], {}, {}]`), func(k Task) bool { return string(k.PlainArgs) == `["nan","-inf",123456789012345678901234567890]` }},
		"spaces and quotes": {body(" [ [ \"a]\\\"[\" , {} ] ,\n{ \"k\" : \"}\\\\\" } , { } ] "), func(k Task) bool {
			return string(k.Args) == `[ "a]\"[" , {} ]` && string(k.Kwargs) == `{ "k" : "}\\" }` && string(k.Embed) == "{ }"
		}},
		"content types": {func(d *Delivery) { d.Properties.ContentType = "application/json; charset=utf-8" }, func(k Task) bool { return true }},
		"girder_io":     {func(d *Delivery) { d.Properties.ContentType, d.Properties.ContentEncoding = "girder_io", "binary" }, func(k Task) bool { return true }},
		"base64": {func(d *Delivery) {
			d.Headers["body_encoding"] = "base64"
			d.Body = []byte(base64.StdEncoding.EncodeToString(d.Body))
		}, func(k Task) bool { return len(k.Positional) == 1 }},
		"base64 encoding": {func(d *Delivery) {
			d.Properties.ContentEncoding = "base64"
			d.Body = []byte(base64.StdEncoding.EncodeToString(d.Body))
		}, func(k Task) bool { return len(k.Positional) == 1 }},
		"zlib":  {compressed("application/x-gzip", zlibbed), func(k Task) bool { return len(k.Positional) == 1 }},
		"gzip":  {compressed("gzip", gzipped), func(k Task) bool { return len(k.Positional) == 1 }},
		"zstd":  {compressed("application/zstd", zstded), func(k Task) bool { return len(k.Positional) == 1 }},
		"bzip2": {func(d *Delivery) { d.Headers["compression"] = "application/x-bz2"; d.Body = unbase64(bzip2Body) }, func(k Task) bool { return Repr(k.Positional) == "('busybox',)" }},
		"base64 and zlib": {func(d *Delivery) {
			compressed("zlib", zlibbed)(d)
			d.Headers["body_encoding"] = "base64"
			d.Body = []byte(base64.StdEncoding.EncodeToString(d.Body))
		}, func(k Task) bool { return len(k.Positional) == 1 }},
		"protocol 1": {func(d *Delivery) {
			d.Headers = nil
			d.Body = []byte(`{"task": "t", "id": "i", "args": [1], "kwargs": {}, "retries": 1, "eta": "2026-11-21T12:00:00", "taskset": "g", "timelimit": [5, null], "utc": true, "callbacks": [{"task": "c"}]}`)
		}, func(k Task) bool {
			return k.Protocol == 1 && k.ID == "i" && k.Group == "g" && k.Retries == 1 && k.Hard == 5*time.Second && len(k.Callbacks) == 1 && k.ReplyTo == "fd8987d0"
		}},
	} {
		task, err := Decode(delivery(c.change), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !c.check(task) {
			t.Errorf("%s: read as %+v\nargs %s kwargs %s embed %s\n%s %s", name, task.Request, task.Args, task.Kwargs, task.Embed, Repr(task.Positional), Repr(task.Keyword))
		}
	}
}

// bzip2Body is plainBody as Python's bz2 compresses it.
const bzip2Body = "QlpoOTFBWSZTWSqbPuIAABgbgFAFMhAACr7tnmogAGoaImjGpo000PUZASonqPRNAANDT1GEMgDMyRRyc7SHsAZqSSrP6lHijyDEc3GNm8BaTmsGiHQ+tpokSweQcKCPqoNo4XDHiSyTL5iWucGEIxu4Vn+LuSKcKEgVTZ9xAA=="

func unbase64(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func compressed(name string, pack func([]byte) []byte) func(*Delivery) {
	return func(d *Delivery) { d.Headers["compression"], d.Body = name, pack(d.Body) }
}

func zlibbed(b []byte) []byte {
	return packed(b, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
}
func gzipped(b []byte) []byte {
	return packed(b, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}
func zstded(b []byte) []byte {
	return packed(b, func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		if err != nil {
			panic(err)
		}
		return z
	})
}

func packed(b []byte, open func(io.Writer) io.WriteCloser) []byte {
	var out bytes.Buffer
	w := open(&out)
	if _, err := w.Write(b); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// TestDecodeRefuses: every way of getting a message wrong has its end and its reason.
func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	zeros := make([]byte, 40<<20)
	v1 := func(text string) func(*Delivery) {
		return func(d *Delivery) { d.Headers, d.Body = nil, []byte(text) }
	}
	for name, c := range map[string]struct {
		change func(*Delivery)
		end    End
		reason Reason
		want   string
	}{
		"id is a number":       {with("id", int32(5)), Reject, ReasonID, "header id: the number 5, not text"},
		"id is empty":          {with("id", ""), Reject, ReasonID, "empty"},
		"no id":                {with("id", nil), Reject, ReasonID, "empty"},
		"id is long":           {with("id", strings.Repeat("x", 256)), Reject, ReasonID, "256 bytes, at most 255"},
		"id has a newline":     {with("id", "a\nb"), Reject, ReasonID, "control character"},
		"id is not UTF-8":      {with("id", "\xff"), Reject, ReasonID, "not UTF-8"},
		"task is a list":       {with("task", []any{"t"}), Reject, ReasonID, "header task: a list, not text"},
		"task is empty":        {with("task", ""), Reject, ReasonID, "empty"},
		"task is unreadable":   {with("task", struct{}{}), Reject, ReasonID, "means nothing here"},
		"shadow":               {with("shadow", true), Fail, ReasonHeader, "header shadow: a boolean, not text"},
		"root_id":              {with("root_id", 1.5), Fail, ReasonHeader, "header root_id: the number 1.5"},
		"parent_id":            {with("parent_id", named{}), Fail, ReasonHeader, "header parent_id: a table"},
		"group":                {with("group", int64(1)), Fail, ReasonHeader, "header group: "},
		"group_index":          {with("group_index", "1"), Fail, ReasonHeader, "header group_index: text, not a whole number"},
		"group_index negative": {with("group_index", int8(-1)), Fail, ReasonHeader, "-1 is not within"},
		"eta":                  {with("eta", "tomorrow"), Fail, ReasonHeader, `header eta: "tomorrow" is no ISO 8601 time`},
		"eta is a number":      {with("eta", int32(5)), Fail, ReasonHeader, "header eta: the number 5, not an ISO 8601 time"},
		"eta in 9999":          {with("eta", "9999-01-01T00:00:00"), Fail, ReasonHeader, "the year 9999"},
		"expires":              {with("expires", []any{}), Fail, ReasonHeader, "header expires: a list"},
		"retries":              {with("retries", "0"), Fail, ReasonHeader, "header retries: text"},
		"retries negative":     {with("retries", int32(-1)), Fail, ReasonHeader, "-1 is not within"},
		"timelimit":            {with("timelimit", int32(5)), Fail, ReasonHeader, "header timelimit: the number 5, not a list"},
		"timelimit of three":   {with("timelimit", []any{nil, nil, nil}), Fail, ReasonHeader, "3 values"},
		"timelimit of text":    {with("timelimit", []any{"5", nil}), Fail, ReasonHeader, "[0]: text, not seconds"},
		"timelimit negative":   {with("timelimit", []any{nil, -1.0}), Fail, ReasonHeader, "[1]: -1 seconds"},
		"timelimit NaN":        {with("timelimit", []any{nan(), nil}), Fail, ReasonHeader, "NaN seconds"},
		"ignore_result":        {with("ignore_result", "no"), Fail, ReasonHeader, "header ignore_result: text, not true or false"},
		"origin":               {with("origin", int32(1)), Fail, ReasonHeader, "header origin: "},
		"argsrepr":             {with("argsrepr", []any{}), Fail, ReasonHeader, "header argsrepr: "},
		"kwargsrepr":           {with("kwargsrepr", 1), Fail, ReasonHeader, "header kwargsrepr: "},
		"api url":              {with("girder_api_url", "file:///etc/passwd"), Fail, ReasonHeader, "no http or https URL"},
		"api url password":     {with("girder_api_url", "http://u:p@g/api"), Fail, ReasonHeader, "user or password"},
		"api url number":       {with("girder_api_url", 5), Fail, ReasonHeader, "header girder_api_url: "},
		"client token":         {with("girder_client_token", []any{}), Fail, ReasonHeader, "header girder_client_token: "},
		"session":              {with("girder_client_session_kwargs", "verify"), Fail, ReasonHeader, "not a table"},
		"session NaN":          {with("girder_client_session_kwargs", named{"timeout": nan()}), Fail, ReasonHeader, "no form"},
		"hooks":                {with("girder_result_hooks", named{}), Fail, ReasonHeader, "header girder_result_hooks: a table, not a list"},
		"a hook":               {with("girder_result_hooks", []any{5}), Fail, ReasonHeader, "[0]: the number 5, not a table"},
		"hooks too deep":       {with("girder_result_hooks", nestedList(200)), Fail, ReasonHeader, "nested deeper"},
		"decimal":              {with("retries", struct{ a int }{1}), Fail, ReasonHeader, "means nothing here"},
		"big integer":          {with("retries", uint64(1<<63)), Fail, ReasonHeader, "too large"},
		"spec is text":         {with("jobInfoSpec", "url"), Fail, ReasonHeader, "header jobInfoSpec: text, not a table"},
		"spec without url":     {with("jobInfoSpec", named{}), Fail, ReasonJobInfo, "header jobInfoSpec, url: there is none"},
		"spec url":             {spec("url", "gopher://g"), Fail, ReasonJobInfo, "no http or https URL"},
		"spec url number":      {spec("url", 7), Fail, ReasonJobInfo, "url: the number 7, not text"},
		"spec method":          {spec("method", "DELETE"), Fail, ReasonJobInfo, `"DELETE" is not how`},
		"spec reference":       {spec("reference", 7), Fail, ReasonJobInfo, "reference: the number 7"},
		"spec logPrint":        {spec("logPrint", "yes"), Fail, ReasonJobInfo, "logPrint: text"},
		"spec headers":         {spec("headers", "Girder-Token"), Fail, ReasonJobInfo, "headers: text, not a table"},
		"spec header":          {spec("headers", named{"Girder-Token": 5}), Fail, ReasonJobInfo, "the number 5, not text"},
		"spec header line":     {spec("headers", named{"Girder-Token": "a\r\nX: y"}), Fail, ReasonJobInfo, "control character"},
		"spec header name":     {spec("headers", named{"Girder Token": "a"}), Fail, ReasonJobInfo, "not the name of a header"},
		"spec many headers":    {spec("headers", manyHeaders()), Fail, ReasonJobInfo, "33, at most 32"},
		"jobInfo":              {func(d *Delivery) { delete(d.Headers, "jobInfoSpec"); d.Body = []byte(`[[], {"jobInfo": 5}, {}]`) }, Fail, ReasonJobInfo, "keyword argument jobInfo: the number 5"},
		"jobInfo url":          {func(d *Delivery) { delete(d.Headers, "jobInfoSpec"); d.Body = []byte(`[[], {"jobInfo": {}}, {}]`) }, Fail, ReasonJobInfo, "jobInfo, url: there is none"},
		"pickle":               {func(d *Delivery) { d.Properties.ContentType = "application/x-python-serialize" }, Fail, ReasonContentType, "a pickle"},
		"yaml":                 {func(d *Delivery) { d.Properties.ContentType = "application/x-yaml" }, Fail, ReasonContentType, "YAML"},
		"msgpack":              {func(d *Delivery) { d.Properties.ContentType = "application/x-msgpack" }, Fail, ReasonContentType, "msgpack"},
		"data":                 {func(d *Delivery) { d.Properties.ContentType = "application/data" }, Fail, ReasonContentType, "raw bytes"},
		"other type":           {func(d *Delivery) { d.Properties.ContentType = "image/png" }, Fail, ReasonContentType, `"image/png"`},
		"no type":              {func(d *Delivery) { d.Properties.ContentType = "" }, Fail, ReasonContentType, "content type is empty"},
		"charset":              {func(d *Delivery) { d.Properties.ContentEncoding = "utf-16" }, Fail, ReasonEncoding, `"utf-16"`},
		"body encoding":        {with("body_encoding", "uu"), Fail, ReasonEncoding, `"uu"`},
		"body encoding number": {with("body_encoding", 5), Fail, ReasonHeader, "body_encoding: the number 5"},
		"no base64":            {with("body_encoding", "base64"), Fail, ReasonEncoding, "not the base64"},
		"compression":          {with("compression", "application/x-lzma"), Fail, ReasonCompression, "only zlib, bzip2 and zstd"},
		"compression number":   {with("compression", 5), Fail, ReasonHeader, "header compression: the number 5"},
		"no zlib":              {with("compression", "zlib"), Fail, ReasonCompression, "not the"},
		"no bzip2":             {with("compression", "bzip2"), Fail, ReasonCompression, "not the"},
		"no zstd":              {with("compression", "zstd"), Fail, ReasonCompression, "not the"},
		"cut zlib":             {func(d *Delivery) { compressed("zlib", zlibbed)(d); d.Body = d.Body[:len(d.Body)-6] }, Fail, ReasonCompression, "not the"},
		"zlib bomb":            {func(d *Delivery) { d.Body = zeros; compressed("zlib", zlibbed)(d) }, Fail, ReasonTooLarge, "inflates to more than"},
		"zstd bomb":            {func(d *Delivery) { d.Body = zeros; compressed("zstd", zstded)(d) }, Fail, ReasonTooLarge, "inflates to more than"},
		"large body":           {func(d *Delivery) { d.Body = zeros }, Fail, ReasonTooLarge, "41943040 bytes, at most 16777216"},
		"not UTF-8":            {body("[[\"\xff\"], {}, {}]"), Fail, ReasonBody, "not UTF-8"},
		"empty body":           {body(""), Fail, ReasonBody, "not valid JSON"},
		"truncated":            {body(plainBody[:20]), Fail, ReasonBody, "not valid JSON"},
		"deep":                 {body(`[[], {"a": ` + deep + `}, {}]`), Fail, ReasonTooLarge, "nested deeper"},
		"many values":          {body(`[[` + strings.Repeat("0,", 200_000) + `0], {}, {}]`), Fail, ReasonTooLarge, "values"},
		"two parts":            {body(`[[], {}]`), Fail, ReasonBody, "three parts"},
		"an object":            {body(`{"a": 1}`), Fail, ReasonBody, "an object without args"},
		"a number":             {body(`5`), Fail, ReasonBody, "three parts"},
		"args":                 {body(`["busybox", {}, {}]`), Fail, ReasonBody, "args is text, not a list"},
		"kwargs":               {body(`[[], [], {}]`), Fail, ReasonBody, "kwargs is a list, not a table"},
		"embed":                {body(`[[], {}, 5]`), Fail, ReasonBody, "third part of the body is the number 5"},
		"reduce":               {body(`[[{"py/reduce": [{"py/type": "os.system"}, {"py/tuple": ["id"]}]}], {}, {}]`), Fail, ReasonRefused, "os.system"},
		"function":             {body(`[[], {"a": {"py/function": "os.system"}}, {}]`), Fail, ReasonRefused, "py/function"},
		"repr":                 {body(`[[], {"a": {"py/repr": "x"}}, {}]`), Fail, ReasonRefused, "py/repr"},
		"reference":            {body(`[[{"py/id": 40}], {}, {}]`), Fail, ReasonBody, "reference"},
		"callbacks":            {body(`[[], {}, {"callbacks": [5]}]`), Fail, ReasonSignature, "callbacks: [0]: not a signature that can be published: the number 5"},
		"errbacks":             {body(`[[], {}, {"errbacks": "t.eb"}]`), Fail, ReasonSignature, "errbacks: "},
		"chain":                {body(`[[], {}, {"chain": [{"task": 5}]}]`), Fail, ReasonSignature, "chain: [0]: not a signature that can be published: its task is the number 5"},
		"chain's args":         {body(`[[], {}, {"chain": [{"task": "t", "args": 5}]}]`), Fail, ReasonSignature, "its args is the number 5"},
		"chain's kwargs":       {body(`[[], {}, {"chain": [{"task": "t", "kwargs": []}]}]`), Fail, ReasonSignature, "its kwargs is a list"},
		"chain's options":      {body(`[[], {}, {"chain": [{"task": "t", "options": {"task_id": 5}}]}]`), Fail, ReasonSignature, "option task_id: the number 5"},
		"chain's immutable":    {body(`[[], {}, {"chain": [{"task": "t", "immutable": 1}]}]`), Fail, ReasonSignature, "its immutable is"},
		"chain's subtask":      {body(`[[], {}, {"chain": [{"task": "t", "subtask_type": 1}]}]`), Fail, ReasonSignature, "its subtask_type is"},
		"a chain of classes":   {body(`[[], {}, {"chain": [{"py/object": "os.Popen", "task": "t"}]}]`), Fail, ReasonSignature, "a os.Popen"},
		"long chain":           {body(`[[], {}, {"chain": [` + strings.Repeat("0,", 1000) + `0]}]`), Fail, ReasonSignature, "1001 signatures"},
		"chord":                {body(`[[], {}, {"chord": true}]`), Fail, ReasonSignature, "chord: "},

		"protocol 1, pickle":     {func(d *Delivery) { v1("x")(d); d.Properties.ContentType = "application/x-python-serialize" }, Reject, ReasonContentType, "a pickle"},
		"protocol 1, no JSON":    {v1(`{"task": `), Reject, ReasonBody, "not valid JSON"},
		"protocol 1, a list":     {v1(plainBody), Reject, ReasonUnknown, "names a task"},
		"protocol 1, no task":    {v1(`{"id": "i"}`), Reject, ReasonUnknown, "names a task"},
		"protocol 1, no id":      {v1(`{"task": "t"}`), Reject, ReasonID, "empty"},
		"protocol 1, task":       {v1(`{"task": 5, "id": "i"}`), Reject, ReasonID, "field task: the number 5"},
		"protocol 1, eta":        {v1(`{"task": "t", "id": "i", "eta": "x"}`), Fail, ReasonHeader, "field eta: "},
		"protocol 1, args":       {v1(`{"task": "t", "id": "i", "args": 5}`), Fail, ReasonBody, "args is the number 5"},
		"protocol 1, callbacks":  {v1(`{"task": "t", "id": "i", "callbacks": 5}`), Fail, ReasonSignature, "callbacks: "},
		"protocol 1, code":       {v1(`{"task": "t", "id": "i", "args": [{"py/function": "f"}]}`), Reject, ReasonRefused, "py/function"},
		"an object as a field":   {v1(`{"task": "t", "id": "i", "retries": {"py/object": "a.B"}}`), Fail, ReasonHeader, "field retries: "},
		"header task is missing": {with("task", nil), Reject, ReasonUnknown, "names a task"},
	} {
		d := delivery(c.change)
		task, err := Decode(d, Options{})
		var e *Error
		if !errors.As(err, &e) || e.End != c.end || e.Reason != c.reason || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v: %v\nwant %v %v %q", name, e, err, c.end, c.reason, c.want)
			continue
		}
		if len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		// Who is to be told can be told, unless it is that which is wrong.
		if c.end == Fail && (task.ID == "" || task.Name == "" || task.ReplyTo == "") {
			t.Errorf("%s: nobody can be told: %+v", name, task.Request)
		}
		if c.end == Fail && d.Headers != nil && c.reason != ReasonJobInfo && !strings.HasPrefix(name, "spec") && task.Job == nil {
			t.Errorf("%s: Girder cannot be told", name)
		}
		if c.end == Reject && task.ID != "" {
			t.Errorf("%s: rejected, and read as %+v", name, task.Request)
		}
		if strings.Contains(err.Error(), girderToken) {
			t.Errorf("%s: a token in %v", name, err)
		}
	}
}

func nan() float64 { return math.NaN() }

func nestedList(depth int) any {
	var v any = named{}
	for range depth {
		v = []any{v}
	}
	return v
}

func manyHeaders() named {
	m := named{}
	for i := range 33 {
		m[fmt.Sprintf("X-%d", i)] = "v"
	}
	return m
}

func TestReasonsAreAll(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r] {
			t.Errorf("%s occurs twice", r)
		}
		seen[r] = true
	}
	if Reject.String() != "reject" || Fail.String() != "fail" || len(seen) != 11 {
		t.Errorf("%d reasons", len(seen))
	}
}

// TestSecretsAreMasked: no token that a message carries is in what is kept for show.
func TestSecretsAreMasked(t *testing.T) {
	short := "short-secret-9"
	d := delivery(func(d *Delivery) {
		d.Headers["argsrepr"] = "('" + girderToken + "', 'x')"
		d.Headers["kwargsrepr"] = "{'token': '" + short + "', 'digest': 'sha256:" + strings.Repeat("ab", 32) + "'}"
		d.Body = []byte(`[["` + girderToken + `", "again ` + short + `"], {"girderToken": "` + short + `", "list": {"password": ["p4ssw0rd!"]}, ` +
			`"gc": {"py/object": "girder_client.GirderClient", "token": "` + strings.Repeat("Zz9", 22)[:64] + `"}, "sum": "` + strings.Repeat("ab", 32) + `"}, {}]`)
	})
	task, err := Decode(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	shown := string(task.PlainArgs) + string(task.PlainKwargs) + task.ArgsRepr + task.KwargsRepr
	for _, secret := range []string{girderToken, short, "p4ssw0rd!", strings.Repeat("Zz9", 22)[:64]} {
		if strings.Contains(shown, secret) {
			t.Errorf("%s is in %s", secret, shown)
		}
	}
	if !strings.Contains(shown, strings.Repeat("ab", 32)) || !strings.Contains(task.KwargsRepr, "sha256:abab") {
		t.Errorf("a digest is masked: %s", shown)
	}
}

// TestShownIsBounded: what monitors are told has a size, whatever the arguments have.
func TestShownIsBounded(t *testing.T) {
	for name, kwargs := range map[string]string{
		"long text": `{"a": "` + strings.Repeat("x", 1<<20) + `"}`,
		"long list": `{"a": [` + strings.Repeat(`"x",`, 20_000) + `1]}`,
		"long dict": `{"a": 1` + manyKeys() + `}`,
		"wide tree": `{"a": [` + strings.Repeat(`[[1,2,3,4,5,6,7,8],[1,2,3,4,5,6,7,8]],`, 5000) + `1]}`,
		"deep":      `{"a": ` + strings.Repeat("[", 90) + strings.Repeat("]", 90) + `}`,
	} {
		task, err := Decode(delivery(body(`[[], `+kwargs+`, {}]`)), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(task.PlainKwargs) > 64<<10 {
			t.Errorf("%s: %d bytes are shown", name, len(task.PlainKwargs))
		}
		if len(Repr(task.Keyword)) > 4*maxRepr {
			t.Errorf("%s: %d bytes of repr", name, len(Repr(task.Keyword)))
		}
	}
}

func manyKeys() string {
	var b strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&b, `, "k%d": %d`, i, i)
	}
	return b.String()
}

// FuzzDecode: no message makes the decoder panic, and what it reads can be kept,
// read again and published.
func FuzzDecode(f *testing.F) {
	for _, d := range fixtures(f) {
		f.Add(d.Body, d.Properties.ContentType, "", "2026-11-21", int64(1), true)
		f.Add(zlibbed(d.Body), d.Properties.ContentType, "zlib", "", int64(0), true)
	}
	f.Add([]byte(`{"task": "t", "id": "i", "args": [], "kwargs": {}}`), "application/json", "", "", int64(0), false)
	f.Add([]byte(`[[], {}, {"chain": [{"task": "t", "subtask_type": "chain", "kwargs": {"tasks": [{"task": "u"}]}}]}]`), "application/json", "", "x", int64(-1), true)
	f.Fuzz(func(t *testing.T, text []byte, contentType, compression, eta string, retries int64, headers bool) {
		d := delivery(func(d *Delivery) {
			d.Body, d.Properties.ContentType = text, contentType
			if !headers {
				d.Headers = map[string]any{}
			}
			d.Headers["compression"], d.Headers["eta"], d.Headers["retries"] = compression, eta, retries
		})
		task, err := Decode(d, Options{MaxBody: 1 << 20})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.End == 0 || e.Reason == "" {
				t.Fatalf("no end: %v", err)
			}
			return
		}
		follower := Follower{Now: noon}
		follows, children, _ := follower.AfterSuccess(&task.Request, &task.Links, nil)
		if _, _, err := task.Reply(Result{State: Success, Children: children}); err != nil {
			t.Fatal(err)
		}
		for _, follow := range follows {
			m := follow.Message
			if again, err := Decode(Delivery{Properties: m.Properties, Headers: m.Headers, Body: m.Body}, Options{MaxBody: 64 << 20}); err != nil {
				var e *Error
				if errors.As(err, &e) && e.Reason == ReasonTooLarge {
					continue // it grew by a few bytes beyond a limit
				}
				t.Fatalf("cannot read what was published: %v\n%s", err, m.Body)
			} else if again.ID != follow.ID {
				t.Fatalf("published %s, read %s", follow.ID, again.ID)
			}
		}
		follower.AfterFailure(&task.Request, &task.Links, FailedWith(ExitCode(1)))
	})
}

// FuzzCommand: no request makes the panel panic.
func FuzzCommand(f *testing.F) {
	f.Add([]byte(`{"method": "revoke", "arguments": {"task_id": ["a"]}, "destination": null}`), "celery@*", "glob")
	f.Add([]byte(`{"method": "hello", "arguments": {"from_node": "w", "revoked": {"a": [1.5, "a"]}}, "ticket": "t", "reply_to": {"exchange": "e", "routing_key": "k"}}`), "[!a-]", "pcre")
	f.Fuzz(func(t *testing.T, text []byte, pattern, matcher string) {
		if _, err := matchNode(node, pattern, matcher); err != nil && !errors.Is(err, ErrRequest) {
			t.Fatal(err)
		}
		c, err := DecodeCommand(command(string(text), nil))
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatal(err)
			}
			return
		}
		clock := &Clock{}
		c.For(node, noon)
		answer := (&Panel{Node: node, Worker: &worker{}, Clock: clock}).Answer(t.Context(), &c)
		if _, _, err := c.Reply(node, answer, clock); err != nil {
			t.Fatal(err)
		}
	})
}
