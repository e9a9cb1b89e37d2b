package jsonpickle

import (
	"encoding/base64"
	"fmt"
	"time"
)

// datetime decodes the attributes of a datetime.datetime:
//
//	"__reduce__": [{"py/type": "datetime.datetime"}, [STATE]]          naive
//	"__reduce__": [{"py/type": "datetime.datetime"}, [STATE, ZONE]]    aware
//
// STATE is base64, as a string or as py/b64. Neither list has a number.
func (d *decoder) datetime(o *rawObject) (Value, error) {
	malformed := fmt.Errorf("%w: a %s", ErrMalformed, classDatetime)
	raw, _ := o.get(attrReduce)
	reduce, _ := raw.(rawArray)
	if len(o.members) != 1 || len(reduce) != 2 || !isType(reduce[0], classDatetime) {
		return nil, malformed
	}
	args, _ := reduce[1].(rawArray)
	if len(args) < 1 || len(args) > 2 {
		return nil, malformed
	}
	t, ok := datetimeState(args[0])
	if !ok {
		return nil, malformed
	}
	if len(args) == 1 {
		return Datetime{Time: t, Naive: true}, nil
	}
	east, err := d.timezone(args[1])
	if err != nil {
		return nil, err
	}
	zone := time.UTC
	if east != 0 {
		zone = time.FixedZone("", int(east))
	}
	y, m, day := t.Date()
	return Datetime{Time: time.Date(y, m, day, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone)}, nil
}

// datetimeState reads the ten bytes of datetime.__getstate__: year (2), month,
// day, hour, minute, second, microsecond (3), the highest first. The highest bit
// of the month is the fold, which only matters to zones with summer time.
func datetimeState(raw any) (time.Time, bool) {
	if o, ok := raw.(*rawObject); ok && len(o.members) == 1 {
		raw, _ = o.get(tagB64)
	}
	text, ok := raw.(string)
	if !ok {
		return time.Time{}, false
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != 10 {
		return time.Time{}, false
	}
	year, month, day := int(b[0])<<8|int(b[1]), time.Month(b[2]&0x7f), int(b[3])
	micro := int(b[7])<<16 | int(b[8])<<8 | int(b[9])
	t := time.Date(year, month, day, int(b[4]), int(b[5]), int(b[6]), micro*1000, time.UTC)
	// time.Date carries what is out of range into the next field.
	same := t.Year() == year && t.Month() == month && t.Day() == day && t.Hour() == int(b[4]) &&
		t.Minute() == int(b[5]) && t.Second() == int(b[6]) && t.Nanosecond() == micro*1000 && year >= 1
	return t, same
}

// timezone decodes a datetime.timezone without a name, or a reference to one:
//
//	{"py/reduce": [{"py/type": "datetime.timezone"}, {"py/tuple": [TIMEDELTA]}]}
//	{"py/reduce": [{"py/type": "datetime.timedelta"}, {"py/tuple": [days, seconds, microseconds]}]}
//
// These two are the only calls that are understood; each has a number.
func (d *decoder) timezone(raw any) (offset, error) {
	if o, ok := raw.(*rawObject); ok && len(o.members) == 1 && o.members[0].Key == tagID {
		id, ok := o.members[0].Value.(int64)
		if !ok {
			return 0, fmt.Errorf("%w: the value of %s", ErrMalformed, tagID)
		}
		target, err := d.lookup(id)
		if err != nil {
			return 0, err
		}
		if east, ok := target.value.(offset); ok {
			return east, nil
		}
		return 0, fmt.Errorf("%w: %s %d is no time zone", ErrReference, tagID, id)
	}
	number := d.enter()
	args, ok := call(raw, classTimezone)
	if !ok || len(args) != 1 {
		return 0, fmt.Errorf("%w: a time zone that is no %s", ErrRefused, classTimezone)
	}
	d.enter()
	delta, ok := call(args[0], classTimedelta)
	var n [3]int64
	for i := range n {
		if ok = ok && len(delta) == len(n); ok {
			n[i], ok = delta[i].(int64)
		}
	}
	const day = 24 * 60 * 60
	if !ok || n[0] < -1 || n[0] > 0 || n[1] < 0 || n[1] >= day || n[2] != 0 {
		return 0, fmt.Errorf("%w: a %s", ErrMalformed, classTimezone)
	}
	east := offset(n[0]*day + n[1])
	d.objects[number].value = east
	return east, nil
}

// call takes {"py/reduce": [{"py/type": class}, {"py/tuple": args}]} apart. Old
// versions of jsonpickle add nulls at the end.
func call(raw any, class string) (rawArray, bool) {
	o, ok := raw.(*rawObject)
	if !ok || len(o.members) != 1 {
		return nil, false
	}
	raw, _ = o.get(tagReduce)
	reduce, _ := raw.(rawArray)
	if len(reduce) < 2 || !isType(reduce[0], class) {
		return nil, false
	}
	for _, more := range reduce[2:] {
		if more != nil {
			return nil, false
		}
	}
	tuple, ok := reduce[1].(*rawObject)
	if !ok || len(tuple.members) != 1 {
		return nil, false
	}
	raw, _ = tuple.get(tagTuple)
	args, ok := raw.(rawArray)
	return args, ok
}

func isType(raw any, class string) bool {
	o, ok := raw.(*rawObject)
	if !ok || len(o.members) != 1 {
		return false
	}
	name, _ := o.get(tagType)
	return name == class
}
