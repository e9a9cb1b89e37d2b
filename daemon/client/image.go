package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"girderworker/daemon/apitype"
)

// ImportImage sends an archive. name calls an image that has no name of its own,
// or calls it otherwise; private keeps what an admin imports for the admin.
func (c *Client) ImportImage(ctx context.Context, archive io.Reader, name string, private bool) ([]apitype.Image, error) {
	query := url.Values{}
	if name != "" {
		query.Set("name", name)
	}
	if private {
		query.Set("private", "1")
	}
	answer, err := c.send(ctx, request{
		method: http.MethodPost, path: "/v1/images", query: query,
		// Without a wrapper the transport closes a file, which is the caller's.
		body: io.NopCloser(archive), kind: "application/octet-stream",
	})
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var images apitype.Images
	err = c.read(ctx, answer, &images)
	return images.Images, err
}

// Images returns the images that the caller may use.
func (c *Client) Images(ctx context.Context) ([]apitype.Image, error) {
	var images apitype.Images
	err := c.call(ctx, http.MethodGet, "/v1/images", nil, nil, &images)
	return images.Images, err
}

// RemoveImage removes a name of an image; the image goes with its last name.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/images", url.Values{"ref": {ref}}, nil, nil)
}

// PruneImages removes what no name and no job needs.
func (c *Client) PruneImages(ctx context.Context) (apitype.Pruned, error) {
	var pruned apitype.Pruned
	err := c.call(ctx, http.MethodPost, "/v1/images/prune", nil, nil, &pruned)
	return pruned, err
}

// VerifyImage reads every byte of an image again and holds it against its digest.
func (c *Client) VerifyImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodPost, "/v1/images/verify", url.Values{"ref": {ref}}, nil, nil)
}

// PullImage has the daemon fetch an image from its registry; with missing, only
// one that is not there. private keeps what an admin pulls for the admin. tell is
// called with the progress. The note says what is to be known of the result.
func (c *Client) PullImage(ctx context.Context, ref string, missing, private bool, tell func(apitype.Progress)) (img apitype.Image, note string, err error) {
	query := url.Values{"ref": {ref}}
	if missing {
		query.Set("missing", "1")
	}
	if private {
		query.Set("private", "1")
	}
	answer, err := c.send(ctx, request{method: http.MethodPost, path: "/v1/images/pull", query: query, accept: "application/x-ndjson"})
	if err != nil {
		return apitype.Image{}, "", err
	}
	defer answer.Body.Close()
	for lines := json.NewDecoder(answer.Body); ; {
		var e apitype.PullEvent
		if err := lines.Decode(&e); err != nil {
			return apitype.Image{}, "", c.unreachable(ctx, fmt.Errorf("cannot read the daemon's answer: %w", err))
		}
		switch {
		case e.Error != nil:
			return apitype.Image{}, "", &Error{Status: answer.StatusCode, Kind: e.Error.Kind, Text: e.Error.Message, Field: e.Error.Field}
		case e.Image != nil:
			return *e.Image, e.Note, nil
		case e.Progress != nil:
			tell(*e.Progress)
		}
	}
}

// PinImage keeps an image whatever is pruned, removed or pulled; UnpinImage ends that.
func (c *Client) PinImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodPost, "/v1/images/pin", url.Values{"ref": {ref}}, nil, nil)
}

// UnpinImage ends a [Client.PinImage].
func (c *Client) UnpinImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodPost, "/v1/images/unpin", url.Values{"ref": {ref}}, nil, nil)
}
