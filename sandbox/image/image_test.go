package image_test

import (
	"context"
	"os"
	"testing"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == image.UnpackCommand {
		os.Exit(image.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func TestImport(t *testing.T) {
	s, err := image.Open(t.TempDir()+"/images", image.Options{Writable: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	imgs, err := s.Import(context.Background(), imagetest.Archive(t, b), image.ImportOptions{Owner: image.Everyone})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", imgs)
	l, err := s.Layers(imgs[0])
	t.Log(l, err)
	if err := s.Verify(context.Background(), imgs[0].ID); err != nil {
		t.Fatal(err)
	}
}
