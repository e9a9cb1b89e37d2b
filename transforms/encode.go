package transforms

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

// AppendJSON appends the canonical form of the document: fixed order of
// fields, sorted variables, one spelling of every size, time and duration, and
// nothing that is not named. Two documents that mean the same have the same
// canonical form, which [ParseJobFile] reads back to an equal JobFile.
func (f *JobFile) AppendJSON(b []byte) []byte {
	w := writer{b: append(b, '{')}
	w.text("id", f.ID)
	w.text("name", f.Name)
	w.text("task", f.Task)
	w.text("image", f.Image)
	w.text("pull", string(f.Pull))
	w.texts("entrypoint", f.Entrypoint)
	w.texts("args", f.Args)
	w.object("env", f.Env)
	w.text("workdir", f.WorkDir)
	w.text("user", f.User)
	w.text("hostname", f.Hostname)
	w.text("network", string(f.Network))
	if len(f.ExtraHosts) > 0 {
		w.open("extra_hosts", '{')
		for _, h := range f.ExtraHosts {
			w.text(h.Name, h.Address)
		}
		w.close('}')
	}
	w.texts("dns", nonEmpty(f.DNS))
	w.flag("read_only", f.ReadOnly)
	w.mounts(f)
	w.streams(f)
	w.girder(f)
	if f.Resources != (Resources{}) {
		w.open("resources", '{')
		if f.Resources.CPUs != 0 {
			w.key("cpus")
			w.b = strconv.AppendFloat(w.b, f.Resources.CPUs, 'f', -1, 64)
		}
		w.number("memory", f.Resources.Memory)
		w.number("gpus", int64(f.Resources.GPUs))
		w.text("gpu_devices", f.Resources.Devices)
		w.number("pids", f.Resources.PIDs)
		w.number("shm", f.Resources.Shm)
		w.number("scratch", f.Resources.Scratch)
		w.number("log", f.Resources.Log)
		w.number("swap", f.Resources.Swap)
		w.number("memory_reservation", f.Resources.Reservation)
		w.text("cpuset", f.Resources.CPUSet)
		w.text("cpuset_mems", f.Resources.MemorySet)
		w.number("cpu_shares", f.Resources.CPUShares)
		w.close('}')
	}
	w.options(&f.Options)
	w.number("priority", int64(f.Priority))
	w.texts("after", nonEmpty(f.After))
	w.texts("after_any", nonEmpty(f.AfterAny))
	w.instant("not_before", f.NotBefore)
	w.instant("expires", f.Expires)
	w.duration("timeout", f.Timeout)
	w.duration("soft_timeout", f.SoftTimeout)
	w.duration("idle_timeout", f.IdleTimeout)
	if f.Retries != (Retries{}) {
		w.open("retries", '{')
		w.number("max", int64(f.Retries.Max))
		w.duration("delay", f.Retries.Delay)
		w.flag("fail_interrupted", f.Retries.FailInterrupted)
		w.close('}')
	}
	w.python(f.Python)
	w.texts("command", nonEmpty(f.Command))
	w.text("hold", f.Hold)
	w.number("stop_signal", int64(f.StopSignal))
	w.duration("stop_grace", f.StopGrace)
	return append(w.b, '}')
}

// MarshalJSON is the canonical form.
func (f *JobFile) MarshalJSON() ([]byte, error) { return f.AppendJSON(nil), nil }

func (f *JobFile) sortedEnv() []string { return slices.Sorted(maps.Keys(f.Env)) }

func nonEmpty(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

// A writer appends members of objects and leaves out zero values.
type writer struct {
	b []byte
}

func (w *writer) comma() {
	if last := w.b[len(w.b)-1]; last != '{' && last != '[' {
		w.b = append(w.b, ',')
	}
}

func (w *writer) key(key string) {
	w.comma()
	w.b = append(appendString(w.b, key), ':')
}

func (w *writer) open(key string, bracket byte) {
	w.key(key)
	w.b = append(w.b, bracket)
}

func (w *writer) element(bracket byte) {
	w.comma()
	w.b = append(w.b, bracket)
}

func (w *writer) close(bracket byte) { w.b = append(w.b, bracket) }

func (w *writer) text(key, value string) {
	if value != "" {
		w.key(key)
		w.b = appendString(w.b, value)
	}
}

// texts leaves out nil, not the empty list.
func (w *writer) texts(key string, values []string) {
	if values == nil {
		return
	}
	w.open(key, '[')
	for i, value := range values {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = appendString(w.b, value)
	}
	w.close(']')
}

// list writes a list of objects, each filled by member.
func list[T any](w *writer, key string, all []T, member func(*T)) {
	if len(all) == 0 {
		return
	}
	w.open(key, '[')
	for i := range all {
		w.element('{')
		member(&all[i])
		w.close('}')
	}
	w.close(']')
}

// object writes texts by name, sorted.
func (w *writer) object(key string, texts map[string]string) {
	if len(texts) == 0 {
		return
	}
	w.open(key, '{')
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		w.key(name)
		w.b = appendString(w.b, texts[name])
	}
	w.close('}')
}

func (w *writer) flag(key string, value bool) {
	if value {
		w.key(key)
		w.b = append(w.b, "true"...)
	}
}

func (w *writer) number(key string, value int64) {
	if value != 0 {
		w.key(key)
		w.b = strconv.AppendInt(w.b, value, 10)
	}
}

func (w *writer) duration(key string, value time.Duration) {
	if value != 0 {
		w.key(key)
		w.b = appendString(w.b, value.String())
	}
}

func (w *writer) instant(key string, value time.Time) {
	if !value.IsZero() {
		w.key(key)
		w.b = append(w.b, '"')
		w.b = value.UTC().AppendFormat(w.b, time.RFC3339Nano)
		w.b = append(w.b, '"')
	}
}

// appendString quotes s with as few escapes as JSON allows, so that the
// canonical form of a text is never longer than what was sent.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\f':
			b = append(b, '\\', 'f')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}
