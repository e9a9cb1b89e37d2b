package queue

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestRow holds that a row gives back every field of the job, unexported ones
// included, whatever their values: a field that is forgotten here or there shows.
func TestRow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Job{Seq: rapid.Uint64().Draw(t, "seq")}
		fill(t, reflect.ValueOf(&want).Elem())
		got, err := decodeJob(want.Seq, encodeJob(&want))
		if err != nil {
			t.Fatal(err)
		}
		want.Body, want.Origin = nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("wrote\n%+v, read\n%+v", want, got)
		}
	})
}

// fill sets every field of a struct that rows keep.
func fill(t *rapid.T, v reflect.Value) {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		if name == "Seq" {
			continue
		}
		if name == "pending" {
			v.Addr().Interface().(*Job).pending = rapid.IntRange(0, 9).Draw(t, name)
			continue
		}
		if name == "passed" {
			v.Addr().Interface().(*Job).passed = drawTime(t, name)
			continue
		}
		switch x := f.Addr().Interface().(type) {
		case *string:
			*x = rapid.StringN(1, 20, -1).Draw(t, name)
		case *int:
			*x = rapid.Int().Draw(t, name)
		case *int64:
			*x = rapid.Int64().Draw(t, name)
		case *uint64:
			*x = rapid.Uint64Max(1<<62).Draw(t, name)
		case *float64:
			*x = rapid.Float64().Draw(t, name)
		case *bool:
			*x = rapid.Bool().Draw(t, name)
		case *[]string:
			*x = drawSlice(t, rapid.StringN(1, 9, -1), name)
		case *[]int:
			*x = drawSlice(t, rapid.IntRange(0, 1<<31), name)
		case *time.Time:
			*x = drawTime(t, name)
		case *time.Duration:
			*x = time.Duration(rapid.Int64().Draw(t, name))
		case *json.RawMessage:
			*x = rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, name)
		case *State:
			*x = rapid.SampledFrom(states[:]).Draw(t, name)
		case *Sinks:
			*x = rapid.SampledFrom([]Sinks{0, SinkGirder, SinkCelery, allSinks}).Draw(t, name)
		case *Source:
			*x = rapid.SampledFrom([]Source{SourceSocket, SourceAMQP}).Draw(t, name)
		case **Result:
			if rapid.Bool().Draw(t, name) {
				*x = new(Result)
				fill(t, reflect.ValueOf(*x).Elem())
				(*x).Started = time.Time{} // the job's
			}
		case *Identity, *Needs, *Limits, *Retry:
			fill(t, f)
		default:
			t.Fatalf("a field of type %s that no row keeps: %s", f.Type(), name)
		}
	}
}

// drawSlice is nil rather than empty: rows do not tell the two apart.
func drawSlice[T any](t *rapid.T, g *rapid.Generator[T], name string) []T {
	s := rapid.SliceOfN(g, 0, 3).Draw(t, name)
	if len(s) == 0 {
		return nil
	}
	return s
}

func drawTime(t *rapid.T, name string) time.Time {
	return timeFrom(rapid.Int64().Draw(t, name))
}

// TestDamagedRow reads nonsense without harm.
func TestDamagedRow(t *testing.T) {
	j := Job{ID: "x", State: Queued, Result: &Result{Outcome: "exited"}, Identity: Identity{UID: 5}}
	row := encodeJob(&j)
	for i := range row {
		if _, err := decodeJob(1, row[:i]); err != nil && !errors.Is(err, errRow) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		_, _ = decodeJob(1, rapid.SliceOf(rapid.Byte()).Draw(t, "row"))
		_, _ = decodeEvent(eventKey(1, 2), rapid.SliceOf(rapid.Byte()).Draw(t, "event"))
	})
}
