package registry_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"girderworker/sandbox/image/imagetest"
	"girderworker/sandbox/image/registry"
	"girderworker/sandbox/image/registry/registrytest"
)

func tool(body string) imagetest.Image {
	return imagetest.Image{Refs: []string{"lab/tool:1"}, Layers: []imagetest.Layer{
		{imagetest.File("base", 0o644, "base")}, {imagetest.File("tool", 0o755, body)},
	}}
}

func files(t *testing.T, images ...imagetest.Image) map[string][]byte {
	t.Helper()
	f, err := imagetest.OCIFiles(images...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// fetched is the members of the archive that a fetch wrote.
func fetch(t *testing.T, ctx context.Context, r registry.Request) (members map[string][]byte, result registry.Result, last registry.Progress, err error) {
	t.Helper()
	var out bytes.Buffer
	begun := false
	r.Name = "lab/tool:1"
	result, err = registry.Fetch(ctx, r, &out, func() { begun = true }, func(p registry.Progress) { last = p })
	if err != nil {
		return nil, result, last, err
	}
	if begun == result.Unchanged || result.Unchanged && out.Len() > 0 {
		t.Errorf("begun %v, %d bytes, %+v", begun, out.Len(), result)
	}
	members = map[string][]byte{}
	for tr := tar.NewReader(&out); !result.Unchanged; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := members[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		if members[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
	return members, result, last, nil
}

// wantWhole checks that every blob of a layout is there, but those left out.
func wantWhole(t *testing.T, got, want map[string][]byte, but ...string) {
	t.Helper()
	for name, data := range want {
		if name == "index.json" {
			continue
		}
		left := strings.Contains(strings.Join(but, " "), strings.TrimPrefix(name, "blobs/sha256/"))
		if there, ok := got[name]; ok == left || ok && !bytes.Equal(there, data) {
			t.Errorf("%s: there %v, left out %v", name, ok, left)
		}
	}
}

func layerBlobs(t *testing.T, img imagetest.Image) (diffIDs []string) {
	t.Helper()
	for _, l := range img.Layers {
		data, err := l.Tar()
		if err != nil {
			t.Fatal(err)
		}
		diffIDs = append(diffIDs, registrytest.Digest(data))
	}
	return diffIDs
}

func TestFetch(t *testing.T) {
	s := registrytest.New(t, false)
	img := files(t, tool("x"))
	digest := s.Push(t, "lab/tool", "1", img)
	ids := layerBlobs(t, tool("x"))
	for _, c := range []struct {
		name string
		r    registry.Request
		left []string
	}{
		{name: "by tag", r: registry.Request{Ref: s.Host + "/lab/tool:1"}},
		{name: "by digest", r: registry.Request{Ref: s.Host + "/lab/tool@" + digest}},
		{name: "a layer is here", r: registry.Request{Ref: s.Host + "/lab/tool:1", Have: ids[:1]}, left: []string{ids[0][7:]}},
		{name: "all layers are here", r: registry.Request{Ref: s.Host + "/lab/tool:1", Have: ids}, left: []string{ids[0][7:], ids[1][7:]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, result, last, err := fetch(t, t.Context(), c.r)
			if err != nil {
				t.Fatal(err)
			}
			wantWhole(t, got, img, c.left...)
			if result.Digest != digest || last.Read != last.Total || last.Have != len(c.left) || last.Layers != 2-len(c.left) {
				t.Errorf("%+v, %+v", result, last)
			}
			if !bytes.Contains(got["index.json"], []byte(`"lab/tool:1"`)) {
				t.Errorf("the archive does not name it: %s", got["index.json"])
			}
		})
	}
	if _, result, _, err := fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool:1", Known: []string{digest}}); err != nil || !result.Unchanged {
		t.Errorf("a known digest: %+v, %v", result, err)
	}
}

func TestFetchChoosesThePlatform(t *testing.T) {
	s := registrytest.New(t, false)
	here, other := tool("here"), tool("other")
	here.Arch, other.Arch = runtime.GOARCH, "s390x"
	digest := s.Push(t, "lab/tool", "1", files(t, other, here))
	got, result, _, err := fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool:1"})
	if err != nil || result.Digest != digest {
		t.Fatalf("%+v, %v", result, err)
	}
	if _, ok := got["blobs/sha256/"+layerBlobs(t, here)[1][7:]]; !ok {
		t.Error("this machine's layer is missing")
	}
	if _, ok := got["blobs/sha256/"+layerBlobs(t, other)[1][7:]]; ok {
		t.Error("another machine's layer was fetched")
	}
	s.Push(t, "lab/other", "1", files(t, other, func() imagetest.Image { o := tool("third"); o.Arch = "ppc64le"; return o }()))
	_, _, _, err = fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/other:1"})
	want(t, err, registry.ErrBadImage, "s390x", "ppc64le")
}

func TestFetchBringsSignatures(t *testing.T) {
	s := registrytest.New(t, false)
	digest := s.Push(t, "lab/tool", "1", files(t, tool("x")))
	s.PushSignature(t, "lab/tool", digest, imagetest.Payload(digest), []byte("signature"))
	got, _, _, err := fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := got["blobs/sha256/"+registrytest.Digest(imagetest.Payload(digest))[7:]]; !ok {
		t.Error("the payload is missing")
	}
	if !bytes.Contains(got["index.json"], []byte(strings.Replace(digest, ":", "-", 1)+".sig")) {
		t.Errorf("the signatures are not listed: %s", got["index.json"])
	}
}

func want(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want one of the kind %q", err, kind)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %q", err, part)
		}
	}
}

func TestCredentials(t *testing.T) {
	const password = "correct-horse"
	for _, bearer := range []bool{false, true} {
		t.Run("bearer "+strconv.FormatBool(bearer), func(t *testing.T) {
			s := registrytest.New(t, true)
			s.Push(t, "lab/tool", "1", files(t, tool("x")))
			s.Login("lab", password, bearer)
			r := registry.Request{Ref: s.Host + "/lab/tool:1", CAFile: s.CAFile(t), AuthFile: s.AuthFile(t, "lab", password)}
			if _, _, _, err := fetch(t, t.Context(), r); err != nil {
				t.Fatal(err)
			}
			for name, change := range map[string]func(*registry.Request){
				"none":        func(r *registry.Request) { r.AuthFile = "" },
				"not there":   func(r *registry.Request) { r.AuthFile = filepath.Join(t.TempDir(), "none") },
				"wrong":       func(r *registry.Request) { r.AuthFile = s.AuthFile(t, "lab", password+"?") },
				"for another": func(r *registry.Request) { r.AuthFile = registrytest.New(t, false).AuthFile(t, "lab", password) },
			} {
				bad := r
				change(&bad)
				_, _, _, err := fetch(t, t.Context(), bad)
				want(t, err, registry.ErrDenied, "images.auth_file")
				if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "a-token") {
					t.Errorf("%s: the error tells a secret: %v", name, err)
				}
			}
			for text, part := range map[string]string{`{"auths": "` + password: "docker login", `{"credsStore":"desktop"}`: "helper program"} {
				bad := r
				bad.AuthFile = filepath.Join(t.TempDir(), "auth.json")
				if err := os.WriteFile(bad.AuthFile, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				_, _, _, err := fetch(t, t.Context(), bad)
				if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), password) {
					t.Errorf("%v", err)
				}
			}
		})
	}
}

func TestTLS(t *testing.T) {
	s := registrytest.New(t, true)
	s.Push(t, "lab/tool", "1", files(t, tool("x")))
	_, _, _, err := fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool:1"})
	want(t, err, registry.ErrUnreachable, "ca_file")
	if _, _, _, err := fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool:1", CAFile: s.CAFile(t)}); err != nil {
		t.Error(err)
	}
}

// A registry elsewhere is not spoken to in the clear, nor is one that a
// redirect leads to, and nobody but the registry gets its credentials.
func TestPlainHTTPAndRedirects(t *testing.T) {
	elsewhere := machineAddress(t)
	// What the registry sends away from itself is served by another host, here
	// another port of loopback, with TLS of the same kind.
	s, blobs := registrytest.New(t, false), registrytest.New(t, false)
	s.Push(t, "lab/tool", "1", files(t, tool("x")))
	blobs.Push(t, "lab/tool", "1", files(t, tool("x")))
	s.Login("lab", "secret", false)
	redirect := func(to string) {
		s.Fault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, to+r.URL.Path+"?X-Signature=signed-secret", http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	r := registry.Request{Ref: s.Host + "/lab/tool:1", AuthFile: s.AuthFile(t, "lab", "secret")}
	redirect(blobs.URL)
	if _, _, _, err := fetch(t, t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, seen := range blobs.Seen() {
		if seen.Authorization != "" {
			t.Errorf("%s came with credentials", seen.Path)
		}
	}
	// A host that is not loopback must not be asked in the clear at all.
	for _, to := range []string{"http://" + elsewhere, "http://registry.example.org"} {
		redirect(to)
		_, _, _, err := fetch(t, t.Context(), r)
		want(t, err, registry.ErrDenied, "plain_http")
		if strings.Contains(err.Error(), "signed-secret") {
			t.Errorf("the error tells a signed URL: %v", err)
		}
	}
	redirect(s.URL) // to itself, for ever
	if _, _, _, err := fetch(t, t.Context(), r); err == nil || !strings.Contains(err.Error(), "redirects") {
		t.Errorf("%v", err)
	}
}

// machineAddress is an address that is not loopback and where nobody listens:
// one for documentation.
func machineAddress(t *testing.T) string {
	t.Helper()
	return "192.0.2.1:5000"
}

func isLayer(r *http.Request, img imagetest.Image, t *testing.T) bool {
	return strings.HasSuffix(r.URL.Path, layerBlobs(t, img)[1])
}

// What a registry does wrong is found, and what a network does is overcome.
func TestFaults(t *testing.T) {
	img := tool(strings.Repeat("0123456789", 100_000))
	whole := files(t, img)
	layer, err := img.Layers[1].Tar()
	if err != nil {
		t.Fatal(err)
	}
	cut := func(at int, ranges bool) func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		times := 0
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !isLayer(r, img, t) {
				next.ServeHTTP(w, r)
				return
			}
			from := 0
			if ranges && r.Header.Get("Range") != "" {
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
					t.Error(err)
				}
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(layer)-1, len(layer)))
				w.Header().Set("Content-Length", strconv.Itoa(len(layer)-from))
				w.WriteHeader(http.StatusPartialContent)
			} else {
				w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
			}
			times++
			if times > 3 {
				_, _ = w.Write(layer[from:])
				return
			}
			_, _ = w.Write(layer[from:min(from+at, len(layer))])
			panic(http.ErrAbortHandler)
		}
	}
	for _, c := range []struct {
		name  string
		fault func(w http.ResponseWriter, r *http.Request, next http.Handler)
		want  error
		part  string
	}{
		{name: "cut in a layer, with ranges", fault: cut(300_000, true)},
		{name: "cut in a layer, without", fault: cut(300_000, false)},
		{name: "cut again and again", want: registry.ErrUnreachable, fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if isLayer(r, img, t) {
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		}},
		{name: "busy for a moment", fault: func() func(http.ResponseWriter, *http.Request, http.Handler) {
			times := map[string]int{}
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if times[r.URL.Path]++; times[r.URL.Path] == 1 && r.URL.Path != "/v2/" {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				next.ServeHTTP(w, r)
			}
		}()},
		{name: "another layer", want: registry.ErrBadImage, part: "digest", fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if isLayer(r, img, t) {
				_, _ = w.Write(bytes.ToUpper(bytes.Replace(layer, []byte("0123"), []byte("9999"), 1)))
				return
			}
			next.ServeHTTP(w, r)
		}},
		{name: "a longer layer", want: registry.ErrBadImage, part: "more than", fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if isLayer(r, img, t) {
				_, _ = w.Write(append(append([]byte{}, layer...), 'x'))
				return
			}
			next.ServeHTTP(w, r)
		}},
		{name: "a shorter layer", want: registry.ErrBadImage, part: "bytes", fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if isLayer(r, img, t) {
				_, _ = w.Write(layer[:100])
				return
			}
			next.ServeHTTP(w, r)
		}},
		{name: "another range", want: registry.ErrBadImage, part: "range", fault: func() func(http.ResponseWriter, *http.Request, http.Handler) {
			first := cut(300_000, true)
			times := 0
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if isLayer(r, img, t) {
					if times++; times > 1 {
						w.Header().Set("Content-Range", "bytes 0-9/10")
						w.WriteHeader(http.StatusPartialContent)
						return
					}
				}
				first(w, r, next)
			}
		}()},
		{name: "another manifest", want: registry.ErrBadImage, part: "digest", fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				_, _ = io.WriteString(w, `{"config":{},"layers":[]}`)
				return
			}
			next.ServeHTTP(w, r)
		}},
		{name: "an endless manifest", want: registry.ErrBadImage, part: "document", fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				for chunk := make([]byte, 1<<20); ; {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			}
			next.ServeHTTP(w, r)
		}},
		{name: "no such image", want: registry.ErrNoSuchImage, fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, r)
		}},
		{name: "too many requests", want: registry.ErrUnreachable, part: "429", fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.WriteHeader(http.StatusTooManyRequests)
		}},
		{name: "no registry", want: registry.ErrNoSuchImage, fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			http.NotFound(w, r)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := registrytest.New(t, false)
			digest := s.Push(t, "lab/tool", "1", whole)
			s.Fault(c.fault)
			got, _, _, err := fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool@" + digest})
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				wantWhole(t, got, whole)
				return
			}
			want(t, err, c.want, c.part)
		})
	}
}

func TestForeignLayers(t *testing.T) {
	s := registrytest.New(t, false)
	img := files(t, tool("x"))
	for name, data := range img {
		changed := bytes.ReplaceAll(data, []byte("vnd.oci.image.layer.v1.tar"), []byte("vnd.oci.image.layer.nondistributable.v1.tar"))
		if !bytes.Equal(changed, data) && strings.HasPrefix(name, "blobs/") {
			s.Push(t, "lab/tool", "1", img)
			s.PushManifest(t, "lab/tool", "1", "application/vnd.oci.image.manifest.v1+json", changed)
		}
	}
	_, _, _, err := fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool:1"})
	want(t, err, registry.ErrBadImage, "elsewhere")
}

// A registry that is not there, or hangs, is given up soon; a caller may give up
// sooner.
func TestNoNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // takes connections and never answers
	// A port that was free a moment ago may be another test's.
	const gone = "127.0.0.1:1"
	short := registry.Limits{Connect: 200 * time.Millisecond, Answer: 300 * time.Millisecond, Stall: 300 * time.Millisecond}
	for _, host := range []string{gone, l.Addr().String(), "registry.invalid"} {
		_, _, _, err := fetch(t, t.Context(), registry.Request{Ref: host + "/lab/tool:1", Limits: short})
		want(t, err, registry.ErrUnreachable, strings.Split(host, ":")[0])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := fetch(t, ctx, registry.Request{Ref: gone + "/lab/tool:1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}

	s := registrytest.New(t, false)
	s.Push(t, "lab/tool", "1", files(t, tool("x")))
	s.Fault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if isLayer(r, tool("x"), t) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
	_, _, _, err = fetch(t, t.Context(), registry.Request{Ref: s.Host + "/lab/tool:1", Limits: registry.Limits{Stall: short.Stall}})
	want(t, err, registry.ErrUnreachable, "nothing for")
}
