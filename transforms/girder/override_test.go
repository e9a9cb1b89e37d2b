package girder

import "testing"

func TestOverride(t *testing.T) {
	for _, c := range []struct{ override, api, want string }{
		{"", "http://girder:8080/api/v1/", "http://girder:8080/api/v1"},
		{"https://girder.lab/api/v1/", "http://172.17.0.1:8080/api/v1", "https://girder.lab/api/v1"},
		{"http://girder:8080=https://girder.lab", "http://girder:8080/api/v1", "https://girder.lab/api/v1"},
		{"http://girder:8080=https://girder.lab", "http://girder:80801/api/v1", "http://girder:80801/api/v1"},
		{"http://a=http://b, http://a/deep=http://c", "http://a/deep/api/v1", "http://c/api/v1"},
		{"http://a=http://b,http://z/api/v1", "http://q/api/v1", "http://z/api/v1"},
	} {
		o, err := ParseOverride(c.override)
		if err != nil {
			t.Errorf("%q: %v", c.override, err)
		} else if got := o.Apply(c.api); got != c.want {
			t.Errorf("%q makes %s of %s, not %s", c.override, got, c.api, c.want)
		}
	}
	for _, bad := range []string{"girder", "ftp://x/api/v1", "http://u:p@x/api/v1", "http://a=", "=http://a", "http://a,http://b"} {
		if _, err := ParseOverride(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
