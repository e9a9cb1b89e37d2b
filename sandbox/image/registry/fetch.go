package registry

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"girderworker/sandbox/image"
)

const (
	maxDocument = 4 << 20
	maxNesting  = 4
	maxLayers   = 512
	attempts    = 5 // at one request, when the connection breaks

	indexOCI    = "application/vnd.oci.image.index.v1+json"
	manifestOCI = "application/vnd.oci.image.manifest.v1+json"
	listDocker  = "application/vnd.docker.distribution.manifest.list.v2+json"
	imageDocker = "application/vnd.docker.distribution.manifest.v2+json"
)

// descriptor is OCI's pointer to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType,omitempty"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant"`
	} `json:"platform,omitempty"`
}

type manifest struct {
	Manifests []descriptor `json:"manifests"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// document is a manifest, index or config as it came.
type document struct {
	descriptor
	data []byte
}

// Fetch writes the image to out. When there is something to write, begin is
// called before the first byte. progress is called now and then.
func Fetch(ctx context.Context, r Request, out io.Writer, begin func(), progress func(Progress)) (Result, error) {
	ref, err := parse(r.Ref, r.PlainHTTP)
	if err != nil {
		return Result{}, err
	}
	s, err := open(ctx, &r, ref)
	if err != nil {
		return Result{}, err
	}
	top, err := s.manifest(ctx, ref.Identifier())
	if err != nil {
		return Result{}, err
	}
	if d, ok := ref.(name.Digest); ok && top.Digest != d.DigestStr() {
		return Result{}, mismatch("the manifest", d.DigestStr(), top.Digest)
	}
	result := Result{Digest: top.Digest}
	if slices.Contains(r.Known, top.Digest) {
		result.Unchanged = true
		return result, nil
	}
	f := &fetch{source: s, request: &r, progress: progress}
	if err := f.plan(ctx, top); err != nil {
		return Result{}, err
	}
	begin()
	return result, f.write(ctx, out)
}

// fetch is one image on its way.
type fetch struct {
	*source
	request  *Request
	progress func(Progress)

	documents  []document   // each once; the first is what the reference means
	layers     []descriptor // to be fetched, each once
	signatures []document
	now        Progress
	told       time.Time
}

// plan follows the manifests down to the layers.
func (f *fetch) plan(ctx context.Context, top document) error {
	f.documents = []document{top}
	at := top
	var m manifest
	for depth := 0; ; depth++ {
		m = manifest{}
		if err := json.Unmarshal(at.data, &m); err != nil {
			return blame(ErrBadImage, "manifest %s cannot be read", at.Digest)
		}
		if m.Config != nil && len(m.Manifests) == 0 {
			break
		}
		if depth == maxNesting || len(m.Manifests) == 0 {
			return blame(ErrBadImage, "%s is neither an OCI nor a Docker version 2 manifest, or nests too deep", at.Digest)
		}
		next, err := choose(m.Manifests)
		if err != nil {
			return err
		}
		if at, err = f.manifest(ctx, next.Digest); err != nil {
			return err
		}
		f.documents = append(f.documents, at)
	}
	config, err := f.blob(ctx, *m.Config)
	if err != nil {
		return err
	}
	if err := f.chooseLayers(m.Layers, config.data); err != nil {
		return err
	}
	if err := f.findSignatures(ctx); err != nil {
		return err
	}
	f.documents = append(f.documents, config)
	return nil
}

// choose is the descriptor that this machine runs best.
func choose(all []descriptor) (descriptor, error) {
	best, rank := descriptor{}, 0
	var others []string
	for _, d := range all {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue // about an image, not one
		}
		fit := 1
		if p := d.Platform; p != nil {
			fit = image.Fit(p.OS, p.Architecture, p.Variant)
			others = append(others, strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"))
		}
		if fit > rank {
			best, rank = d, fit
		}
	}
	if rank == 0 {
		return best, blame(ErrBadImage, "it is for %.200s; this machine is linux/%s", strings.Join(others[:min(len(others), 10)], ", "), runtime.GOARCH)
	}
	return best, nil
}

func (f *fetch) chooseLayers(layers []descriptor, config []byte) error {
	var c struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return blame(ErrBadImage, "its config cannot be read")
	}
	if len(layers) > maxLayers || len(c.RootFS.DiffIDs) != len(layers) {
		return blame(ErrBadImage, "its manifest lists %d layers and its config %d; at most %d are taken", len(layers), len(c.RootFS.DiffIDs), maxLayers)
	}
	seen := map[string]bool{}
	for i, l := range layers {
		switch {
		case strings.Contains(l.MediaType, "nondistributable") || strings.Contains(l.MediaType, "foreign"):
			return blame(ErrBadImage, "its layer %s is to be fetched from elsewhere, which is not done; save the image with all its layers and import it", l.Digest)
		case l.Size < 0 || l.Size > f.limits.Bytes-f.now.Total:
			return blame(ErrBadImage, "its layers have more than %d bytes", f.limits.Bytes)
		case slices.Contains(f.request.Have, c.RootFS.DiffIDs[i]):
			f.now.Have++
		case !seen[l.Digest]:
			seen[l.Digest] = true
			f.layers = append(f.layers, l)
			f.now.Total += l.Size
		}
	}
	f.now.Layers = len(f.layers)
	return nil
}

// findSignatures looks where cosign puts them.
func (f *fetch) findSignatures(ctx context.Context) error {
	for _, d := range f.documents {
		tag := strings.Replace(d.Digest, ":", "-", 1) + ".sig"
		found, err := f.manifest(ctx, tag)
		switch {
		case errors.Is(err, ErrUnreachable), ctx.Err() != nil:
			return err
		case err != nil:
			continue // none, or none that can be seen
		}
		var m manifest
		if json.Unmarshal(found.data, &m) != nil || len(m.Layers) > 64 {
			return blame(ErrBadImage, "the signatures at %s cannot be read", tag)
		}
		found.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag}
		f.signatures = append(f.signatures, found)
		for _, l := range m.Layers {
			if l.Size > 64<<10 {
				continue // no signature that anybody here reads
			}
			payload, err := f.blob(ctx, l)
			if err != nil {
				return err
			}
			f.documents = append(f.documents, payload)
		}
	}
	return nil
}

// write writes the layout.
func (f *fetch) write(ctx context.Context, out io.Writer) error {
	t := tar.NewWriter(out)
	top := f.documents[0].descriptor
	top.Annotations = map[string]string{"org.opencontainers.image.ref.name": f.request.Name}
	index := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, indexOCI, []descriptor{top}}
	for _, s := range f.signatures {
		index.Manifests = append(index.Manifests, s.descriptor)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	files := []document{{descriptor{}, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {descriptor{}, data}}
	names := []string{"oci-layout", "index.json"}
	written := map[string]bool{}
	for _, d := range append(f.documents, f.signatures...) {
		if !written[d.Digest] {
			written[d.Digest] = true
			files, names = append(files, d), append(names, blobName(d.Digest))
		}
	}
	for i, d := range files {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: names[i], Mode: 0o644, Size: int64(len(d.data))}); err != nil {
			return err
		}
		if _, err := t.Write(d.data); err != nil {
			return err
		}
	}
	for _, l := range f.layers {
		f.now.Layer++
		f.now.LayerRead, f.now.LayerTotal = 0, l.Size
		f.tell(true)
		if written[l.Digest] {
			continue
		}
		written[l.Digest] = true
		if !digestForm().MatchString(l.Digest) {
			return blame(ErrBadImage, "it uses the digest %.100q; only sha256 is known", l.Digest)
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: blobName(l.Digest), Mode: 0o644, Size: l.Size}); err != nil {
			return err
		}
		if err := f.layer(ctx, l, t); err != nil {
			return err
		}
	}
	f.tell(true)
	return t.Close()
}

func blobName(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func (f *fetch) tell(now bool) {
	if now || time.Since(f.told) >= 200*time.Millisecond {
		f.told = time.Now()
		f.progress(f.now)
	}
}

// layer copies a layer to out, and goes on where a connection broke.
func (f *fetch) layer(ctx context.Context, l descriptor, out io.Writer) error {
	sum := sha256.New()
	at := int64(0)
	count := func(p []byte) error {
		if int64(len(p)) > l.Size-at {
			return blame(ErrBadImage, "layer %s has more than the %d bytes that its manifest says", l.Digest, l.Size)
		}
		at += int64(len(p))
		f.now.Read += int64(len(p))
		f.now.LayerRead = at
		sum.Write(p)
		if _, err := out.Write(p); err != nil {
			return fmt.Errorf("cannot hand the layer on: %w", err)
		}
		f.tell(false)
		return nil
	}
	var broken error
	for try := range attempts {
		if at == l.Size && try > 0 {
			break
		}
		before := at
		broken = f.copyFrom(ctx, "/blobs/"+l.Digest, at, count)
		if broken == nil || !errors.Is(broken, ErrUnreachable) || ctx.Err() != nil {
			break
		}
		if at > before {
			continue // it moves
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
	if broken != nil && at < l.Size {
		return broken
	}
	if at < l.Size {
		return blame(ErrBadImage, "layer %s has %d bytes, its manifest says %d", l.Digest, at, l.Size)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != l.Digest {
		return mismatch("layer "+l.Digest, l.Digest, got)
	}
	return nil
}

func mismatch(what, want, got string) error {
	return blame(ErrBadImage, "%s should have the digest %s and has %s; nothing of it was used", what, want, got)
}

func pause(ctx context.Context, try int) error {
	select {
	case <-time.After(time.Duration(100<<try) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var digestForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) })

// manifest fetches a manifest or an index by tag or digest.
func (s *source) manifest(ctx context.Context, ref string) (document, error) {
	byDigest := digestForm().MatchString(ref)
	if strings.Contains(ref, ":") && !byDigest {
		return document{}, blame(ErrBadImage, "it uses the digest %.100q; only sha256 is known", ref)
	}
	data, kind, err := s.small(ctx, "/manifests/"+ref, strings.Join([]string{indexOCI, manifestOCI, listDocker, imageDocker}, ", "))
	if err != nil {
		return document{}, err
	}
	d := document{descriptor{MediaType: kind, Digest: digestOf(data), Size: int64(len(data))}, data}
	if byDigest && d.Digest != ref {
		return document{}, mismatch("manifest "+ref, ref, d.Digest)
	}
	return d, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// blob fetches a blob that is a document.
func (s *source) blob(ctx context.Context, d descriptor) (document, error) {
	if !digestForm().MatchString(d.Digest) {
		return document{}, blame(ErrBadImage, "it uses the digest %.100q; only sha256 is known", d.Digest)
	}
	data, _, err := s.small(ctx, "/blobs/"+d.Digest, "*/*")
	if err != nil {
		return document{}, err
	}
	if got := digestOf(data); got != d.Digest {
		return document{}, mismatch("blob "+d.Digest, d.Digest, got)
	}
	return document{d, data}, nil
}

// small fetches a document whole, several times if need be.
func (s *source) small(ctx context.Context, path, accept string) (data []byte, kind string, err error) {
	for try := range attempts {
		data = data[:0]
		var head http.Header
		head, err = s.get(ctx, path, accept, 0, func(p []byte) error {
			if len(data)+len(p) > maxDocument {
				return blame(ErrBadImage, "a document of it has more than %d bytes", maxDocument)
			}
			data = append(data, p...)
			return nil
		})
		if err == nil {
			kind, _, _ = strings.Cut(head.Get("Content-Type"), ";")
			return data, kind, nil
		}
		if !errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
			return nil, "", err
		}
		if err := pause(ctx, try); err != nil {
			return nil, "", err
		}
	}
	return nil, "", err
}

func (s *source) copyFrom(ctx context.Context, path string, at int64, use func([]byte) error) error {
	_, err := s.get(ctx, path, "*/*", at, use)
	return err
}

// get hands the body of an answer on, from an offset, and gives up a connection
// that stalls.
func (s *source) get(ctx context.Context, path, accept string, at int64, use func([]byte) error) (http.Header, error) {
	alive, end := context.WithCancelCause(ctx)
	defer end(nil)
	r, err := http.NewRequestWithContext(alive, http.MethodGet, s.base+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	if at > 0 {
		r.Header.Set("Range", "bytes="+strconv.FormatInt(at, 10)+"-")
	}
	registry := r.URL.Host
	answer, err := s.client.Do(r)
	if err != nil {
		return nil, explain(ctx, err, registry)
	}
	defer discard(answer.Body)
	skip := int64(0)
	switch {
	case answer.StatusCode == http.StatusOK:
		skip = at // it does not know ranges
	case answer.StatusCode == http.StatusPartialContent && at > 0:
		if !strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", at)) {
			return nil, blame(ErrBadImage, "%s answers with another range than it was asked for", registry)
		}
	default:
		return nil, explainStatus(answer.StatusCode, registry)
	}
	stalled := blame(ErrUnreachable, "%s has sent nothing for %v", registry, s.limits.Stall)
	timer := time.AfterFunc(s.limits.Stall, func() { end(stalled) })
	defer timer.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := answer.Body.Read(buf)
		timer.Reset(s.limits.Stall)
		p := buf[:n]
		drop := min(skip, int64(n))
		skip -= drop
		if p = p[drop:]; len(p) > 0 {
			if err := use(p); err != nil {
				return nil, err
			}
		}
		switch {
		case err == io.EOF:
			return answer.Header, nil
		case err != nil && context.Cause(alive) == stalled:
			return nil, stalled
		case err != nil:
			return nil, explain(ctx, err, registry)
		}
	}
}
