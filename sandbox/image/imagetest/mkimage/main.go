// Command mkimage writes a docker-archive with the machine's static busybox and
// further static programs, so that a first job needs no registry.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"girderworker/sandbox/image/imagetest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run() error {
	out := flag.String("o", "", "`file` to write, - for the standard output")
	name := flag.String("name", "busybox:latest", "the image's `name`")
	user := flag.String("user", "", "the `user` that its processes run as")
	var add []string
	flag.Func("add", "`HOST:CONTAINER`, a file to add; may be repeated", func(v string) error {
		add = append(add, v)
		return nil
	})
	flag.Parse()
	if *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	img, err := imagetest.Busybox()
	if err != nil {
		return err
	}
	img.Refs, img.User = []string{*name}, *user
	for _, v := range add {
		host, target, ok := strings.Cut(v, ":")
		if !ok {
			return fmt.Errorf("-add %q is not HOST:CONTAINER", v)
		}
		if err := img.Add(host, target); err != nil {
			return err
		}
	}
	if *out == "-" {
		return imagetest.DockerArchive(os.Stdout, img)
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	if err := imagetest.DockerArchive(f, img); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
