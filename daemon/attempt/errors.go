package attempt

import "errors"

var (
	// ErrLocked: another process holds the attempt's lock, so it is alive.
	ErrLocked = errors.New("attempt is locked by its runner")
	// ErrEnded: the attempt has its exit.json and must not run again.
	ErrEnded = errors.New("attempt has already ended")
	// ErrBegun: a runner began the attempt and has not ended it, or died.
	ErrBegun = errors.New("attempt was already begun")
	// ErrCorrupt: bytes before the end of events or log are not what was
	// written. A torn last record is not corrupt, it is not there yet.
	ErrCorrupt = errors.New("record is corrupt")
	// ErrVersion: the file was written by a newer release.
	ErrVersion = errors.New("written by a newer release")
	// ErrInvalid: a name, request or message that breaks the contract.
	ErrInvalid = errors.New("invalid attempt")
)
