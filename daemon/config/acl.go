package config

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// letRead gives the daemon's user, when there is one, the right to read a file
// of mode 0600, by a POSIX ACL of version 2 (acl(5); linux/posix_acl_xattr.h). The group's
// permission would let everybody read who may submit.
func letRead(f *os.File, name string) error {
	const (
		userObj, someUser, groupObj, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
		nobody                                   = 0xffffffff
	)
	if os.Geteuid() != 0 {
		return nil
	}
	uid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		u, err := user.Lookup(name)
		if err != nil {
			return nil // not made yet: whoever starts the daemon is told
		}
		if uid, err = strconv.ParseUint(u.Uid, 10, 32); err != nil {
			return fmt.Errorf("cannot use user %s: %w", name, err)
		}
	}
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{userObj, 6, nobody}, {someUser, 4, uint32(uid)}, {groupObj, 0, nobody}, {mask, 4, nobody}, {other, 0, nobody}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	if err := unix.Fsetxattr(int(f.Fd()), aclName, acl, 0); err != nil {
		return fmt.Errorf("cannot let user %s read %s: %w", name, f.Name(), err)
	}
	return nil
}

// copyACL gives f the access control list of the file at path, if that has one.
func copyACL(path string, f *os.File) error {
	acl := make([]byte, 64<<10)
	n, err := unix.Getxattr(path, aclName, acl)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return nil
	case err != nil:
		return fmt.Errorf("cannot read the access control list of %s: %w", path, err)
	}
	if err := unix.Fsetxattr(int(f.Fd()), aclName, acl[:n], 0); err != nil {
		return fmt.Errorf("cannot keep the access control list of %s: %w", path, err)
	}
	return nil
}
