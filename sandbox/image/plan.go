package image

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"strings"
	"time"
)

// This file reads foreign bytes and runs in the confined child only.

// maxNesting is how deep indexes may stand in indexes.
const maxNesting = 4

// plan is what an archive holds for this machine.
type plan struct {
	images []foundImage
	blobs  []blob // each once, in the order in which images need them
	known  map[blob]bool
	absent map[string]bool // diff ids of layers that may be missing
}

// blob is a layer as the archive stores it.
type blob struct {
	name   string // for people
	member member
	diffID string
	digest string // of the stored bytes, "" where the archive tells none
	// missing layers are in the store, or else the archive is not whole.
	missing bool
}

// plan reads the archive's documents.
func (a *archive) plan(limits Limits) (*plan, error) {
	p := &plan{known: map[blob]bool{}, absent: a.absent}
	_, hasIndex := a.find("index.json")
	_, hasManifest := a.find("manifest.json")
	var err error
	switch {
	case hasIndex:
		err = a.planLayout(p, limits)
	case hasManifest:
		err = a.planDocker(p, limits)
	default:
		if _, old := a.find("repositories"); old {
			return nil, blame(ErrUnsupported, "the archive was saved by a Docker older than 1.10; load and save it with a newer one")
		}
		return nil, blame(ErrUnsupported, "the archive has neither index.json nor manifest.json (a `docker export` or a plain tar is no image); %s", formatsHint)
	}
	if err != nil {
		return nil, err
	}
	if len(p.images) == 0 {
		return nil, blame(ErrUnsupported, "the archive holds no image; %s", formatsHint)
	}
	return p, nil
}

// dockerEntry is an image of manifest.json, as `docker save` writes it.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *archive) dockerEntries() ([]dockerEntry, error) {
	data, err := a.document("manifest.json")
	if err != nil {
		return nil, err
	}
	var entries []dockerEntry
	return entries, decodeDocument("manifest.json", data, &entries)
}

var hexInName = whenUsed(`(?:^|[/:])([0-9a-f]{64})(?:\.json)?$`)

// planDocker reads a docker-archive.
func (a *archive) planDocker(p *plan, limits Limits) error {
	entries, err := a.dockerEntries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := a.document(e.Config)
		if err != nil {
			return err
		}
		if m := hexInName().FindStringSubmatch(e.Config); m != nil && m[1] != sum(data) {
			return mismatch("the config "+e.Config, m[1], sum(data))
		}
		var stored []blob
		for _, name := range e.Layers {
			m, ok := a.find(name)
			if !ok {
				return blame(ErrCorrupt, "layer %s is missing in the archive; %s", name, copyHint)
			}
			stored = append(stored, blob{name: "layer " + name, member: m})
		}
		if err := p.add(data, "", e.RepoTags, stored, limits); err != nil {
			return err
		}
	}
	return nil
}

// descriptor is OCI's pointer to a blob.
type descriptor struct {
	MediaType   string
	Digest      string
	Size        int64
	Annotations map[string]string
	Platform    *struct {
		Architecture string
		OS           string
		Variant      string
	}
}

// Fit tells how well this machine runs what is built for a platform: 0 for not
// at all, and more for better. The plain variants run everywhere; later ones of
// x86-64 need a processor that may not be there.
func Fit(os, architecture, variant string) int {
	switch {
	case os != "linux" || architecture != runtime.GOARCH:
		return 0
	case architecture == "amd64" && (variant == "" || variant == "v1"), architecture == "arm64" && (variant == "" || variant == "v8"):
		return 3
	case architecture != "amd64":
		return 2
	}
	return 1
}

// manifest is an OCI or Docker manifest or index: which one, its fields show.
type manifest struct {
	SchemaVersion int
	MediaType     string
	Manifests     []descriptor
	Config        *descriptor
	Layers        []descriptor
}

// planLayout reads a tar of an OCI layout, with or without the manifest.json
// that newer `docker save` adds.
func (a *archive) planLayout(p *plan, limits Limits) error {
	data, err := a.document("index.json")
	if err != nil {
		return err
	}
	var top manifest
	if err := decodeDocument("index.json", data, &top); err != nil {
		return err
	}
	// manifest.json has the complete names, by config.
	tags := map[string][]string{}
	if _, ok := a.find("manifest.json"); ok {
		entries, err := a.dockerEntries()
		if err != nil {
			return err
		}
		for _, e := range entries {
			if m := hexInName().FindStringSubmatch(e.Config); m != nil {
				tags["sha256:"+m[1]] = append(tags["sha256:"+m[1]], e.RepoTags...)
			}
		}
	}
	var images []descriptor
	for _, d := range top.Manifests {
		switch {
		case d.isSignature():
			a.signatures = append(a.signatures, d)
		case !d.isAttached():
			images = append(images, d)
		}
	}
	chosen, err := forThisMachine(images)
	if err != nil {
		return err
	}
	for _, d := range chosen {
		if err := a.planDescriptor(p, d, refsOf(d), tags, limits, nil); err != nil {
			return err
		}
	}
	return nil
}

// refsOf are the names that annotations give: Docker's complete one, else OCI's
// where it is more than a tag.
func refsOf(d descriptor) []string {
	if name := d.Annotations["io.containerd.image.name"]; name != "" {
		return []string{name}
	}
	if name := d.Annotations["org.opencontainers.image.ref.name"]; strings.ContainsAny(name, ":/") {
		return []string{name}
	}
	return nil
}

// forThisMachine keeps the descriptors that this machine can run, and those
// that do not say.
func forThisMachine(all []descriptor) ([]descriptor, error) {
	var chosen []descriptor
	var others []string
	for _, d := range all {
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "":
			// about an image, not one
		case d.Platform == nil || Fit(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant) > 0:
			chosen = append(chosen, d)
		default:
			others = append(others, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	if len(chosen) == 0 && len(others) > 0 {
		return nil, blame(ErrUnsupported, "it is for %s, this machine is linux/%s; save it for that platform", strings.Join(others[:min(len(others), 10)], ", "), runtime.GOARCH)
	}
	return chosen, nil
}

// best is the first of the descriptors that fit best, as a pull chooses, too.
func best(chosen []descriptor) descriptor {
	fit := func(d descriptor) int {
		if d.Platform == nil {
			return 1
		}
		return Fit(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant)
	}
	first := chosen[0]
	for _, d := range chosen[1:] {
		if fit(d) > fit(first) {
			first = d
		}
	}
	return first
}

// planDescriptor follows a descriptor to an image.
func (a *archive) planDescriptor(p *plan, d descriptor, refs []string, tags map[string][]string, limits Limits, above []string) error {
	if len(above) > maxNesting {
		return blame(ErrUnsupported, "the archive nests indexes more than %d deep", maxNesting)
	}
	data, err := a.blobDocument(d)
	if err != nil {
		return err
	}
	var m manifest
	if err := decodeDocument(d.Digest, data, &m); err != nil {
		return err
	}
	switch {
	case m.Config != nil && len(m.Manifests) == 0:
		return a.planManifest(p, d, m, refs, tags, limits, above)
	case m.Config == nil && len(m.Manifests) > 0:
		chosen, err := forThisMachine(m.Manifests)
		if err != nil {
			return err
		}
		if len(chosen) == 0 {
			return blame(ErrUnsupported, "the index %s lists no image", d.Digest)
		}
		next := best(chosen)
		return a.planDescriptor(p, next, append(refs, refsOf(next)...), tags, limits, append(above, d.Digest))
	}
	return blame(ErrUnsupported, "%s is neither an OCI nor a Docker version 2 manifest; %s", d.Digest, formatsHint)
}

func (a *archive) planManifest(p *plan, d descriptor, m manifest, refs []string, tags map[string][]string, limits Limits, above []string) error {
	if len(m.Layers) > limits.Layers {
		return tooManyLayers(len(m.Layers), limits)
	}
	config, err := a.blobDocument(*m.Config)
	if err != nil {
		return err
	}
	var stored []blob
	for _, l := range m.Layers {
		if strings.Contains(l.MediaType, "encrypted") {
			return blame(ErrUnsupported, "layer %s is encrypted; decrypt the image before", l.Digest)
		}
		found, err := a.blobMember(l)
		missing := err != nil && len(a.absent) > 0 && !a.has(l)
		if err != nil && !missing {
			return err
		}
		stored = append(stored, blob{name: "layer " + l.Digest, member: found, digest: l.Digest, missing: missing})
	}
	if err := p.add(config, d.Digest, append(refs, tags[m.Config.Digest]...), stored, limits); err != nil {
		return err
	}
	p.images[len(p.images)-1].Image.Indexes = above
	return nil
}

func (a *archive) has(d descriptor) bool {
	_, ok := a.find("blobs/sha256/" + hexOf(d.Digest))
	return ok
}

// blobMember finds a blob and checks its size.
func (a *archive) blobMember(d descriptor) (member, error) {
	if !digestForm().MatchString(d.Digest) {
		return member{}, blame(ErrUnsupported, "the archive uses the digest %.100q; only sha256 is known", d.Digest)
	}
	m, ok := a.find("blobs/sha256/" + hexOf(d.Digest))
	if !ok {
		return member{}, blame(ErrCorrupt, "blob %s is missing in the archive; %s", d.Digest, copyHint)
	}
	if m.size != d.Size {
		return member{}, blame(ErrCorrupt, "blob %s has %d bytes, %d were promised; %s", d.Digest, m.size, d.Size, copyHint)
	}
	return m, nil
}

// blobDocument reads a blob that is a document, and checks its digest.
func (a *archive) blobDocument(d descriptor) ([]byte, error) {
	if _, err := a.blobMember(d); err != nil {
		return nil, err
	}
	data, err := a.document("blobs/sha256/" + hexOf(d.Digest))
	if err != nil {
		return nil, err
	}
	if got := sum(data); got != hexOf(d.Digest) {
		return nil, mismatch("blob "+d.Digest, hexOf(d.Digest), got)
	}
	return data, nil
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

func mismatch(what, want, got string) error {
	return blame(ErrCorrupt, "%s should have the digest sha256:%s and has sha256:%s; %s", what, want, got, copyHint)
}

func tooManyLayers(n int, limits Limits) error {
	return blame(ErrTooLarge, "it has %d layers, %d are the most; squash it", n, limits.Layers)
}

// imageConfig is the config document, OCI's and Docker's alike.
type imageConfig struct {
	Created      string
	Architecture string
	OS           string
	Config       struct {
		Entrypoint []string
		Cmd        []string
		Env        []string
		WorkingDir string
		User       string
		StopSignal string
		Labels     map[string]string
	}
	RootFS struct {
		Type    string
		DiffIDs []string `json:"diff_ids"`
	}
}

// add makes an image of its config and its stored layers.
func (p *plan) add(config []byte, digest string, refs []string, stored []blob, limits Limits) error {
	var c imageConfig
	id := "sha256:" + sum(config)
	if err := decodeDocument("the config "+id, config, &c); err != nil {
		return err
	}
	if (c.OS != "" && c.OS != "linux") || (c.Architecture != "" && c.Architecture != runtime.GOARCH) {
		return blame(ErrUnsupported, "it is for %.30q/%.30q, this machine is linux/%s; save it for that platform", c.OS, c.Architecture, runtime.GOARCH)
	}
	n := len(c.RootFS.DiffIDs)
	switch {
	case len(p.images) == maxImages:
		return blame(ErrTooLarge, "the archive holds more than %d images; save fewer at once", maxImages)
	case c.RootFS.Type != "" && c.RootFS.Type != "layers":
		return blame(ErrUnsupported, "its root file system is of type %.30q", c.RootFS.Type)
	case n > limits.Layers:
		return tooManyLayers(n, limits)
	case n != len(stored):
		return blame(ErrCorrupt, "its config lists %d layers, its manifest %d; %s", n, len(stored), copyHint)
	case n == 0:
		return blame(ErrUnsupported, "it has no layers, so there is nothing to run in it")
	}
	for i, diffID := range c.RootFS.DiffIDs {
		if !digestForm().MatchString(diffID) {
			return blame(ErrUnsupported, "the config has the layer id %.100q; only sha256 is known", diffID)
		}
		stored[i].diffID = diffID
		if stored[i].missing && !p.absent[diffID] {
			return blame(ErrCorrupt, "%s is missing in the archive; %s", stored[i].name, copyHint)
		}
		if !p.known[stored[i]] {
			p.known[stored[i]] = true
			p.blobs = append(p.blobs, stored[i])
		}
	}
	created, _ := time.Parse(time.RFC3339Nano, c.Created) // only shown; some builders leave it empty
	img := Image{
		ID: id, DiffIDs: c.RootFS.DiffIDs, Digest: digest, Created: created.UTC(), Arch: runtime.GOARCH, OS: "linux",
		Config: Config{
			Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env, WorkingDir: c.Config.WorkingDir,
			User: c.Config.User, StopSignal: c.Config.StopSignal, Labels: c.Config.Labels,
		},
	}
	if err := checkStrings(img.Config); err != nil {
		return err
	}
	p.images = append(p.images, foundImage{Image: img, Refs: refs})
	return nil
}

// checkStrings refuses what no process could be given.
func checkStrings(c Config) error {
	for what, list := range map[string][]string{
		"Entrypoint": c.Entrypoint, "Cmd": c.Cmd, "Env": c.Env, "WorkingDir": {c.WorkingDir}, "User": {c.User}, "StopSignal": {c.StopSignal},
	} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return blame(ErrHostile, "the config's %s has a NUL in %.100q", what, s)
			}
		}
	}
	return nil
}
