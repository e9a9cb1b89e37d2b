package image

import "strings"

// PullRef is what a reference asks of a registry.
type PullRef struct {
	// Registry is HOST or HOST:PORT; docker.io for Docker's own.
	Registry string
	// Name is what the image is called here. One that is asked for by digest
	// alone gets a tag made of that, so that it has a name to be kept by.
	Name string
	// Digest is "" for a tag.
	Digest string
}

// ParsePull reads a reference that is to be pulled: a name, with a tag or a
// digest or both. An id is none, because no registry knows it.
func ParsePull(ref string) (PullRef, error) {
	parsed, err := parseRef(ref)
	if err != nil {
		return PullRef{}, err
	}
	if prefixForm().MatchString(ref) {
		return PullRef{}, blame(ErrName, "%q is an id; a registry knows images by name", printable(ref))
	}
	registry, _, _ := strings.Cut(parsed.name, "/")
	out := PullRef{Registry: registry, Name: short(parsed.name), Digest: parsed.digest}
	before, _, _ := strings.Cut(ref, "@")
	if _, tag := splitTag(before); parsed.digest != "" && tag == "" {
		repo, _ := splitTag(parsed.name)
		out.Name = short(repo + ":sha256-" + hexOf(parsed.digest)[:12])
	}
	return out, nil
}
