package imagetest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
)

// OCIFiles is the files of an OCI layout of images, to be changed before
// [WriteFiles] packs them.
func OCIFiles(images ...Image) (map[string][]byte, error) { return layout(images) }

// WriteFiles packs the files of a layout as a tar.
func WriteFiles(w io.Writer, files map[string][]byte) error { return writeTar(w, files) }

// TopDigest is the digest of the first manifest or index that a layout lists.
func TopDigest(files map[string][]byte) (string, error) {
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		return "", err
	}
	if len(index.Manifests) == 0 {
		return "", fmt.Errorf("the layout lists nothing")
	}
	return index.Manifests[0].Digest, nil
}

// Payload is cosign's document that says that the image of a digest is good.
func Payload(digest string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"lab/tool"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, digest)
}

// SignatureManifest is the manifest that holds a signature, as cosign pushes it
// under the tag sha256-HEX.sig, with the payload and the config that it names.
func SignatureManifest(payload, value []byte) (manifest []byte, blobs [][]byte, err error) {
	signed := newBlob(payload)
	config := newBlob([]byte(`{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`))
	layer := describe("application/vnd.dev.cosign.simplesigning.v1+json", signed)
	layer["annotations"] = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(value)}
	manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": describe("application/vnd.oci.image.config.v1+json", config), "layers": []any{layer},
	})
	return manifest, [][]byte{payload, config.data}, err
}

// AddSignature puts a signature into a layout, noted as `cosign save` does.
func AddSignature(files map[string][]byte, payload, value []byte) error {
	data, blobs, err := SignatureManifest(payload, value)
	if err != nil {
		return err
	}
	for _, b := range append(blobs, data) {
		files["blobs/sha256/"+newBlob(b).hex()] = b
	}
	d := describe(manifestType, newBlob(data))
	d["annotations"] = map[string]string{"kind": "dev.cosignproject.cosign/sigs"}
	var index map[string]any
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		return err
	}
	list, _ := index["manifests"].([]any)
	index["manifests"] = append(list, d)
	files["index.json"], err = json.Marshal(index)
	return err
}
