package image

import (
	"os"
)

// usage is the bytes of the files of all layers in the store.
func (s *Store) usage() (int64, error) {
	entries, err := os.ReadDir(s.path(layersDir))
	if err != nil {
		return 0, err
	}
	var used int64
	for _, e := range entries {
		var l layerDocument
		// A layer without its document is rubbish that the next sweep takes.
		if err := readDocument(s.path(layersDir, e.Name(), layerFile), &l); err == nil {
			used += l.Size
		}
	}
	return used, nil
}

// overQuota is what a person does about a quota.
func overQuota(quota, used int64) error {
	return blame(ErrQuota, "the store may hold %d MiB and holds %d; remove images and `images prune`, or raise images.quota", quota>>20, used>>20)
}

// budget lets the unpacker make no more than the quota has left.
func (st *staging) budget(o *ImportOptions) error {
	if o.Quota <= 0 {
		return nil
	}
	var err error
	if st.used, err = st.store.usage(); err != nil {
		return err
	}
	left := o.Quota - st.used
	if left <= 0 {
		return overQuota(o.Quota, st.used)
	}
	st.tight = left < o.Limits.Bytes
	o.Limits.Bytes = min(o.Limits.Bytes, left)
	return nil
}

// withinQuota counts again what other imports may have brought meanwhile. The
// caller holds the lock.
func (st *staging) withinQuota(quota int64) error {
	if quota <= 0 {
		return nil
	}
	used, err := st.store.usage()
	if err != nil {
		return err
	}
	more := int64(0)
	for hex, doc := range st.layers {
		if _, err := os.Lstat(st.store.path(layersDir, hex)); isNotExist(err) {
			more += doc.Size
		}
	}
	if more > quota-used {
		return overQuota(quota, used)
	}
	return nil
}
