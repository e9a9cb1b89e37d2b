package jobsync

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"girderworker/daemon/attempt"

	"pgregory.net/rapid"
)

// TestPieces: however output falls into records, and however much of it is there
// when somebody looks, the pieces are the mended whole, each short enough, and no
// character is torn.
func TestPieces(t *testing.T) {
	base := t.TempDir()
	must(t, os.Mkdir(filepath.Join(base, "jobs"), 0o755))
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir, err := attempt.NewDir(base, fmt.Sprint("j", n), 1)
		must(t, err)
		must(t, dir.Create(os.Getgid()))
		log := dir.NewLogWriter(1<<30, os.Getgid())
		var whole, got strings.Builder
		at := cursor{Attempt: 1}
		read := func(ended bool) {
			for {
				p, err := readPiece(dir, at, ended)
				must(t, err)
				if p.text == "" {
					return
				}
				if len(p.text) > pieceSize || !utf8.ValidString(p.text) {
					t.Fatalf("a piece of %d bytes, valid %t", len(p.text), utf8.ValidString(p.text))
				}
				got.WriteString(p.text)
				at = p.next
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "records") {
			unit := rapid.SampledFrom([]string{"a", "é", "€", "𝄞", "\xff", "\xe2\x82", "\x00", "\xf0\x9d\x84", "line\n"}).Draw(t, "unit")
			data := strings.Repeat(unit, rapid.SampledFrom([]int{1, 2, 1000, 30000, 66000}).Draw(t, "times"))
			cut := rapid.IntRange(0, min(len(data), 4)).Draw(t, "cut") // the end of a character may come later
			whole.WriteString(data)
			log.Append(attempt.LogStdout, time.Now(), []byte(data[:len(data)-cut]))
			log.Flush()
			if rapid.Bool().Draw(t, "look") {
				read(false)
			}
			log.Append(attempt.LogStderr, time.Now(), []byte(data[len(data)-cut:]))
			log.Flush()
		}
		_, _, err = log.Close()
		must(t, err)
		read(false)
		read(true)
		want := string([]rune(whole.String())) // each bad byte becomes U+FFFD
		if got.String() != want {
			t.Fatalf("%d bytes of text instead of %d", got.Len(), len(want))
		}
	})
}

func TestFound(t *testing.T) {
	mine := func(text string) *intent { return &intent{Length: len(text), Hash: hashOf(text)} }
	hashes := func(texts ...string) (h []string) {
		for _, t := range texts {
			h = append(h, hashOf(t))
		}
		return h
	}
	for name, c := range map[string]struct {
		log, recent []string
		sent        int
		text        string
		yes, known  bool
	}{
		"first, not there":          {nil, nil, 0, "a", false, true},
		"first, there":              {[]string{"a"}, nil, 0, "a", true, true},
		"next, there":               {[]string{"a", "b"}, hashes("a"), 1, "b", true, true},
		"next, not there":           {[]string{"a"}, hashes("a"), 1, "b", false, true},
		"alike, there":              {[]string{"a", "a"}, hashes("a"), 1, "a", true, true},
		"alike, not there":          {[]string{"a"}, hashes("a"), 1, "a", false, true},
		"alike and trimmed":         {[]string{"a", "a"}, hashes("a", "a", "a"), 3, "a", false, false},
		"somebody else behind":      {[]string{"a", "b", "x"}, hashes("a"), 1, "b", true, true},
		"somebody else, not there":  {[]string{"a", "x"}, hashes("a"), 1, "b", false, true},
		"trimmed to this":           {[]string{"b"}, hashes("a"), 1, "b", true, true},
		"overwritten":               {[]string{"x"}, hashes("a"), 1, "b", false, false},
		"of an old run, to be sent": {[]string{"x"}, nil, 0, "b", false, true},
	} {
		yes, known := found(c.log, c.recent, c.sent, mine(c.text))
		if yes != c.yes || known != c.known {
			t.Errorf("%s: %t, known %t", name, yes, known)
		}
	}
}

// TestFlood: 64 MiB of output of a job that ends at once, with answers lost.
func TestFlood(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() || raced {
		size = 8 << 20
	}
	r := newRigLimit(t, 4<<20)
	sums := [2]hash.Hash{sha256.New(), sha256.New()}
	var got int64
	calls := 0
	r.during(func(w http.ResponseWriter, req *http.Request, form url.Values, next http.Handler) {
		if text := form.Get("log"); text != "" {
			calls++
			if len(text) > pieceSize {
				t.Errorf("a piece of %d bytes", len(text))
			}
			got += int64(len(text))
			sums[1].Write([]byte(text))
			if calls%64 != 0 {
				next.ServeHTTP(w, req)
				return
			}
			next.ServeHTTP(discard{http.Header{}}, req)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, req)
	})
	r.begin()
	j := r.submit("j", celeryHandler)
	r.claim(j)
	j.start()
	line := strings.Repeat("0123456789abcdef", 16)
	for n := int64(0); n < size; {
		text := fmt.Sprintf("%d %s\n", n, line)
		sums[0].Write([]byte(text))
		j.log.Append(attempt.LogStdout, time.Now(), []byte(text))
		n += int64(len(text))
	}
	j.log.Flush()
	j.succeed()
	r.clock.leap() // and not before: a running job is asked about again and again
	r.told()
	if a, b := hex.EncodeToString(sums[0].Sum(nil)), hex.EncodeToString(sums[1].Sum(nil)); a != b || got < size {
		t.Errorf("%d bytes with another hash arrived", got)
	}
	if st := r.syncer.Stats(); st.Duplicates != 0 || st.LogBytes != uint64(got) {
		t.Errorf("stats %+v", st)
	}
	if n := len(r.girder.Calls("PUT /job/{id}")); n > int(size/pieceSize)+100 {
		t.Errorf("%d calls", n)
	}
}

// TestTooLong: a log that cannot be read cannot tell what arrived; the piece is
// sent again, and counted.
func TestTooLong(t *testing.T) {
	r := newRig(t)
	r.clock.leaps = true
	lost := false
	r.during(func(w http.ResponseWriter, req *http.Request, form url.Values, next http.Handler) {
		switch {
		case req.Method == http.MethodGet:
			for range 33 << 4 {
				w.Write(make([]byte, 64<<10))
			}
			return
		case form.Has("log") && !lost:
			lost = true
			next.ServeHTTP(discard{http.Header{}}, req)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, req)
	})
	r.begin()
	j := r.submit("j", celeryHandler)
	r.claim(j)
	j.start().write("once or twice\n").succeed()
	r.told()
	if st := r.syncer.Stats(); st.Duplicates != 1 || j.girderLog() != "once or twice\nonce or twice\n" {
		t.Errorf("stats %+v with %q", st, j.girderLog())
	}
}

// TestDamagedLog: what is left of a log is sent, and the end is told.
func TestDamagedLog(t *testing.T) {
	r := newRig(t)
	r.clock.leaps = true
	r.begin()
	j := r.submit("j", celeryHandler)
	r.claim(j)
	j.start().write("good\n")
	r.until("it is sent", func() bool { return j.girderLog() != "" })
	path := filepath.Join(j.dir.Path(), "log")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.Write([]byte(strings.Repeat("no frame ", 10000)))
	must(t, err)
	must(t, f.Close())
	j.log = nil // it is not closed: that would mend it
	j.succeed()
	r.told()
	if j.girderLog() != "good\n" || !strings.HasSuffix(j.statuses(), "2 3]") {
		t.Errorf("came to %s with %q", j.statuses(), j.girderLog())
	}
}
