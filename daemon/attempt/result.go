package attempt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const (
	resultName = "result.json"
	// MaxResult bounds result.json, in bytes.
	MaxResult = 1 << 20
	// MaxExitResult bounds a result within exit.json, which has room for it: see exitReserve.
	MaxExitResult = 16 << 10
)

// WriteResult keeps what a function's process said of its end. It is foreign: who
// reads it must not believe that it is even JSON.
func (d Dir) WriteResult(data []byte, gid int) error {
	if len(data) > MaxResult {
		return fmt.Errorf("%w: a result of more than %d bytes", ErrInvalid, MaxResult)
	}
	// As durable as exit.json, which comes after it and syncs their directory.
	f, err := openNoFollow(d.file(resultName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	err = ownFile(f, gid)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	return nil
}

// resultOf returns what a function said of its end, from exit.json or result.json; nil
// where there is nothing.
func (d Dir) resultOf(exit *Exit) ([]byte, error) {
	if exit.Result != nil {
		return exit.Result, nil
	}
	data, err := readBounded(d.file(resultName), MaxResult)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the result: %w", err)
	}
	return data, nil
}
