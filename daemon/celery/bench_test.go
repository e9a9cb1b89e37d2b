package celery

import "testing"

// BenchmarkDecode reads a task as Girder sends it.
func BenchmarkDecode(b *testing.B) {
	d := delivery(nil)
	b.SetBytes(int64(len(d.Body)))
	for b.Loop() {
		if _, err := Decode(d, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReply writes a result.
func BenchmarkReply(b *testing.B) {
	r := &Request{ID: "8cb285be-9c78-4cde-8082-52889886f5bb", ReplyTo: "fd8987d0"}
	for b.Loop() {
		if _, _, err := r.Reply(Result{State: Success}); err != nil {
			b.Fatal(err)
		}
	}
}
