package celery

import (
	"math"
	"reflect"
	"testing"
	"time"
)

// TestOriginal: a task is given back as it came.
func TestOriginal(t *testing.T) {
	type table map[string]any
	at := time.Unix(1_800_000_000, 0).UTC()
	d := Delivery{
		Queue: "labq", Exchange: "e", RoutingKey: "k", Body: []byte("\xff\x00[]"),
		Properties: Properties{ContentType: "application/json", DeliveryMode: 2, Priority: 3, CorrelationID: "c", ReplyTo: "r", Expiration: "100"},
		Headers: map[string]any{
			"nil": nil, "yes": true, "text": "é", "empty": "", "bytes": []byte{0xff, 0}, "i": int32(-5), "u": uint8(7), "long": int64(math.MaxInt64),
			"f": 1.0, "small": float32(0.5), "huge": 1e300, "nan": math.Inf(1), "at": at, "list": []any{int16(1), []any{}, table{"a": "b"}}, "table": table{},
			"one": table{"\x00other": "x"},
		},
	}
	text, err := EncodeOriginal(d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeOriginal(text)
	if err != nil {
		t.Fatal(err)
	}
	want := Message{RoutingKey: "labq", Properties: d.Properties, Body: d.Body, Headers: map[string]any{
		"nil": nil, "yes": true, "text": "é", "empty": "", "bytes": []byte{0xff, 0}, "i": int64(-5), "u": int64(7), "long": int64(math.MaxInt64),
		"f": 1.0, "small": 0.5, "huge": 1e300, "nan": math.Inf(1), "at": at, "list": []any{int64(1), []any{}, map[string]any{"a": "b"}}, "table": map[string]any{},
		"one": map[string]any{"\x00other": "x"},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it came back as\n%#v, want\n%#v", got, want)
	}
	if _, err := EncodeOriginal(Delivery{Omitted: 1}); err == nil {
		t.Error("a body that was not read was kept")
	}
	for _, bad := range []string{"", "{}", `{"headers": []}`, `{"headers": {"a": {"\u0000bytes": "?"}}}`, `{"headers": {"a": 1.5}}`} {
		if m, err := DecodeOriginal([]byte(bad)); err == nil {
			t.Errorf("%s was read as %+v", bad, m)
		}
	}
}
