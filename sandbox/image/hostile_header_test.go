package image_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

// header is a block of a tar in which anything can stand.
type header struct {
	kind         byte
	name, link   string
	size, mtime  string // as they stand there; octal by default
	uid          string
	sparseLength string // of GNU's old sparse files
}

func (h header) block() []byte {
	b := make([]byte, 512)
	put := func(at, width int, s, otherwise string) {
		if s == "" {
			s = otherwise
		}
		copy(b[at:at+width], s)
	}
	put(0, 100, h.name, "")
	put(100, 8, "0000644", "")
	put(108, 8, h.uid, "0000000")
	put(116, 8, "0000000", "")
	put(124, 12, h.size, "00000000000")
	put(136, 12, h.mtime, "00000000000")
	b[156] = h.kind
	put(157, 100, h.link, "")
	put(257, 8, "ustar\x0000", "")
	if h.sparseLength != "" {
		put(257, 8, "ustar  \x00", "")
		put(386, 24, strings.Repeat("00000000000\x00", 2), "")
		put(483, 12, h.sparseLength, "")
	}
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// blocks pads data to whole blocks.
func blocks(data string) []byte {
	return append([]byte(data), make([]byte, (512-len(data)%512)%512)...)
}

// raw is an entry of headers and bodies as they are.
func raw(parts ...[]byte) imagetest.Entry { return imagetest.Entry{Raw: bytes.Join(parts, nil)} }

func octal(n int) string { return fmt.Sprintf("%011o", n) }

// pax is a PAX header of kind x or g: records are KEY=VALUE, as wrong as they like.
func pax(kind byte, records ...string) []byte {
	body := ""
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprintf("%d %s\n", n, r)) != n {
			n++
		}
		body += fmt.Sprintf("%d %s\n", n, r)
	}
	return append(header{kind: kind, name: "PaxHeader", size: octal(len(body))}.block(), blocks(body)...)
}

// gnuLong is GNU's header for a long name (L) or link (K).
func gnuLong(kind byte, value string) []byte {
	return append(header{kind: kind, name: "././@LongLink", size: octal(len(value) + 1)}.block(), blocks(value+"\x00")...)
}

func file(name string) []byte { return header{kind: '0', name: name}.block() }

// negative is a number below zero in base 256.
func negative(width int) string { return strings.Repeat("\xff", width) }

// hostileHeaders say with the extensions of tar what plain headers may not, or
// what no program writes.
func hostileHeaders(victim string) []hostileLayer {
	one := func(parts ...[]byte) imagetest.Layer { return imagetest.Layer{raw(parts...)} }
	holds := func(name string) func(*testing.T, string) {
		return func(t *testing.T, layer string) {
			if _, err := os.Lstat(filepath.Join(layer, name)); err != nil {
				t.Errorf("not contained: %v", err)
			}
		}
	}
	atEpoch := func(t *testing.T, layer string) {
		if info, err := os.Lstat(filepath.Join(layer, "f")); err != nil || info.ModTime().Unix() != 0 {
			t.Errorf("%v, %v", info, err)
		}
	}
	smuggled := file("../evil")
	return []hostileLayer{
		{name: "PAX path upwards", entries: one(pax('x', "path=../evil"), file("f")), want: image.ErrHostile, text: "../evil"},
		{name: "PAX path absolute", entries: one(pax('x', "path="+victim+"/evil"), file("f")), check: holds(victim + "/evil")},
		{name: "PAX path with a NUL", entries: one(pax('x', "path=a\x00b"), file("f")), want: image.ErrCorrupt},
		{name: "PAX link of a hard link", entries: one(file("f"), pax('x', "linkpath="+victim+"/file"), header{kind: '1', name: "h", link: "f"}.block()), want: image.ErrHostile, text: "hard link"},
		{name: "PAX link of a link then write through", entries: one(pax('x', "linkpath="+victim), header{kind: '2', name: "l", link: "d"}.block(), file("l/evil")), want: image.ErrHostile, text: "nowhere"},
		{name: "PAX link with a NUL", entries: one(pax('x', "linkpath=a\x00b"), header{kind: '2', name: "l", link: "d"}.block()), want: image.ErrCorrupt},
		{name: "PAX link that is endless", entries: one(pax('x', "linkpath="+strings.Repeat("l", 5000)), header{kind: '2', name: "l", link: "d"}.block()), want: image.ErrHostile, text: "target"},
		{name: "PAX size too large", entries: one(pax('x', "size=1099511627776"), file("f")), want: image.ErrTooLarge, text: "bytes"},
		{name: "PAX size below zero", entries: one(pax('x', "size=-1"), file("f")), want: image.ErrCorrupt},
		{name: "PAX size that makes an entry of a body", entries: one(pax('x', "size=0"), header{kind: '0', name: "f", size: octal(512)}.block(), smuggled), want: image.ErrHostile, text: "../evil"},
		{name: "PAX owner out of range", entries: one(pax('x', "uid=70000"), file("f")), want: image.ErrUnsupported, text: "70000"},
		{name: "PAX owner below zero", entries: one(pax('x', "uid=-1"), file("f")), want: image.ErrUnsupported, text: "-1"},
		{name: "PAX time below zero", entries: one(pax('x', "mtime=-1.5"), file("f")), check: atEpoch},
		{name: "PAX time far away", entries: one(pax('x', "mtime=99999999999999"), file("f")), check: atEpoch},
		{name: "PAX for all that follows", entries: one(pax('g', "path=../evil", "uid=70000"), file("f")), check: holds("f")},
		{name: "PAX record with a false length", entries: one(append(header{kind: 'x', name: "p", size: octal(9)}.block(), blocks("99 path=a")...), file("f")), want: image.ErrCorrupt},
		{name: "PAX for nothing", entries: one(file("f"), pax('x', "path=../evil")), check: holds("f")},
		{name: "two PAX headers", entries: one(pax('x', "path=g"), pax('x', "path=../evil"), file("f")), want: image.ErrHostile, text: "../evil"},
		{name: "GNU name upwards", entries: one(gnuLong('L', "../evil"), file("f")), want: image.ErrHostile, text: "../evil"},
		{name: "GNU name and PAX path", entries: one(gnuLong('L', "good"), pax('x', "path=../evil"), file("f")), check: holds("good")},
		{name: "GNU name that is endless", entries: one(gnuLong('L', strings.Repeat("n", 2<<20)), file("f")), want: image.ErrCorrupt},
		{name: "GNU link of a hard link", entries: one(file("f"), gnuLong('K', victim+"/file"), header{kind: '1', name: "h", link: "f"}.block()), want: image.ErrHostile, text: "hard link"},
		{name: "GNU sparse name upwards", entries: one(pax('x', "GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.name=../evil", "GNU.sparse.size=0", "GNU.sparse.numblocks=0", "GNU.sparse.map="), file("f")), want: image.ErrHostile, text: "../evil"},
		{name: "GNU sparse file too large", entries: one(pax('x', "GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.name=huge", "GNU.sparse.size=1099511627776", "GNU.sparse.numblocks=1", "GNU.sparse.map=0,0"), file("f")), want: image.ErrTooLarge, text: "huge"},
		{name: "old GNU sparse file too large", entries: one(header{kind: 'S', name: "huge", sparseLength: "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00"}.block()), want: image.ErrTooLarge, text: "huge"},
		{name: "size below zero", entries: one(header{kind: '0', name: "f", size: negative(12)}.block()), want: image.ErrCorrupt},
		{name: "size beyond numbers", entries: one(header{kind: '0', name: "f", size: "\x80" + strings.Repeat("\xff", 11)}.block()), want: image.ErrCorrupt},
		{name: "owner below zero", entries: one(header{kind: '0', name: "f", uid: negative(8)}.block()), want: image.ErrUnsupported, text: "-1"},
		{name: "time below zero", entries: one(header{kind: '0', name: "f", mtime: negative(12)}.block()), check: atEpoch},
		{name: "link without a target", entries: one(header{kind: '2', name: "l"}.block()), want: image.ErrHostile, text: "target"},
		{name: "hard link without a target", entries: one(header{kind: '1', name: "h"}.block()), want: image.ErrHostile, text: "hard link"},
		{name: "hard link to proc", entries: imagetest.Layer{hard("h", "/proc/self/exe")}, want: image.ErrHostile, text: "hard link"},
		{name: "hard link to itself", entries: imagetest.Layer{hard("h", "h")}, want: image.ErrHostile, text: "hard link"},
		{name: "volume of a multi-volume tar", entries: one(header{kind: 'M', name: "f"}.block()), want: image.ErrUnsupported, text: "unknown type"},
		{name: "no name", entries: one(file("")), want: image.ErrHostile, text: "root"},
		{name: "newline in a name", entries: imagetest.Layer{reg("a\nb", "x")}, check: holds("a\nb")},
		{name: "newline in a refused name", entries: imagetest.Layer{reg("../a\nb", "x")}, want: image.ErrHostile, text: "upwards"},
		{name: "bytes that are no text", entries: one(file("a\xff\xfe")), check: holds("a\xff\xfe")},
		{name: "backslashes", entries: imagetest.Layer{reg(`..\evil`, "x")}, check: holds(`..\evil`)},
		{name: "dots and slashes", entries: imagetest.Layer{reg("/.//a/././b", "x")}, check: holds("a/b")},
		{name: "whiteout upwards", entries: imagetest.Layer{reg("../.wh.file", "")}, want: image.ErrHostile, text: "upwards"},
		{name: "whiteout of an absolute name", entries: imagetest.Layer{reg(victim+"/.wh.file", "")}, check: holds(victim + "/file")},
		{name: "whiteout that is a link", entries: imagetest.Layer{link("d/.wh.file", victim)}, check: holds("d/file")},
		{name: "whiteout with a long name", entries: imagetest.Layer{reg(".wh."+strings.Repeat("n", 252), "")}, want: image.ErrHostile, text: "256"},
		{name: "opaque upwards", entries: imagetest.Layer{reg("../.wh..wh..opq", "")}, want: image.ErrHostile, text: "upwards"},
		{name: "whiteout by attributes", entries: imagetest.Layer{xattrs(reg("f", ""), map[string]string{
			"user.overlay.whiteout": "y", "user.overlay.metacopy": "x", "trusted.overlay.whiteout": "y",
			"security.ima": "x", "security.selinux": "x", "security.evm": "x",
		})}, check: func(t *testing.T, layer string) {
			if names := listXattrs(t, filepath.Join(layer, "f")); len(names) != 0 {
				t.Errorf("attributes kept: %v", names)
			}
		}},
		// A program that runs as root for whoever starts it is a container's own
		// business; nobody on the host can reach it.
		{name: "setuid file", entries: imagetest.Layer{imagetest.File("su", 0o6755, "x")}, check: func(t *testing.T, layer string) {
			cmd := exec.Command("/bin/stat", filepath.Join(layer, "su"))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
				t.Errorf("anybody reaches it: %v: %s", err, out)
			}
		}},
	}
}
