package runner

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/fifo"
	"girderworker/transforms"
	"girderworker/transforms/girder"
)

// transferFD is where the transfer process finds its socket.
const transferFD = 3

// TransferMain is the sub-command "transfer", started by a runner with the
// identity of the job's submitter. It opens the submitter's files with the
// submitter's rights, and moves their data. It ends with its runner.
func TransferMain([]string) int {
	if err := transferMain(); err != nil {
		fmt.Fprintln(os.Stderr, "transfer:", err)
		return 1
	}
	return 0
}

func transferMain() error {
	if err := checkUnprivileged(); err != nil {
		return err
	}
	if err := unix.SetNonblock(transferFD, true); err != nil {
		return fmt.Errorf("this command is for a runner to start: %w", err)
	}
	unix.CloseOnExec(transferFD)
	unix.Umask(0o022)
	m := &mover{opener: newOpener(nil, nil), wire: newWire(os.NewFile(transferFD, "runner"))}
	return m.serve()
}

// mover is the transfer process.
type mover struct {
	wire   *wire
	sendMu sync.Mutex
	ends   []*end

	opener  *opener
	reach   *reach
	girders map[string]*girder.Client
	places  map[string]*tree // volumes, and binds that have a name

	moving   sync.WaitGroup
	received atomic.Bool // output came since the last look
}

// end is the host's end of one stream.
type end struct {
	transforms.Stream
	file     *os.File     // the submitter's, or a pipe into the job's log
	download *girder.File // of Girder, in place of a file
	client   *girder.Client
	headers  map[string]string // of an HTTP target
	slicer   *slicerProgress
	receiver *fifo.Receiver // of a pipe that the container writes
	sender   *fifo.Sender   // of one that it reads
	lines    *progressLines // of progress
}

// serve answers the runner until the container has ended and all is moved.
// A runner that is gone ends it.
func (m *mover) serve() error {
	life, ended := context.WithCancel(context.Background())
	defer ended()
	for {
		msg, with, err := m.wire.receive()
		if err != nil {
			// io.EOF: the runner has no use for us any more. Files that are half
			// written stay as they are, as with any program that is killed.
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		answer := message{Op: opOpened}
		var give *os.File
		switch msg.Op {
		case opRoots:
			m.opener = newOpener(msg.Roots, msg.Closed)
			if m.reach, err = newReach(msg.Reach); err != nil {
				return err
			}
			continue
		case opGirder:
			err = m.addServer(msg.Server, with)
		case opKeep:
			err = m.keep(life, msg.Server, with)
		case opVolume:
			give, answer.Made, err = m.volume(msg.Volume, msg.Path, with)
		case opFound:
			err = m.findVolume(msg.Made)
		case opRemove:
			err = m.removeVolume(msg.Made)
		case opBind:
			var f *found
			if f, err = m.openBind(msg.Bind); err == nil {
				give = f.File
			}
		case opFetch:
			answer.Path, give, err = m.fetch(life, msg.Fetch)
		case opHook:
			err = m.run(life, msg.Hook, msg.State)
		case opStream:
			var e *end
			if e, err = m.openStream(life, &msg, with); err == nil {
				m.ends = append(m.ends, e)
			}
		case opPipes:
			answer.Op = opReady
			err = m.connect(fifo.OpenDir(with), msg.Pipes)
		case opEnded:
			ended()
			m.moving.Wait()
			return m.say(message{Op: opFinished})
		default:
			return fmt.Errorf("unknown request %q", msg.Op)
		}
		if err != nil {
			answer.Error, answer.Away = clean(err.Error()), girder.Away(err)
		}
		m.sendMu.Lock()
		err2 := m.wire.send(answer, give)
		m.sendMu.Unlock()
		if err2 != nil {
			return err2
		}
		if give != nil {
			give.Close()
		}
		// Only now: what the streams have to say must not come before the answer.
		if msg.Op == opPipes && err == nil {
			m.start(life)
		}
	}
}

func (m *mover) say(msg message) error {
	m.sendMu.Lock()
	defer m.sendMu.Unlock()
	return m.wire.send(msg, nil)
}

// commit has the runner bring the state of a hook to the disk. Nobody else
// listens while a hook runs.
func (m *mover) commit(state []byte) error {
	if err := m.say(message{Op: opCommit, State: state}); err != nil {
		return err
	}
	answer, f, err := m.wire.receive()
	if f != nil {
		f.Close()
	}
	switch {
	case err != nil:
		return err
	case answer.Op != opDone:
		return fmt.Errorf("the runner answered %q to a commit", answer.Op)
	case answer.Error != "":
		return errors.New(answer.Error)
	}
	return nil
}

// openBind opens what is to appear in the container. O_PATH is all that a mount
// needs, and does nothing to a device or a named pipe.
func (m *mover) openBind(b *transforms.Bind) (*found, error) {
	f, err := m.opener.open(b.Source, !b.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s as a volume: %w", b.Source, reason(err))
	}
	if b.Name != "" {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, fmt.Errorf("cannot duplicate a descriptor: %w", err)
		}
		m.addPlace(b.Name, &tree{dir: os.NewFile(uintptr(fd), b.Source), name: b.Target, kept: true, readOnly: b.ReadOnly, source: b.Source})
	}
	return f, nil
}

// openStream opens a stream's end on the host. An output file is made if need
// be, and emptied later, when it is known to be nobody's input.
func (m *mover) openStream(ctx context.Context, msg *message, with *os.File) (*end, error) {
	s := *msg.Stream
	e := &end{Stream: s, headers: msg.Headers}
	var err error
	switch {
	case s.Kind == transforms.StreamProgress:
	case s.Log != "":
		if e.file = with; with == nil {
			return nil, fmt.Errorf("stream %s: no descriptor of the log came", s.Name)
		}
		if msg.Slicer {
			e.slicer = newSlicerProgress(e.file, m.tellProgress)
		}
	case s.Girder != nil:
		if e.client, err = m.client(s.Girder.Girder); err != nil {
			return nil, err
		}
		file, err := e.client.File(ctx, s.Girder.ID)
		if err != nil {
			return nil, fmt.Errorf("cannot read input %s from Girder: %w", s.Name, err)
		}
		e.download = &file
	case s.HTTP != nil:
	case s.Kind == transforms.StreamInput || s.Kind == transforms.StreamStdin:
		e.file, err = m.opener.openRegular(s.File, unix.O_RDONLY)
		if err != nil {
			err = fmt.Errorf("cannot read input %s from %s: %w", s.Name, s.File, reason(err))
		}
	default:
		e.file, err = m.opener.openRegular(s.File, unix.O_WRONLY)
		if errors.Is(err, fs.ErrNotExist) {
			e.file, err = m.opener.createRegular(s.File)
		}
		if err != nil {
			err = fmt.Errorf("cannot write output %s to %s: %w", s.Name, s.File, reason(err))
		}
	}
	return e, err
}

func (m *mover) tellProgress(p attempt.Progress) {
	// A runner that is gone ends this process by itself.
	_ = m.say(message{Op: opProgress, Progress: &p})
}

// writes tells whether the container writes to it.
func (e *end) writes() bool {
	return e.Kind != transforms.StreamInput && e.Kind != transforms.StreamStdin
}

// outputFile tells whether it ends in a file of the submitter.
func (e *end) outputFile() bool { return e.writes() && e.File != "" }

// reason puts the usual errors as the person would, to whom the path was named already.
func reason(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no such file or directory")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("you have no permission to do so")
	case errors.Is(err, unix.EROFS):
		return errors.New("its file system is read-only")
	case errors.Is(err, unix.ETXTBSY):
		return errors.New("it is a program that is running")
	}
	return err
}

// connect opens the host's ends of the pipes, and empties the output files.
func (m *mover) connect(dir *fifo.Dir, pipes map[string]fifo.Pipe) error {
	if err := m.emptyOutputs(); err != nil {
		return err
	}
	for _, e := range m.ends {
		pipe, ok := pipes[e.Name]
		if !ok {
			return fmt.Errorf("stream %s has no pipe", e.Name)
		}
		var err error
		switch e.Kind {
		case transforms.StreamInput:
			e.sender = dir.Sender(pipe)
		case transforms.StreamStdin:
			e.sender = dir.Sender(pipe)
			err = e.sender.Connect()
		case transforms.StreamProgress:
			e.lines = newProgressLines(m.tellProgress)
			e.receiver, err = dir.Receiver(pipe)
		default:
			e.receiver, err = dir.Receiver(pipe)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// emptyOutputs truncates the outputs' files, unless one of them is also
// another stream's: then nothing is touched.
func (m *mover) emptyOutputs() error {
	type inode struct{ dev, ino uint64 }
	users := map[inode]*end{}
	for pass := range 2 {
		for _, e := range m.ends {
			if e.File == "" || e.writes() != (pass == 1) {
				continue
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(e.file.Fd()), &st); err != nil {
				return fmt.Errorf("cannot look at %s: %w", e.File, err)
			}
			id := inode{st.Dev, st.Ino}
			if other := users[id]; other != nil && pass == 1 {
				return fmt.Errorf("cannot write output %s to %s: it is also the file of stream %s", e.Name, e.File, other.Name)
			}
			users[id] = e
		}
	}
	for _, e := range m.ends {
		if e.outputFile() {
			if err := e.file.Truncate(0); err != nil {
				return fmt.Errorf("cannot write output %s to %s: %w", e.Name, e.File, reason(err))
			}
		}
	}
	return nil
}

// activityEvery is how often the runner hears that outputs flow.
const activityEvery = time.Second

// start moves the data of every stream in a goroutine of its own, until life is
// over and its pipe is empty.
func (m *mover) start(life context.Context) {
	for _, e := range m.ends {
		m.moving.Go(func() { m.move(e, life) })
	}
	m.moving.Go(func() {
		tick := time.NewTicker(activityEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if m.received.Swap(false) {
					_ = m.say(message{Op: opActivity})
				}
			case <-life.Done():
				return
			}
		}
	})
}

func (m *mover) move(e *end, life context.Context) {
	var res fifo.Result
	var err error
	ctx := context.Background() // the end of the process ends everything else
	switch {
	case !e.writes():
		if res, err = m.send(ctx, life, e); err != nil {
			// The pipe stays open, lest the container takes this for the end of
			// its input; the runner ends the container.
			_ = m.say(message{Op: opBroken, Result: &attempt.StreamResult{Name: e.Name}, Error: clean(err.Error())})
			<-life.Done()
			e.sender.Close()
		}
	case e.lines != nil:
		res, err = e.receiver.Receive(ctx, life, marked{e.lines, &m.received})
		e.lines.flush()
	case e.HTTP != nil:
		res, err = m.post(ctx, life, e)
	case e.Log != "":
		res, err = m.toLog(ctx, life, e)
	default:
		if res, err = e.receiver.Receive(ctx, life, marked{e.file, &m.received}); err == nil {
			err = syncFile(e.file)
		}
		if err != nil {
			err = fmt.Errorf("cannot write %s: %w", e.File, err)
		}
	}
	report := message{Op: opResult, Result: &attempt.StreamResult{
		Name: e.Name, Kind: e.Kind, Bytes: res.Bytes, SHA256: hex.EncodeToString(res.SHA256[:]), Partial: res.Partial,
	}}
	if err != nil {
		report.Result.Error = clean(err.Error())
	}
	if e.lines != nil {
		report.Skipped = e.lines.skipped
	} else if e.slicer != nil {
		report.Skipped = e.slicer.lines.skipped
	}
	_ = m.say(report)
}

// send feeds a pipe from a file, or from Girder: there the end of what was
// announced, and of its hash where Girder has one, is the only end.
func (m *mover) send(ctx, life context.Context, e *end) (fifo.Result, error) {
	if e.download == nil {
		res, err := e.sender.Send(ctx, life, e.file)
		if err != nil {
			err = fmt.Errorf("cannot read %s: %w", e.File, err)
		}
		return res, err
	}
	// A container that is gone needs no more of it.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	d := &lateDownload{ctx: ctx, end: e}
	defer d.Close()
	res, err := e.sender.Send(ctx, life, d)
	if life.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // it did not want the rest
	}
	return res, err
}

// lateDownload begins with the first byte that is wanted: when the container has
// opened its pipe, if ever.
type lateDownload struct {
	ctx context.Context
	end *end
	d   *girder.Download
}

func (l *lateDownload) Read(p []byte) (n int, err error) {
	if l.d == nil {
		if l.d, err = l.end.client.Download(l.ctx, *l.end.download); err != nil {
			return 0, err
		}
	}
	return l.d.Read(p)
}

func (l *lateDownload) Close() {
	if l.d != nil {
		l.d.Close()
	}
}

// post uploads what the container writes as one request.
func (m *mover) post(ctx, life context.Context, e *end) (fifo.Result, error) {
	r, w := io.Pipe()
	posted := make(chan error, 1)
	go func() {
		posted <- girder.PostStream(ctx, girder.Session{Reach: m.reach.guard(e.HTTP.Own)}, e.HTTP.URL, e.headers, r)
	}()
	res, err := e.receiver.Receive(ctx, life, marked{w, &m.received})
	if errors.Is(err, io.ErrClosedPipe) {
		err = nil // the request ended early, and says why
	}
	w.CloseWithError(err)
	if failed := <-posted; failed != nil {
		err, res.Partial = failed, true
	}
	return res, err
}

// toLog copies what the container writes into the job's log.
func (m *mover) toLog(ctx, life context.Context, e *end) (fifo.Result, error) {
	defer e.file.Close()
	if e.slicer == nil {
		return e.receiver.Receive(ctx, life, marked{e.file, &m.received})
	}
	res, err := e.receiver.Receive(ctx, life, marked{e.slicer, &m.received})
	return res, errors.Join(err, e.slicer.flush())
}

// syncFile makes a file's data durable, and its name, if it is new.
func syncFile(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	// A directory that may be written and not read cannot be synced; the data is.
	if dir, err := os.Open(filepath.Dir(f.Name())); err == nil {
		defer dir.Close()
		_ = dir.Sync()
	}
	return nil
}

// marked notes that something was written.
type marked struct {
	io.Writer
	mark *atomic.Bool
}

func (m marked) Write(p []byte) (int, error) {
	m.mark.Store(true)
	return m.Writer.Write(p)
}
