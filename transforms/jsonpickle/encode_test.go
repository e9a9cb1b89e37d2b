package jsonpickle

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestEncode: what the versions of jsonpickle wrote, read and written again, reads
// to the same value.
func TestEncode(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "jsonpickle-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, file := range files {
		var written map[string]string
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &written); err != nil {
			t.Fatal(err)
		}
		for name, text := range written {
			want, err := Decode([]byte(text), Options{Fits: fits})
			if err != nil {
				t.Fatal(err)
			}
			again(t, file+" "+name, want)
		}
	}

	shared := &List{Items: []Value{int64(1)}}
	object := &Object{Class: "a.B", Attrs: []Member{{"list", shared}}}
	for name, v := range map[string]Value{
		"scalars":   &List{Items: []Value{nil, true, false, int64(-5), new(big.Int).Lsh(big.NewInt(1), 90), 1.0, 2.5, 1e300, math.Inf(1), math.Inf(-1)}},
		"text":      "a\"b\\c\n\x00\x7fü\u2028",
		"shared":    &List{Items: []Value{shared, object, object, shared}},
		"tuple":     Tuple{shared, Tuple{}, Set{int64(1), "a"}},
		"counted":   &List{Items: []Value{ObjectID{1}, UUID{2}, Datetime{Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)}, shared, shared}},
		"datetimes": Tuple{Datetime{Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Naive: true}, Datetime{Time: time.Date(1, 1, 1, 0, 0, 0, 0, time.FixedZone("", -3600))}},
		"bytes":     Bytes("\x00\xff"),
		"type":      Type("a.B"),
		"empty":     &Dict{},
	} {
		again(t, name, v)
	}
}

func again(t *testing.T, name string, want Value) {
	t.Helper()
	text, err := Encode(want)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	got, err := Decode(text, Options{Fits: fits})
	if err != nil {
		t.Errorf("%s: %v\n%s", name, err, text)
		return
	}
	if dump(got) != dump(want) {
		t.Errorf("%s: %s\n got %s\nwant %s", name, text, dump(got), dump(want))
	}
}

func TestEncodePlain(t *testing.T) {
	shared := &List{Items: []Value{1.0, math.Copysign(0, -1)}}
	got, err := EncodePlain(Tuple{shared, shared, &Dict{Members: []Member{{"a", nil}}}})
	if err != nil || string(got) != `[[1.0, -0.0], [1.0, -0.0], {"a": null}]` {
		t.Errorf("got %s, %v", got, err)
	}
	for _, v := range []Value{&Object{Class: "a.B"}, Bytes("x"), Set{}, Type("a"), ObjectID{}, UUID{}, Datetime{}} {
		if _, err := EncodePlain(&List{Items: []Value{v}}); !errors.Is(err, ErrRefused) {
			t.Errorf("%T as plain JSON: %v", v, err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	loop := &List{}
	loop.Items = []Value{Tuple{loop}}
	for name, c := range map[string]struct {
		v   Value
		err error
	}{
		"loop":       {Tuple{loop}, nil}, // a reference to itself, which Decode then refuses
		"unresolved": {Unresolved{3}, ErrReference},
		"unknown":    {struct{}{}, ErrRefused},
		"not UTF-8":  {"\xff", ErrRefused},
		"year":       {Datetime{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, ErrRefused},
	} {
		if _, err := Encode(c.v); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := EncodePlain(loop); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a loop as plain JSON: %v", err)
	}
}
