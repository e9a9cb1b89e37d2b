package runner

import (
	"path"
	"strings"
)

// mimeTypes are those that Python's mimetypes module knows without the files of
// a machine, for the names that data has; empty is not known.
var mimeTypes = map[string]string{
	".7z": "", ".a": "application/octet-stream", ".aac": "audio/aac", ".aif": "audio/x-aiff", ".aiff": "audio/x-aiff",
	".avi": "video/x-msvideo", ".avif": "image/avif", ".bin": "application/octet-stream", ".bmp": "image/bmp",
	".c": "text/plain", ".cdf": "application/x-netcdf", ".css": "text/css", ".csv": "text/csv",
	".doc": "application/msword", ".dll": "application/octet-stream", ".eps": "application/postscript", ".exe": "application/octet-stream",
	".gif": "image/gif", ".gtar": "application/x-gtar", ".h": "text/plain", ".h5": "application/x-hdf5", ".hdf": "application/x-hdf",
	".heic": "image/heic", ".htm": "text/html", ".html": "text/html", ".ico": "image/vnd.microsoft.icon", ".ief": "image/ief",
	".jpe": "image/jpeg", ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".js": "text/javascript", ".json": "application/json",
	".latex": "application/x-latex", ".m3u8": "application/vnd.apple.mpegurl", ".md": "text/markdown", ".mjs": "text/javascript",
	".mov": "video/quicktime", ".mp2": "audio/mpeg", ".mp3": "audio/mpeg", ".mp4": "video/mp4", ".mpeg": "video/mpeg", ".mpg": "video/mpeg",
	".nc": "application/x-netcdf", ".o": "application/octet-stream", ".pbm": "image/x-portable-bitmap", ".pdf": "application/pdf",
	".pgm": "image/x-portable-graymap", ".png": "image/png", ".pnm": "image/x-portable-anymap", ".ppm": "image/x-portable-pixmap",
	".ppt": "application/vnd.ms-powerpoint", ".ps": "application/postscript", ".py": "text/x-python", ".pyc": "application/x-python-code",
	".qt": "video/quicktime", ".ras": "image/x-cmu-raster", ".rgb": "image/x-rgb", ".rtx": "text/richtext", ".sgml": "text/x-sgml",
	".sh": "application/x-sh", ".so": "application/octet-stream", ".svg": "image/svg+xml", ".tar": "application/x-tar", ".tex": "application/x-tex",
	".tif": "image/tiff", ".tiff": "image/tiff", ".tsv": "text/tab-separated-values", ".txt": "text/plain", ".vcf": "text/x-vcard",
	".wasm": "application/wasm", ".wav": "audio/x-wav", ".webm": "video/webm", ".webmanifest": "application/manifest+json", ".webp": "image/webp",
	".xbm": "image/x-xbitmap", ".xls": "application/vnd.ms-excel", ".xml": "text/xml", ".xpm": "image/x-xpixmap", ".zip": "application/zip",
}

// mimeType guesses the type of a file by its name, as Girder's Python client
// does: what a compressed file holds, and empty where nobody knows.
func mimeType(name string) string {
	for {
		ext := strings.ToLower(path.Ext(name))
		base := strings.TrimSuffix(name, path.Ext(name))
		switch ext {
		case ".tgz", ".taz", ".tz", ".tbz2", ".txz":
			return mimeTypes[".tar"]
		case ".svgz":
			return mimeTypes[".svg"]
		case ".gz", ".z", ".bz2", ".xz", ".br":
			if strings.Contains(base, ".") {
				name = base
				continue
			}
			return ""
		}
		if base == "" {
			return "" // a hidden file, not an ending
		}
		return mimeTypes[ext]
	}
}
