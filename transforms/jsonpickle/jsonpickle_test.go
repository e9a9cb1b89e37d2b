package jsonpickle

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	classBind   = "girder_worker.docker.transforms.BindMountVolume"
	classClient = "girder_client.GirderClient"
)

// fits is the predicate of a caller that knows Girder Worker's classes.
func fits(at Place, target Value) bool {
	volume := func() bool {
		o, ok := target.(*Object)
		return ok && strings.HasSuffix(o.Class, "Volume")
	}
	switch at.Key {
	case "_volume", "volumes":
		return volume()
	case "when", "updated":
		_, ok := target.(Datetime)
		return ok
	case "id":
		_, ok := target.(ObjectID)
		return ok
	case "gc":
		o, ok := target.(*Object)
		return ok && o.Class == classClient
	case "environment", "labels", "headers":
		_, ok := target.(*Dict)
		return ok
	}
	return true
}

// order is that of Girder Worker's classes and of a Girder job document.
var order = map[string][]string{
	classClient: {"_folderUploadCallbacks", "_itemUploadCallbacks", "_serverVersion", "_serverApiDescription",
		"incomingMetadata", "localMetadata", "progressReporterCls", "_session"},
	"girder_worker.docker.transforms.girder.GirderUploadVolumePathToItem":      {"gc", "upload_kwargs", "_volumepath", "job"},
	"girder_worker.docker.transforms.girder.GirderUploadVolumePathToFolder":    {"gc", "upload_kwargs", "_volumepath", "job"},
	"girder_worker.docker.transforms.girder.GirderUploadVolumePathJobArtifact": {"gc", "_volumepath", "job"},
	"": {"title", "args", "kwargs", "created", "updated", "when", "log", "meta", "timestamps", "userId",
		"access", "_id", "jobInfoSpec", "groups", "users", "id", "level", "flags"},
}

// dump writes a value down, with a label at everything that is shared.
func dump(v Value) string {
	seen := map[any]int{}
	var count func(Value)
	each := func(v Value, f func(Value)) {
		var items []Value
		switch v := v.(type) {
		case Tuple:
			items = v
		case Set:
			items = v
		case *List:
			items = v.Items
		case *Dict:
			for _, m := range v.Members {
				items = append(items, m.Value)
			}
		case *Object:
			for _, m := range v.Attrs {
				items = append(items, m.Value)
			}
		}
		for _, i := range items {
			f(i)
		}
	}
	count = func(v Value) {
		switch v.(type) {
		case *List, *Dict, *Object:
			if seen[v]++; seen[v] > 1 {
				return
			}
		}
		each(v, count)
	}
	count(v)

	labels := map[any]string{}
	var write func(Value) string
	join := func(items []Value) string {
		var parts []string
		for _, i := range items {
			parts = append(parts, write(i))
		}
		return strings.Join(parts, ", ")
	}
	members := func(ms []Member) string {
		var parts []string
		for _, m := range ms {
			parts = append(parts, m.Key+": "+write(m.Value))
		}
		return strings.Join(parts, ", ")
	}
	write = func(v Value) string {
		label := ""
		switch v.(type) {
		case *List, *Dict, *Object:
			if labels[v] != "" {
				return "*" + labels[v]
			}
			if seen[v] > 1 {
				labels[v] = fmt.Sprint(len(labels) + 1)
				label = "&" + labels[v] + " "
			}
		}
		switch v := v.(type) {
		case nil:
			return "None"
		case string:
			return fmt.Sprintf("%q", v)
		case Bytes:
			return fmt.Sprintf("b%q", string(v))
		case Tuple:
			return "(" + join(v) + ")"
		case Set:
			return "set(" + join(v) + ")"
		case *List:
			return label + "[" + join(v.Items) + "]"
		case *Dict:
			return label + "{" + members(v.Members) + "}"
		case *Object:
			return label + v.Class[strings.LastIndex(v.Class, ".")+1:] + "<" + members(v.Attrs) + ">"
		case Datetime:
			if v.Naive {
				return v.Format("2006-01-02T15:04:05.000000")
			}
			return v.Format(time.RFC3339Nano)
		case Type:
			return "type " + string(v)
		case Unresolved:
			return fmt.Sprintf("unresolved %d", v.ID)
		default:
			return fmt.Sprintf("%v", v) // scalars and ids
		}
	}
	return write(v)
}

// What every version of jsonpickle means by the documents in testdata.
var documents = map[string]string{
	"volume": `(("img"), {container_args: ["cat", VolumePath<filename: "in.tif", _volume: &1 BindMountVolume<_host_path: "/data", _container_path: "/mnt/data", mode: "ro">>], volumes: [*1]}, ` + embed,
	"default_twice": `(("img"), {container_args: [` +
		`GirderFileIdToVolume<gc: ` + client + `, _file_id: "600000000000000000000000", _volume: &1 ` + defaultVolume + `, _filename: None>, ` +
		`GirderFileIdToVolume<gc: ` + client + `, _file_id: 600000000000000000000007, _volume: *1, _filename: "x">]}, ` + embed,
	"dicts_before": `(("img"), {environment: ENV{A: "1"}, labels: LABELS, container_args: [VolumePath<filename: "in.tif", _volume: &V BindMountVolume<_host_path: "/data", _container_path: "/mnt/data", mode: "ro">>, *V], volumes: [*V]}, ` + embed,
	"positional":   `(("img", false, "sh", [&1 VolumePath<filename: "in.tif", _volume: BindMountVolume<_host_path: "/data", _container_path: "/mnt/data", mode: "ro">>, *1]), {}, {})`,
	"hook": `GirderUploadVolumePathToItem<gc: ` + client + `, item_id: "600000000000000000000000", upload_kwargs: {reference: "r"}, delete_file: false, ` +
		`_volumepath: VolumePath<filename: "in.tif", _volume: ` + defaultVolume + `>, ` +
		`job: {title: "t", args: ("img"), kwargs: {container_args: ["a"], volumes: []}, created: 2026-11-21T01:19:17.031098, when: 2026-11-21T01:19:17.031098, ` +
		`log: [], meta: {}, userId: 600000000000000000000009, access: {groups: [], users: [{id: 600000000000000000000009, level: 2, flags: []}]}, _id: 600000000000000000000001}>`,
	"aware": `[2026-11-21T01:19:17.031098Z, 2026-11-21T01:19:17.031098Z, 2026-11-21T01:19:17.031098-05:00, &1 BindMountVolume<_host_path: "/data", _container_path: "/mnt/data", mode: "ro">, *1]`,
	"values": `[set(1, 2), b"\xff\x00", 00000000-0000-0000-0000-000000000005, type girder_client._NoopProgressReporter, 1000000000000000000000000000000, -1, 2, 1e+300, NaN, +Inf, -Inf, true, None, "é\u2028😀\"\\", HostStdOut<>, ` +
		`&1 BindMountVolume<_host_path: "/data", _container_path: "/mnt/data", mode: "ro">, *1]`,
	"chain": `((), {volumes: [&1 BindMountVolume<_host_path: "/data", _container_path: "/mnt/data", mode: "ro">]}, {chain: [` +
		`Signature<task: "b", args: (), kwargs: {volumes: [*1]}, options: {task_id: "2"}, immutable: true>, ` +
		`Signature<task: "a", args: ("i"), kwargs: {volumes: [*1]}, options: {task_id: "1"}, immutable: true>], ` +
		`after: [*1, &2 VolumePath<filename: "in.tif", _volume: BindMountVolume<_host_path: "/data", _container_path: "/mnt/data", mode: "ro">>, *1, *2]})`,
}

const (
	embed         = `{callbacks: None, errbacks: None, chain: None, chord: None})`
	client        = `GirderClient<host: None, urlBase: "http://girder.test/api/v1/", token: "TOKEN", _itemUploadCallbacks: [], incomingMetadata: {}, progressReporterCls: type girder_client._NoopProgressReporter>`
	defaultVolume = `_DefaultTemporaryVolume<_host_path: None, _container_path: None, mode: "rw", _transformed: false, host_dir: None, _mode: 511, _instance: None>`
)

// want adapts a document to a version: before 2.0 plain dicts are not shared, and
// before 3.0, on Python 3.11, an instance of a dict subclass loses its items.
func want(name, version string) string {
	w := documents[name]
	switch {
	case name == "dicts_before" && version == "1.5.2":
		w = strings.NewReplacer("ENV", "", "LABELS", `{A: "1"}`, "&V", "&1", "*V", "*1").Replace(w)
	case name == "dicts_before":
		w = strings.NewReplacer("ENV", "&1 ", "LABELS", `*1`, "&V", "&2", "*V", "*2").Replace(w)
	case name == "chain" && version < "3":
		i, j := strings.Index(w, "Signature"), strings.Index(w, "], after")
		w = w[:i] + "Signature<>, Signature<>" + w[j:]
	}
	return w
}

func TestEveryVersionOfJsonpickle(t *testing.T) {
	for _, version := range []string{"1.5.2", "2.2.0", "3.0.0", "4.1.2"} {
		var written map[string]string
		data, err := os.ReadFile(filepath.Join("testdata", "jsonpickle-"+version+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &written); err != nil {
			t.Fatal(err)
		}
		if len(written) != len(documents) {
			t.Errorf("%s has %d documents, want %d", version, len(written), len(documents))
		}
		for name, text := range written {
			v, err := Decode([]byte(text), Options{Fits: fits})
			if err != nil {
				t.Errorf("%s %s: %v", version, name, err)
				continue
			}
			if got := dump(v); got != want(name, version) {
				t.Errorf("%s %s:\n got %s\nwant %s", version, name, got, want(name, version))
			}
		}
	}
}

func TestSharedValueIsOnePointer(t *testing.T) {
	v, err := Decode([]byte(`[{"py/object": "m.V", "a": []}, {"py/id": 1}, {"py/id": 2}]`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	items := v.(*List).Items
	if items[0] != items[1] {
		t.Error("the reference is another object")
	}
	if a, _ := items[0].(*Object).Get("a"); a != items[2] {
		t.Error("the reference into the object is another list")
	}
}

// The instance's own dict, which is empty, has a number from 3.0.2 on.
func TestDictSubclassOfDockerPy(t *testing.T) {
	for _, next := range []string{"3", "4"} {
		body := `[{"py/object": "docker.types.containers.DeviceRequest", "Count": -1, "Options": {}, "__dict__": {}}, {"py/object": "` + classBind + `", "mode": "ro"}, {"volumes": {"py/id": ` + next + `}}]`
		v, err := Decode([]byte(body), Options{Fits: fits})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := dump(v), `[DeviceRequest<Count: -1, Options: {}>, &1 BindMountVolume<mode: "ro">, {volumes: *1}]`; got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

// Before Python 3.11 jsonpickle 1.x wrote attributes without py/state.
func TestOldNumberingOfPlainInstances(t *testing.T) {
	body := `{"py/tuple": [{"py/tuple": ["img"]}, {"container_args": ["cat", {"py/object": "` + classBind + `.VolumePath", "filename": "f",
		"_volume": {"py/object": "` + classBind + `", "mode": "ro"}}], "volumes": [{"py/id": 2}]}, {}]}`
	v, err := Decode([]byte(body), Options{Fits: fits})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := dump(v), `(("img"), {container_args: ["cat", VolumePath<filename: "f", _volume: &1 BindMountVolume<mode: "ro">>], volumes: [*1]}, {})`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestRefused(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	// Each level holds the one before twice: 2^40 values when followed.
	bomb := `[[1]`
	for i := 1; i <= 40; i++ {
		bomb += fmt.Sprintf(`,[{"py/id": %d},{"py/id": %d}]`, i, i)
	}
	bomb += `]`
	tower := `[[]`
	for i := 1; i <= 150; i++ {
		tower += fmt.Sprintf(`,[{"py/id": %d}]`, i)
	}
	tower += `]`
	for name, c := range map[string]struct {
		body string
		want error
		says string
	}{
		"function":          {`{"a": [{"py/function": "os.system"}]}`, ErrRefused, `$.a[0]: refused: "py/function" of "os.system"`},
		"repr":              {`[{"py/repr": "os/os.system('id')"}]`, ErrRefused, `"py/repr"`},
		"reduce":            {`[1, {"py/reduce": [{"py/type": "subprocess.Popen"}, {"py/tuple": ["id"]}]}]`, ErrRefused, `$[1]: refused: "py/reduce" of "subprocess.Popen"`},
		"reduce of data":    {`[{"py/reduce": [{"py/type": "datetime.timedelta"}, {"py/tuple": [0, 0, 0]}]}]`, ErrRefused, `"datetime.timedelta"`},
		"reduce in object":  {`{"py/object": "m.C", "py/reduce": [{"py/function": "os.system"}]}`, ErrRefused, `"py/reduce" of "os.system"`},
		"newargs":           {`{"py/object": "m.C", "py/newargs": {"py/tuple": [1]}}`, ErrRefused, `"py/newargs"`},
		"iterator":          {`{"py/iterator": [1]}`, ErrRefused, `"py/iterator"`},
		"unknown tag":       {`{"py/from_the_future": 1, "a": 2}`, ErrRefused, `"py/from_the_future"`},
		"tag and keys":      {`{"py/tuple": [1], "a": 2}`, ErrMalformed, "beside other keys"},
		"state alone":       {`{"py/state": {}}`, ErrMalformed, ""},
		"state and attrs":   {`{"py/object": "m.C", "py/state": {}, "a": 1}`, ErrMalformed, "m.C"},
		"state of a tuple":  {`{"py/object": "m.C", "py/state": {"py/tuple": [1]}}`, ErrRefused, "m.C"},
		"state of a list":   {`{"py/object": "m.C", "py/state": [1]}`, ErrRefused, "m.C"},
		"reduce attribute":  {`{"py/object": "m.C", "__reduce__": [1]}`, ErrRefused, "__reduce__"},
		"docker-py's dict":  {`{"py/object": "docker.types.services.Mount", "__dict__": {"a": 1}}`, ErrRefused, "__dict__"},
		"dict attribute":    {`{"py/object": "m.C", "__dict__": {}}`, ErrRefused, "__dict__"},
		"class name":        {`{"py/object": "m.C(1)"}`, ErrMalformed, ""},
		"class of class":    {`{"py/object": {"py/type": "a"}}`, ErrMalformed, ""},
		"type name":         {`{"py/type": ""}`, ErrMalformed, ""},
		"long class name":   {`{"py/type": "` + strings.Repeat("a", 300) + `"}`, ErrMalformed, ""},
		"tuple of object":   {`{"py/tuple": {}}`, ErrMalformed, ""},
		"base64":            {`{"py/b64": "?"}`, ErrMalformed, ""},
		"id of text":        {`{"py/id": "1"}`, ErrMalformed, ""},
		"short objectid":    {`{"py/object": "bson.objectid.ObjectId", "py/state": {"py/b64": "AAAA"}}`, ErrMalformed, ""},
		"objectid of text":  {`{"py/object": "bson.objectid.ObjectId", "py/state": "600000000000000000000000"}`, ErrMalformed, ""},
		"uuid":              {`{"py/object": "uuid.UUID", "hex": "00"}`, ErrMalformed, ""},
		"month 13":          {datetimeOf("B+oNFQETEQB5eg=="), ErrMalformed, ""},
		"short datetime":    {datetimeOf("B+oN"), ErrMalformed, ""},
		"datetime subclass": {strings.Replace(datetimeOf("B+oLFQETEQB5eg=="), `"py/type": "datetime.datetime"`, `"py/type": "os.system"`, 1), ErrMalformed, ""},
		"other zone":        {`[{"py/object": "datetime.datetime", "__reduce__": [{"py/type": "datetime.datetime"}, ["B+oLFQETEQB5eg==", {"py/reduce": [{"py/type": "pytz.X"}, {"py/tuple": [1]}]}]]}]`, ErrRefused, ""},
		"forward id":        {`[{"py/id": 1}, []]`, ErrReference, "$[0]"},
		"negative id":       {`[{"py/id": -1}]`, ErrReference, ""},
		"id of itself":      {`[{"py/id": 0}]`, ErrReference, "holds the reference itself"},
		"id of a parent":    {`[{"a": [{"py/id": 0}]}]`, ErrReference, "$[0].a[0]"},
		"id of Celery":      {`[{"py/object": "celery.canvas.Signature", "__dict__": {"_app": {"py/reduce": [{"py/function": "f"}, {"py/tuple": []}]}}}, {"py/id": 2}]`, ErrReference, ""},
		"does not fit":      {`{"volumes": [{"a": 1}, {"py/id": 2}]}`, ErrReference, "does not fit"},
		"deep":              {deep, ErrTooLarge, "nested deeper than 100"},
		"bomb":              {bomb, ErrTooLarge, "values"},
		"tower":             {tower, ErrTooLarge, "nested deeper"},
		"digits":            {strings.Repeat("9", 5000), ErrTooLarge, "5000 digits"},
		"empty":             {``, ErrSyntax, ""},
		"two values":        {`1 2`, ErrSyntax, ""},
		"no value":          {`[1,]`, ErrSyntax, "$[1]"},
		"no comma":          {`[1 2]`, ErrSyntax, ""},
		"open":              {`{"a": [`, ErrSyntax, "$.a[0]"},
		"open string":       {`"abc`, ErrSyntax, ""},
		"open escape":       {`"abc\`, ErrSyntax, ""},
		"bad escape":        {`"\x41"`, ErrSyntax, ""},
		"control character": {"\"a\nb\"", ErrSyntax, ""},
		"control after esc": {"\"\\n\nb\"", ErrSyntax, ""},
		"surrogate":         {`"\ud800"`, ErrSyntax, ""},
		"surrogate pair":    {`"\ud800\u0041"`, ErrSyntax, ""},
		"not UTF-8":         {"\"\xff\"", ErrSyntax, ""},
		"key twice":         {`{"a": 1, "a": 2}`, ErrSyntax, "twice"},
		"leading zero":      {`[01]`, ErrSyntax, ""},
		"plus":              {`[+1]`, ErrSyntax, ""},
		"point":             {`[1.]`, ErrSyntax, ""},
		"exponent":          {`[1e]`, ErrSyntax, ""},
		"minus":             {`[-]`, ErrSyntax, ""},
		"word":              {`[nulls]`, ErrSyntax, ""},
		"key is no string":  {`{1: 2}`, ErrSyntax, ""},
		"no colon":          {`{"a" 2}`, ErrSyntax, ""},
		"yaml":              {"- a: b", ErrSyntax, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := Decode([]byte(c.body), Options{Fits: fits})
			var at *Error
			if !errors.Is(err, c.want) || !errors.As(err, &at) {
				t.Fatalf("got %v, %v; want %v", v, err, c.want)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
		})
	}
}

func datetimeOf(state string) string {
	return `{"py/object": "datetime.datetime", "__reduce__": [{"py/type": "datetime.datetime"}, ["` + state + `"]]}`
}

func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		limits   Limits
		fit, not string
	}{
		"bytes":  {Limits{Bytes: 10}, `[12345678]`, `[123456789]`},
		"string": {Limits{String: 3}, `"abc"`, `"abcd"`},
		"key":    {Limits{String: 3}, `{"abc": 1}`, `{"abcd": 1}`},
		"depth":  {Limits{Depth: 2}, `[[1]]`, `[[[]]]`},
		"nodes":  {Limits{Nodes: 3}, `[1, 2]`, `[1, 2, 3]`},
		"shared": {Limits{Nodes: 6}, `[[1], {"py/id": 1}]`, `[[1, 2, 3], {"py/id": 1}]`},
	} {
		if _, err := Decode([]byte(c.fit), Options{Limits: c.limits}); err != nil {
			t.Errorf("%s: %s: %v", name, c.fit, err)
		}
		if _, err := Decode([]byte(c.not), Options{Limits: c.limits}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %s: got %v, want %v", name, c.not, err, ErrTooLarge)
		}
	}
}

// table is like the AMQP library's own type: named, and without order.
type table map[string]any

func toTable(raw any) any {
	switch raw := raw.(type) {
	case *rawObject:
		t := table{}
		for _, m := range raw.members {
			t[m.Key] = toTable(m.Value)
		}
		return t
	case rawArray:
		l := []any{}
		for _, e := range raw {
			l = append(l, toTable(e))
		}
		return l
	case int64:
		if raw == int64(int32(raw)) {
			return int32(raw)
		}
	}
	return raw
}

func TestTableGivesWhatTheBodyGives(t *testing.T) {
	for _, version := range []string{"1.5.2", "2.2.0", "3.0.0", "4.1.2"} {
		var written map[string]string
		data, err := os.ReadFile(filepath.Join("testdata", "jsonpickle-"+version+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &written); err != nil {
			t.Fatal(err)
		}
		body, err := Decode([]byte(written["hook"]), Options{Fits: fits})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := parse([]byte(written["hook"]), Limits{}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		header, err := DecodeTable(toTable(raw), Options{Fits: fits, Order: order})
		if err != nil {
			t.Errorf("%s: %v", version, err)
			continue
		}
		if got, want := sorted(header), sorted(body); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", version, dump(header), dump(body))
		}
	}
}

// sorted makes plain maps of members, so that their order does not count.
func sorted(v Value) any {
	members := func(ms []Member) map[string]any {
		m := map[string]any{}
		for _, e := range ms {
			m[e.Key] = sorted(e.Value)
		}
		return m
	}
	list := func(vs []Value) []any {
		l := []any{}
		for _, e := range vs {
			l = append(l, sorted(e))
		}
		return l
	}
	switch v := v.(type) {
	case Tuple:
		return list(v)
	case *List:
		return list(v.Items)
	case *Dict:
		return members(v.Members)
	case *Object:
		return []any{v.Class, members(v.Attrs)}
	}
	return v
}

func TestTableWithoutOrder(t *testing.T) {
	doc := table{
		"py/object": "m.C",
		"x":         table{"b": []any{}, "a": []any{int32(1)}}, // in which order is not known
		"y":         []any{table{"py/id": int32(2)}, table{"py/id": int32(0 + 4)}},
	}
	v, err := DecodeTable(doc, Options{Order: map[string][]string{"m.C": {"x", "y"}}})
	if err == nil {
		t.Fatalf("y refers to itself, got %s", dump(v))
	}
	doc["y"] = []any{table{"py/id": int32(1)}, table{"py/id": int32(2)}, []any{}, table{"py/id": int32(5)}}
	v, err = DecodeTable(doc, Options{Order: map[string][]string{"m.C": {"x", "y"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := dump(v), `C<x: &1 {a: [1], b: []}, y: [*1, unresolved 2, &2 [], *2]>`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	v, err = DecodeTable(table{"a": []any{}, "b": []any{table{"py/id": int32(2)}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := dump(v), `{a: [], b: [unresolved 2]}`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestTableValues(t *testing.T) {
	v, err := DecodeTable(table{"a": int8(1), "b": uint16(2), "c": float32(1.5), "d": "x", "e": nil, "f": true, "g": uint64(1 << 63), "h": []string(nil)[:0:0]}, Options{})
	if !errors.Is(err, ErrRefused) {
		t.Errorf("a slice of strings: got %v, %v", v, err)
	}
	v, err = DecodeTable(table{"a": int8(1), "b": uint16(2), "c": float32(1.5), "d": "x", "e": nil, "f": true, "g": uint64(1 << 63)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	big63 := new(big.Int).SetUint64(1 << 63)
	want := []Value{int64(1), int64(2), 1.5, "x", nil, true, big63}
	for i, m := range v.(*Dict).Members {
		if !reflect.DeepEqual(m.Value, want[i]) {
			t.Errorf("%s = %#v, want %#v", m.Key, m.Value, want[i])
		}
	}
	nested := any(int32(1))
	for range 200 {
		nested = []any{nested}
	}
	for name, c := range map[string]struct {
		in   any
		want error
	}{
		"deep":         {nested, ErrTooLarge},
		"time":         {table{"a": time.Time{}}, ErrRefused},
		"bytes":        {table{"a": []byte("x")}, ErrRefused},
		"not UTF-8":    {table{"a": "\xff"}, ErrSyntax},
		"long":         {table{"a": strings.Repeat("x", 5<<20)}, ErrTooLarge},
		"much":         {table{"a": strings.Repeat("x", 4<<20), "b": strings.Repeat("x", 4<<20), "c": strings.Repeat("x", 4<<20), "d": strings.Repeat("x", 4<<20)}, ErrTooLarge},
		"many":         {make([]any, 300_000), ErrTooLarge},
		"other keys":   {map[int]any{1: 2}, ErrRefused},
		"tag":          {table{"py/function": "os.system"}, ErrRefused},
		"class number": {table{"py/object": int32(1)}, ErrMalformed},
	} {
		if v, err := DecodeTable(c.in, Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, %v; want %v", name, v, err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, version := range []string{"1.5.2", "2.2.0", "3.0.0", "4.1.2"} {
		var written map[string]string
		data, err := os.ReadFile(filepath.Join("testdata", "jsonpickle-"+version+".json"))
		if err != nil {
			f.Fatal(err)
		}
		if err := json.Unmarshal(data, &written); err != nil {
			f.Fatal(err)
		}
		for _, text := range written {
			f.Add([]byte(text))
		}
	}
	limits := Limits{Nodes: 2000, Depth: 20}
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := Decode(body, Options{Limits: limits, Fits: fits})
		if err != nil {
			var at *Error
			if !errors.As(err, &at) || v != nil {
				t.Fatalf("value %v with error %v", v, err)
			}
			return
		}
		// What comes out can be walked: it is finite, and within the limits.
		nodes := 0
		var walk func(Value, int)
		walk = func(v Value, depth int) {
			if nodes++; nodes > limits.Nodes || depth > limits.Depth {
				t.Fatalf("%d values, %d deep", nodes, depth)
			}
			switch v := v.(type) {
			case Tuple:
				for _, e := range v {
					walk(e, depth+1)
				}
			case Set:
				for _, e := range v {
					walk(e, depth+1)
				}
			case *List:
				for _, e := range v.Items {
					walk(e, depth+1)
				}
			case *Dict:
				for _, m := range v.Members {
					walk(m.Value, depth+1)
				}
			case *Object:
				for _, m := range v.Attrs {
					walk(m.Value, depth+1)
				}
			case nil, bool, string, int64, *big.Int, float64, Bytes, Type, Datetime, ObjectID, UUID:
			default:
				t.Fatalf("a %T came out", v)
			}
		}
		walk(v, 0)
		// Only the words that Python adds make text that others call invalid readable.
		if text := string(body); !json.Valid(body) && !strings.Contains(text, "NaN") && !strings.Contains(text, "Infinity") {
			t.Fatal("decoded what encoding/json calls invalid")
		}
	})
}
