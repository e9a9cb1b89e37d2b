// Package monitor is the small half of the daemon that runs as root. It prepares
// the state directory, starts the other half (the front, an unprivileged user),
// and does for it the few things that need privilege: start, cancel, find and
// end attempts, remove their files, and hand archives to the image store's
// helper. [Client] is the front's side.
//
// The monitor trusts the front with no path, no privilege and no uid 0, and it
// reads no foreign byte: images are read by helper processes, and the
// containers' files are only ever removed.
//
// # Who waits for whom
//
//	[Run] ─┬─ serve: one goroutine reads requests ─── one goroutine a request
//	       ├─ one goroutine a live attempt, parked on its runner's pidfd (no thread)
//	       ├─ warm: keeps one runner started ahead
//	       └─ waits for the front's process
//
// Either half that ends, by whatever way, ends the other: the socket between
// them closes. Attempts live on and are found again by the next monitor.
//
// # The attempt's fence
//
// An attempt is its directory, which is made once and never again, and its
// lock, which its runner holds. The monitor refuses to start an attempt of a job
// while another one's lock is held, and tells that one has ended only after its
// cgroup is empty and its mounts and work directory are gone.
package monitor
