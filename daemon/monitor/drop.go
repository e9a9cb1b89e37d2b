package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// everyone owns the names of what an admin drops.
const everyone = -1

// watchDrop imports every archive that is placed in the drop directory, and
// moves it to done or, with the reason beside it, to failed.
func (m *Monitor) watchDrop() {
	err := m.dropLoop()
	if err != nil && m.ctx.Err() == nil {
		m.logger.Error("Cannot watch for images; import them by command, or restart the daemon", "directory", m.options.Drop, "error", err)
	}
}

func (m *Monitor) dropLoop() error {
	dir := m.options.Drop
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, sub := range []string{dropDone, dropFailed} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		return err
	}
	stop := context.AfterFunc(m.ctx, func() { watch.Close() })
	defer stop()
	// The events only say when to look: what is complete is found by looking, so
	// that a lost event loses no file.
	buf := make([]byte, 64<<10)
	for {
		if err := m.importDropped(); err != nil {
			return err
		}
		if _, err := watch.Read(buf); err != nil {
			return err
		}
	}
}

const (
	dropDone   = "done"
	dropFailed = "failed"
)

func (m *Monitor) importDropped() error {
	entries, err := os.ReadDir(m.options.Drop)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// Hidden files are how rsync and others name what is not complete.
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		// A signature waits for its archive, which is to be dropped after it.
		if strings.HasSuffix(e.Name(), dropSignature) {
			continue
		}
		if err := m.importOne(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// importOne returns an error only when no later file could do better.
func (m *Monitor) importOne(name string) error {
	path := filepath.Join(m.options.Drop, name)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return m.fileDropped(name, dropFailed, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return m.fileDropped(name, dropFailed, errors.New("not a regular file"))
	}
	if writing(f) {
		return nil // its close will be told
	}
	m.logger.Info("Importing a dropped image", "file", path)
	signature, err := m.signatureOf(path)
	if err == nil {
		_, err = m.signedImage(m.ctx, ImageRequest{Op: ImageImport, Owner: everyone}, f, signature)
	}
	if err != nil {
		if m.ctx.Err() != nil {
			return m.ctx.Err() // it stays for the next monitor
		}
		m.logger.Warn("Cannot import a dropped image", "file", path, "error", err)
		return m.fileDropped(name, dropFailed, err)
	}
	return m.fileDropped(name, dropDone, nil)
}

// dropSignature is what the name of a detached signature adds to its archive's.
const dropSignature = ".sig"

// maxSignature is more than any signature has.
const maxSignature = 4 << 10

// signatureOf reads the signature beside a dropped archive, where there is one.
// Its bytes are the confined child's to understand.
func (m *Monitor) signatureOf(path string) ([]byte, error) {
	f, err := os.OpenFile(path+dropSignature, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the signature beside the archive: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > maxSignature {
		return nil, errors.New("the signature beside the archive is no small regular file")
	}
	signature, err := io.ReadAll(io.LimitReader(f, maxSignature))
	if err != nil {
		return nil, fmt.Errorf("cannot read the signature beside the archive: %w", err)
	}
	return signature, nil
}

// fileDropped moves a file to where its fate is told.
func (m *Monitor) fileDropped(name, fate string, cause error) error {
	target := filepath.Join(m.options.Drop, fate, name)
	if cause != nil {
		if err := os.WriteFile(target+".error", []byte(cause.Error()+"\n"), 0o644); err != nil {
			return fmt.Errorf("cannot tell why %s was not imported: %w", name, err)
		}
	} else if err := os.Remove(filepath.Join(m.options.Drop, dropFailed, name+".error")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(filepath.Join(m.options.Drop, name), target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot move %s: %w", name, err)
	}
	err := os.Rename(filepath.Join(m.options.Drop, name+dropSignature), target+dropSignature)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot move the signature of %s: %w", name, err)
	}
	return nil
}

// writing tells whether somebody has a file open for writing: then no read
// lease can be had. File systems without leases say nothing, and are believed.
func writing(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}
