package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/config"
)

const supportLong = `Write what somebody who helps from afar needs to know, as a tar.gz: versions, the
configuration and the policy, the daemon's status and findings, the newest jobs without
their documents and arguments, the ends of the audit log and of the journal, and what
kind of machine this is. Passwords, tokens and keys are masked; names of users, images
and files are not, so read it before you send it. What could not be had is noted in
MANIFEST. As root there is more in it. FILE - writes to stdout.`

// maxPiece bounds one file of a bundle: of what is longer the end is kept.
const maxPiece = 4 << 20

func (a *app) supportCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "support FILE|-",
		Short:   "Write a bundle of facts for somebody who helps",
		Long:    supportLong,
		Example: "  girder-worker support /tmp/girder-worker.tar.gz",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && isTerminal(a.Stdout) {
				return errors.New("cannot write a bundle to a terminal; send stdout to a file or name one")
			}
			var b bytes.Buffer
			if err := a.writeSupport(cmd.Context(), &b, file); err != nil {
				return cannot("make the bundle", err)
			}
			if args[0] == "-" {
				_, err := a.Stdout.Write(b.Bytes())
				return err
			}
			// Readable by its owner alone, and not written through what lies there.
			f, err := os.CreateTemp(filepath.Dir(args[0]), ".girder-worker-support-*")
			if err != nil {
				return cannot("write the bundle", err)
			}
			_, err = f.Write(b.Bytes())
			if err = errors.Join(err, f.Close()); err == nil {
				err = os.Rename(f.Name(), args[0])
			}
			if err != nil {
				return cannot("write the bundle", errors.Join(err, os.Remove(f.Name())))
			}
			_, err = fmt.Fprintf(a.Stderr, "%s: %s; read it before you send it\n", args[0], size(int64(b.Len())))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `file`")
	return cmd
}

// A bundle collects files, each without its secrets.
type bundle struct {
	tar      *tar.Writer
	now      time.Time
	scrub    func([]byte) []byte
	manifest strings.Builder
}

func (b *bundle) add(name string, data []byte, err error) error {
	if err != nil {
		fmt.Fprintf(&b.manifest, "%s: %s\n", name, b.scrub([]byte(err.Error())))
	}
	if len(data) == 0 {
		if err == nil {
			fmt.Fprintf(&b.manifest, "%s: nothing\n", name)
		}
		return nil
	}
	if len(data) > maxPiece {
		data = data[len(data)-maxPiece:]
		_, data, _ = bytes.Cut(data, []byte("\n")) // whole lines
	}
	data = b.scrub(data)
	h := &tar.Header{Name: "girder-worker-support/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: b.now, Typeflag: tar.TypeReg}
	if err := b.tar.WriteHeader(h); err != nil {
		return err
	}
	if _, err := b.tar.Write(data); err != nil {
		return err
	}
	if err == nil {
		fmt.Fprintf(&b.manifest, "%s: %d bytes\n", name, len(data))
	}
	return nil
}

func (a *app) writeSupport(ctx context.Context, w io.Writer, file string) error {
	s := config.Sources{File: file, Environ: os.Environ()}
	if s.File == "" {
		s.File, _ = a.LookupEnv("GIRDER_WORKER_CONFIG")
	}
	options, optionsErr := config.Options(s)
	z := gzip.NewWriter(w)
	b := &bundle{tar: tar.NewWriter(z), now: time.Now(), scrub: scrubber(options, s.Environ)}

	var asConfig []string
	if s.File != "" {
		asConfig = []string{"--config", s.File}
	}
	type piece struct {
		name string
		data []byte
		err  error
	}
	var pieces []piece
	own := func(name string, args ...string) {
		data, err := a.ownOutput(ctx, args...)
		pieces = append(pieces, piece{name, data, err})
	}
	read := func(name, path string) {
		data, err := readTail(path)
		pieces = append(pieces, piece{name, data, err})
	}
	own("version.json", "version", "--json")
	own("config.txt", append([]string{"config", "list"}, asConfig...)...)
	own("config.json", append([]string{"config", "list", "--json"}, asConfig...)...)
	c, _, err := config.Load(s)
	if err != nil {
		c = config.Default()
		pieces = append(pieces, piece{"config", nil, errors.Join(err, optionsErr)})
	}
	read("policy.toml", c.PolicyFile)
	own("status.json", "status", "--json")
	own("status.txt", "status")
	own("images.json", "images", "ls", "--json")
	pieces = append(pieces, piece{name: "jobs.json"})
	jobs := &pieces[len(pieces)-1]
	jobs.data, jobs.err = a.recentJobs(ctx)
	if sub, _, err := a.root().Find([]string{"doctor"}); err == nil && sub.Name() == "doctor" {
		own("doctor.txt", "doctor")
	}
	read("audit.jsonl", c.AuditPath())
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	journal, err := exec.CommandContext(bounded, "journalctl", "--no-pager", "--quiet", "-o", "short-iso", "-n", "5000", "-u", "girder-worker").Output()
	cancel()
	pieces = append(pieces, piece{"journal.txt", journal, err})
	for _, path := range []string{
		"/etc/os-release", "/proc/version", "/proc/meminfo", "/proc/loadavg", "/proc/cgroups", "/proc/self/mountinfo",
		"/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io",
	} {
		read("machine/"+strings.ReplaceAll(path[1:], "/", "-"), path)
	}
	for _, p := range pieces {
		if err := b.add(p.name, p.data, p.err); err != nil {
			return err
		}
	}
	fmt.Fprintf(&b.manifest, "made at %s by user %d\n", b.now.UTC().Format(time.RFC3339), os.Getuid())
	if err := b.add("MANIFEST", []byte(b.manifest.String()), nil); err != nil {
		return err
	}
	return errors.Join(b.tar.Close(), z.Close())
}

// ownOutput is what a command of this program says, on both streams.
func (a *app) ownOutput(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out bytes.Buffer
	p := a.Process
	p.Stdin, p.Stdout, p.Stderr = strings.NewReader(""), &out, &out
	if a.socket != "" {
		args = append([]string{"--socket", a.socket}, args...)
	}
	sub := &app{Process: p}
	root := sub.root()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	var err error
	if code := sub.exitCode(root.ExecuteContext(ctx)); code != exitOK {
		err = fmt.Errorf("exit code %d: %s", code, lastLine(out.Bytes()))
	}
	return out.Bytes(), err
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// recentJobs are the newest jobs, without what their submitters wrote into them.
func (a *app) recentJobs(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	jobs, _, err := a.listJobs(ctx, nil, 500)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		jobs[i].Document, jobs[i].Detail, jobs[i].Progress = nil, nil, (*apitype.Progress)(nil)
	}
	var out bytes.Buffer
	err = (&app{Process: Process{Stdout: &out}}).printJSON(jobs)
	return out.Bytes(), err
}

// readTail is the end of a file.
func readTail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxPiece {
		if _, err := f.Seek(-maxPiece, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, maxPiece))
}

var (
	// secretField is a name and a value of which the name says what it is.
	secretField = regexp.MustCompile(`(?i)([\w-]*(?:passw|secret|token|api[_-]?key|authorization|credential)[\w-]*\\?"?\s*[:=]\s*)(\\?"(?:[^"\\]|\\.)*"|(?:bearer |basic )?[^\s,;}]+)`)
	// longWord may be a token of Girder's, which has 64 letters and digits.
	longWord = regexp.MustCompile(`\b[A-Za-z0-9]{64}\b`)
	hex      = regexp.MustCompile(`^[0-9a-f]+$`)
)

// scrubber masks the passwords that the configuration has, wherever they are,
// and what looks like one.
func scrubber(options []config.Option, environ []string) func([]byte) []byte {
	var known []string
	for _, o := range options {
		known = append(known, passwords(o.Name, o.Raw)...)
		known = append(known, passwords(o.Name, o.Value)...)
	}
	for _, kv := range environ {
		if name, value, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "GIRDER_WORKER_") || strings.HasPrefix(name, "RABBITMQ_") {
			known = append(known, passwords(name, value)...)
		}
	}
	return func(data []byte) []byte {
		text := string(data)
		for _, secret := range known {
			text = strings.ReplaceAll(text, secret, "***")
			if quoted := strconv.Quote(secret); quoted[1:len(quoted)-1] != secret {
				text = strings.ReplaceAll(text, quoted[1:len(quoted)-1], "***")
			}
		}
		text = config.MaskURLs(text)
		text = secretField.ReplaceAllStringFunc(text, func(m string) string {
			parts := secretField.FindStringSubmatch(m)
			if quote := strings.TrimPrefix(parts[2], `\`); strings.HasPrefix(quote, `"`) {
				mark := parts[2][:len(parts[2])-len(quote)+1]
				return parts[1] + mark + "***" + mark
			}
			return parts[1] + "***"
		})
		return []byte(longWord.ReplaceAllStringFunc(text, func(m string) string {
			if hex.MatchString(m) {
				return m // a digest
			}
			return "***"
		}))
	}
}

// passwords are what is masked in the value of an option. Very short ones are
// left to the places where they are recognised: elsewhere they are words.
func passwords(name, value string) (found []string) {
	masked := config.Masked(name, value)
	if masked == value {
		return nil
	}
	rest := value
	pieces := strings.Split(masked, "***")
	for i, piece := range pieces {
		at := strings.Index(rest, piece)
		if i == len(pieces)-1 && piece == "" {
			at = len(rest)
		}
		if at < 0 {
			return found
		}
		if secret := rest[:at]; i > 0 && len(secret) >= 6 {
			found = append(found, secret)
		}
		rest = rest[at+len(piece):]
	}
	return found
}
