package attempt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"girderworker/transforms"
)

const (
	secretsName = "secrets.json"
	// MaxSecrets bounds secrets.json, in bytes.
	MaxSecrets = 1 << 20
)

// WriteSecrets writes secrets.json, which root alone may read. There is no file
// where there is no secret.
func (d Dir) WriteSecrets(s transforms.Secrets) error {
	if reflect.ValueOf(s).IsZero() {
		return nil
	}
	data, err := json.Marshal(s)
	if err == nil && len(data) > MaxSecrets {
		err = fmt.Errorf("%w: %d bytes, more than %d", ErrInvalid, len(data), MaxSecrets)
	}
	if err == nil {
		err = writeSecret(d.file(secretsName), data)
	}
	if err != nil {
		return fmt.Errorf("cannot write the job's secrets: %w", err)
	}
	return nil
}

// writeSecret writes a file of 0600, which also leaves the front's entry in the
// directory's access list without effect.
func writeSecret(path string, data []byte) error {
	f, err := openEmpty(path)
	if err != nil {
		return err
	}
	if err = f.Chmod(0o600); err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}

// ReadSecrets reads secrets.json; none is no error.
func (d Dir) ReadSecrets() (transforms.Secrets, error) {
	var s transforms.Secrets
	data, err := readBounded(d.file(secretsName), MaxSecrets)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		if dec.Decode(&s) != nil {
			// The decoder's own words might quote what must not be told.
			err = fmt.Errorf("%w: %s", ErrInvalid, secretsName)
		}
	}
	if err != nil {
		return s, fmt.Errorf("cannot read the job's secrets: %w", err)
	}
	return s, nil
}

// RemoveSecrets removes secrets.json, if there is one: nothing needs them after
// the end of an attempt.
func (d Dir) RemoveSecrets() error {
	if err := os.Remove(d.file(secretsName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the job's secrets: %w", err)
	}
	return nil
}
