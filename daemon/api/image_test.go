package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/apitype"
)

// TestImportOwner: what an admin imports is everyone's, a user's is that user's.
func TestImportOwner(t *testing.T) {
	w := newWorker(t, nil)
	for _, test := range []struct {
		as    *person
		query string
		want  int
	}{
		{w.person(alice), "", alice},
		{w.person(alice), "&private=1", alice},
		{w.person(0), "", -1},
		{w.person(0), "&private=1", 0},
		{w.person(operator, adminGroup), "", -1},
	} {
		_, body := test.as.do("POST", "/v1/images?name=x:1"+test.query, "archive")
		images := decodeAs[apitype.Images](t, body).Images
		if len(images) != 1 || images[0].Owner != test.want || images[0].Names[0] != "x:1" || images[0].Size != 7 {
			t.Errorf("uid %d%s: got %+v, want owner %d", test.as.uid, test.query, images, test.want)
		}
	}
}

// TestImageOfAnAdmin: an admin removes and verifies what is everyone's, and else
// the admin's own.
func TestImageOfAnAdmin(t *testing.T) {
	w := newWorker(t, nil)
	var asked []int
	w.own = func(ref string, owner int) error {
		asked = append(asked, owner)
		if ref == "mine:1" && owner == everyone {
			return ErrNoImage
		}
		return nil
	}
	for _, test := range []struct {
		as   *person
		ref  string
		want []int
	}{
		{w.person(alice), "mine:1", []int{alice}},
		{w.person(operator, adminGroup), "theirs:1", []int{everyone}},
		{w.person(operator, adminGroup), "mine:1", []int{everyone, operator}},
	} {
		for _, request := range []string{"DELETE /v1/images", "POST /v1/images/verify"} {
			asked = nil
			method, path, _ := strings.Cut(request, " ")
			status, body := test.as.do(method, path+"?ref="+test.ref, "")
			if status != http.StatusNoContent || !slices.Equal(asked, test.want) {
				t.Errorf("uid %d, %s %s: %d %s, asked as %v", test.as.uid, request, test.ref, status, body, asked)
			}
		}
	}
}

// TestBadArchive: a client that sends a large archive hears why its first bytes
// were refused.
func TestBadArchive(t *testing.T) {
	w := newWorker(t, nil)
	w.imports = func(_ context.Context, archive io.Reader) ([]apitype.Image, error) {
		if _, err := io.ReadFull(archive, make([]byte, 512)); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: not an archive", ErrBadImage)
	}
	answer := w.person(alice).open(t.Context(), "POST", "/v1/images", io.LimitReader(zeros{}, 64<<20), "")
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusBadRequest {
		t.Fatalf("%d %s, %v", answer.StatusCode, body, err)
	}
	if e := decodeAs[apitype.Failure](t, body).Error; e.Message != "bad image: not an archive" {
		t.Errorf("got %+v", e)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestImportThatBreaksOff: a client that goes away leaves an error to the
// import, never the end of an archive.
func TestImportThatBreaksOff(t *testing.T) {
	w := newWorker(t, nil)
	begun, ended := make(chan struct{}), make(chan error, 1)
	w.imports = func(_ context.Context, archive io.Reader) ([]apitype.Image, error) {
		_, err := io.ReadFull(archive, make([]byte, 1))
		close(begun)
		if err == nil {
			_, err = io.Copy(io.Discard, archive)
		}
		ended <- err
		return nil, err
	}
	conn, err := dialAs(w.socket, alice, nil)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v1/images HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	<-begun
	conn.Close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the import took a part for the whole")
		}
	case <-time.After(10 * time.Second):
		t.Error("the import goes on without its client")
	}
}

// TestSlowRequest: a client that does not finish its request does not keep its
// connection.
func TestSlowRequest(t *testing.T) {
	w := newWorker(t, nil, func(s *Server) {
		s.http.ReadHeaderTimeout, s.http.ReadTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	for _, begin := range []string{
		"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n",
		"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
	} {
		conn, err := dialAs(w.socket, alice, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(bufio.NewReader(conn))
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) && len(answer) > 0 {
			t.Errorf("%q: answered %q, %v", begin, answer, err)
		}
	}
}

// TestHugeRequests are refused by their size, before they are read.
func TestHugeRequests(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	e := p.refused("POST", "/v1/jobs", strings.Repeat(" ", maxBody+1), http.StatusRequestEntityTooLarge)
	if e.Kind != apitype.KindTooLarge {
		t.Errorf("got %+v", e)
	}
	id := p.submit(`{"image":"busybox"}`).ID
	p.refused("POST", "/v1/jobs/"+id+"/cancel", `{"reason":"`+strings.Repeat("x", 2000)+`"}`, http.StatusBadRequest)
	answer := func() int {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://x/v1/jobs", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Long", strings.Repeat("x", 64<<10))
		a, err := p.http.Do(r)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			return http.StatusRequestHeaderFieldsTooLarge // cut off while it was still sending
		}
		a.Body.Close()
		return a.StatusCode
	}()
	if answer != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a long header: %d", answer)
	}
}
