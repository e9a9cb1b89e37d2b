// Command pack makes the Debian and RPM packages of a binary that was built
// before. It links nothing of the program, and the program nothing of it.
//
//	pack -binary build/girder-worker -version 1.2.3 -arch amd64 -out build deb rpm
//	pack -binary build/girder-worker -version 1.2.3 -root / -prefix /usr/local install
//
// What is in the packages is written in packaging/nfpm.yaml; what has to be made
// first (manual pages, completions, changelogs, scripts with numbers in them) is
// staged in OUT/package. The same commit gives the same bytes: every file has
// the time that SOURCE_DATE_EPOCH says.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	"github.com/goreleaser/nfpm/v2/rpm"
)

// order is what pack was asked for.
type order struct {
	binary  string // to be packed
	native  string // the same for this machine, which is asked for completions
	version string // of the program, by semver.org
	arch    string // as Go calls it
	out     string
	// maintainer is "NAME <ADDRESS>", who answers for the packages.
	maintainer string
	time       time.Time
	// compression of the .deb; empty: as in nfpm.yaml.
	compression string
	// root and prefix are where install puts what would be in a package: below
	// root, and what would be in /usr below prefix.
	root, prefix string
	// pages are the staged pages of the manual, as manN/NAME.
	pages []string
}

func (o *order) stage() string { return filepath.Join(o.out, "package") }

func main() {
	var o order
	flag.StringVar(&o.binary, "binary", "build/girder-worker", "what to pack")
	flag.StringVar(&o.native, "native", "", "a binary of the same commit that runs here, if that one does not")
	flag.StringVar(&o.version, "version", "", "version of the program")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture of the binary")
	flag.StringVar(&o.out, "out", "build", "directory for the packages")
	flag.StringVar(&o.maintainer, "maintainer", "", "who answers for the packages")
	flag.StringVar(&o.compression, "compression", "", "of the .deb, if not as in nfpm.yaml; none is for tests, which make many")
	flag.StringVar(&o.root, "root", "", "for install: directory to install below")
	flag.StringVar(&o.prefix, "prefix", "/usr", "for install: what stands for /usr there")
	flag.Parse()
	if err := o.pack(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func (o *order) pack(formats []string) error {
	if o.version == "" || o.maintainer == "" || len(formats) == 0 {
		return errors.New("want -version, -maintainer and what to make: deb, rpm or both, or install")
	}
	if o.native == "" {
		o.native = o.binary
	}
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("cannot read SOURCE_DATE_EPOCH, which must be the commit's time in seconds: %w", err)
	}
	o.time = time.Unix(epoch, 0).UTC()
	if err := o.prepare(); err != nil {
		return err
	}
	if slices.Equal(formats, []string{"install"}) {
		return o.install()
	}
	packagers := map[string]nfpm.Packager{"deb": deb.Default, "rpm": rpm.DefaultRPM}
	for _, format := range formats {
		packager, ok := packagers[format]
		if !ok {
			return fmt.Errorf("unknown format %q; there are deb and rpm", format)
		}
		if err := o.write(format, packager); err != nil {
			return fmt.Errorf("cannot make the %s: %w", format, err)
		}
	}
	return nil
}

// contents is what a package of a format has in it, and says of itself.
func (o *order) contents(format string) (*nfpm.Info, error) {
	variables := map[string]string{
		"VERSION": o.version, "ARCH": o.arch, "BINARY": o.binary, "STAGE": o.stage(), "MAINTAINER": o.maintainer,
	}
	config, err := nfpm.ParseFileWithEnvMapping("packaging/nfpm.yaml", func(name string) string { return variables[name] })
	if err != nil {
		return nil, err
	}
	info, err := config.Get(format)
	if err != nil {
		return nil, err
	}
	info.MTime = o.time
	if o.compression != "" {
		info.Deb.Compression = o.compression
	}
	if format == "rpm" {
		info.Changelog = filepath.Join(o.stage(), "changelog.yaml")
	}
	for _, page := range o.pages {
		info.Contents = append(info.Contents, &files.Content{Source: filepath.Join(o.stage(), page), Destination: "/usr/share/man/" + page})
	}
	script := func(name string) string { return filepath.Join(o.stage(), format, name) }
	if format == "rpm" {
		info.Scripts = nfpm.Scripts{PreInstall: script("pre"), PostInstall: script("post"), PreRemove: script("preun"), PostRemove: script("postun")}
	} else {
		info.Scripts = nfpm.Scripts{PreInstall: script("preinst"), PostInstall: script("postinst"), PreRemove: script("prerm"), PostRemove: script("postrm")}
	}
	for _, c := range info.Contents {
		if c.FileInfo == nil {
			c.FileInfo = &files.ContentFileInfo{}
		}
		c.FileInfo.MTime = o.time
		if format == "rpm" && c.Type == "" && (strings.HasPrefix(c.Destination, "/usr/share/man/") || strings.HasPrefix(c.Destination, "/usr/share/doc/")) {
			c.Type = files.TypeRPMDoc
		}
		if c.FileInfo.Mode == 0 && c.Type != files.TypeSymlink && c.Type != files.TypeDir && c.Type != files.TypeTree {
			// What the checkout's umask made of them is nobody's business.
			c.FileInfo.Mode = 0o644
		}
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return nil, err
	}
	return info, nil
}

func (o *order) write(format string, packager nfpm.Packager) error {
	info, err := o.contents(format)
	if err != nil {
		return err
	}
	path := filepath.Join(o.out, packager.ConventionalFileName(info))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(packager.Package(info, f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	fmt.Println(path)
	return nil
}
