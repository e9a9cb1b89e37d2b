package runner

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"girderworker/sandbox"
	"girderworker/sandbox/image"
)

// containerUser is an identity in the container's numbers.
type containerUser struct {
	uid, gid int
	groups   []int // of the image's /etc/group
	home     string
}

// resolveUser reads "name", "uid", "name:group", "uid:gid" or "" (root) with
// the image's own accounts. A name that looks like a number is a number only
// where no account has it.
func resolveUser(wanted string, config *image.Config) (containerUser, error) {
	name, group, hasGroup := strings.Cut(wanted, ":")
	if name == "" {
		name = "0"
	}
	u := containerUser{home: "/"}
	account := slices.IndexFunc(config.Users, func(a image.User) bool { return a.Name == name })
	if account < 0 {
		uid, err := id(name)
		if err != nil {
			return u, fmt.Errorf("the image has no user %q", name)
		}
		u.uid = uid
		account = slices.IndexFunc(config.Users, func(a image.User) bool { return a.UID == uid })
	}
	if account >= 0 {
		a := config.Users[account]
		u.uid, u.gid = a.UID, a.GID
		if a.Home != "" {
			u.home = a.Home
		}
		name = a.Name
	}
	if hasGroup {
		i := slices.IndexFunc(config.Groups, func(g image.Group) bool { return g.Name == group })
		if i >= 0 {
			u.gid = config.Groups[i].GID
		} else if gid, err := id(group); err == nil {
			u.gid = gid
		} else {
			return u, fmt.Errorf("the image has no group %q", group)
		}
		return u, nil // a group that is named is the only one
	}
	for _, g := range config.Groups {
		if account >= 0 && slices.Contains(g.Members, name) {
			u.groups = append(u.groups, g.GID)
		}
	}
	return u, nil
}

// addedGroups are groups and those that the job adds, by the image's names or by
// number.
func addedGroups(groups []int, add []string, config *image.Config) ([]int, error) {
	groups = slices.Clone(groups)
	for _, name := range add {
		i := slices.IndexFunc(config.Groups, func(g image.Group) bool { return g.Name == name })
		if i >= 0 {
			groups = append(groups, config.Groups[i].GID)
			continue
		}
		gid, err := id(name)
		if err != nil {
			return nil, fmt.Errorf("the image has no group %q", name)
		}
		groups = append(groups, gid)
	}
	return groups, nil
}

func id(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

// keepID makes the container's id mean host on the host. The grant maps host
// to the container's root already, since only the image tells which user its
// containers run as; so the two trade places. No other host id comes in or
// goes out.
func keepID(mappings []sandbox.IDMapping, container, host int) []sandbox.IDMapping {
	current, ok := containerID(mappings, host)
	if !ok || current == container {
		return mappings
	}
	at, ok := hostID(mappings, container)
	if !ok {
		return mappings // the sandbox says that the user is not mapped
	}
	var out []sandbox.IDMapping
	for _, m := range mappings {
		for _, part := range split(split([]sandbox.IDMapping{m}, current), container) {
			switch part.ContainerID {
			case current:
				part.HostID = at
			case container:
				part.HostID = host
			}
			out = append(out, part)
		}
	}
	return out
}

// split gives one id of the container a mapping of its own.
func split(mappings []sandbox.IDMapping, id int) []sandbox.IDMapping {
	var out []sandbox.IDMapping
	for _, m := range mappings {
		before := id - m.ContainerID
		if before < 0 || before >= m.Size {
			out = append(out, m)
			continue
		}
		for _, part := range []sandbox.IDMapping{
			{ContainerID: m.ContainerID, HostID: m.HostID, Size: before},
			{ContainerID: id, HostID: m.HostID + before, Size: 1},
			{ContainerID: id + 1, HostID: m.HostID + before + 1, Size: m.Size - before - 1},
		} {
			if part.Size > 0 {
				out = append(out, part)
			}
		}
	}
	return out
}

func containerID(mappings []sandbox.IDMapping, host int) (int, bool) {
	for _, m := range mappings {
		if host >= m.HostID && host < m.HostID+m.Size {
			return m.ContainerID + host - m.HostID, true
		}
	}
	return 0, false
}

func hostID(mappings []sandbox.IDMapping, container int) (int, bool) {
	for _, m := range mappings {
		if container >= m.ContainerID && container < m.ContainerID+m.Size {
			return m.HostID + container - m.ContainerID, true
		}
	}
	return 0, false
}

// distinct sorts ids and drops doubles and one that is had already.
func distinct(ids []int, had int) []int {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return slices.DeleteFunc(ids, func(id int) bool { return id == had })
}
