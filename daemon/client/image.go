package client

import (
	"context"
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
