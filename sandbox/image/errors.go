package image

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// What the store can blame on its input or on the machine. The text of an error
// that wraps one is a line for a person.
var (
	// ErrNotFound: no image of that name or id that this user may see.
	ErrNotFound = errors.New("no such image")
	// ErrName: the text cannot be the name of an image.
	ErrName = errors.New("invalid image name")
	// ErrCorrupt: the archive, or what the store kept, is not what its digests
	// say, or it ends too early.
	ErrCorrupt = errors.New("image is damaged")
	// ErrTooLarge: a limit of [Limits] was passed.
	ErrTooLarge = errors.New("image is too large")
	// ErrUnsupported: not an image, or one that this machine cannot run.
	ErrUnsupported = errors.New("image is not supported")
	// ErrHostile: the image tries what no honest image does.
	ErrHostile = errors.New("image is not safe")
	// ErrNoSpace: the file system or a quota is full.
	ErrNoSpace = errors.New("no space left for the image")
	// ErrUnsigned: a signature was promised, and none of the keys made it.
	ErrUnsigned = errors.New("signature does not hold")
	// ErrQuota: the store may not grow so far. It is an [ErrNoSpace], too.
	ErrQuota = fmt.Errorf("%w: its quota is used up", ErrNoSpace)
	// ErrPinned: the image is to stay as it is until it is unpinned.
	ErrPinned = errors.New("image is pinned")
	// ErrReadOnly: the store was opened for reading.
	ErrReadOnly = errors.New("image store is open for reading only")
)

// kinds are the errors that can cross from the confined child, by the word that
// stands for them.
var kinds = map[string]error{
	"corrupt":     ErrCorrupt,
	"too-large":   ErrTooLarge,
	"unsupported": ErrUnsupported,
	"hostile":     ErrHostile,
	"no-space":    ErrNoSpace,
	"name":        ErrName,
	"unsigned":    ErrUnsigned,
}

// refusal is an error on its way out of the confined child. Text leaves out the
// sentinel's own words.
type refusal struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// blamed is an error with a sentinel and its own text.
type blamed struct {
	kind error
	text string
}

func (b *blamed) Error() string { return b.kind.Error() + ": " + b.text }
func (b *blamed) Unwrap() error { return b.kind }

func blame(kind error, format string, args ...any) error {
	return &blamed{kind, fmt.Sprintf(format, args...)}
}

// noSpace turns the errors of a full disk into [ErrNoSpace], others stay.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return blame(ErrNoSpace, "free some with `images prune`, or give the state directory more (%v)", err)
	}
	return err
}

func refuse(err error) *refusal {
	err = noSpace(err)
	var b *blamed
	if errors.As(err, &b) {
		for word, kind := range kinds {
			if kind == b.kind {
				return &refusal{Kind: word, Text: b.text}
			}
		}
	}
	return &refusal{Text: err.Error()}
}

// maxRefusal bounds the text of a refusal in bytes.
const maxRefusal = 2 << 10

// err makes the error again, in the process that does not trust the text.
func (r *refusal) err() error {
	text := printable(r.Text)
	if kind, ok := kinds[r.Kind]; ok {
		return &blamed{kind, text}
	}
	return errors.New(text)
}

// printable cuts text to a sane length and replaces what could confuse a
// terminal or a log.
func printable(text string) string {
	if len(text) > maxRefusal {
		text = text[:maxRefusal] + "…"
	}
	out := make([]rune, 0, len(text))
	for _, c := range text {
		if c < ' ' || c == 0x7f || c == 0xfffd || c > 0x7f && c < 0xa0 {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
