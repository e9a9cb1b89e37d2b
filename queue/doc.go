// Package queue is the durable queue: jobs from their acceptance to their end,
// in two bbolt files of one directory. What was answered is on disk.
//
// # The files
//
//	<dir>/lock         flock(2)ed by the process that has the store open; holds its number
//	<dir>/queue.db     jobs that have not ended, and what goes with them
//	<dir>/history.db   jobs that have
//	<dir>/*.partial    half-made files of a creation, compaction or backup; removed at the next start
//
// A job that ends stays in queue.db for about a second, until moveLoop has
// copied it to history.db and then removed it: it is always in one of the two,
// and after a crash in between in both, which the next move settles.
//
// # The layout, version 3 (of history.db 2)
//
// queue.db:
//
//	meta
//	    schema                      version of this layout, 8 bytes
//	    #STATE                      number of jobs in that state, 8 bytes
//	    probe                       time of the last self-check
//	jobs                            its sequence is the last job's
//	    SEQ                      →  the job without its body: a row, see row.go
//	live
//	    SEQ                      →  the row since the job's first claim; the one in jobs is what it was
//	bodies
//	    SEQ                      →  the job's body, written once
//	origins
//	    SEQ                      →  where the job came from, written once
//	secrets                         not in the history and not in a backup
//	    SEQ                      →  the job's secrets, while they may be needed
//	reports                         of jobs that have events or have not ended
//	    SEQ                      →  how far somebody was told of the job, opaque here
//	ids
//	    ID                       →  SEQ
//	states                          all but startable jobs
//	    STATE SEQ                →  NEEDS for preparing and running, else nothing
//	doubtful                        jobs that may be another machine's
//	    SEQ                      →  –
//	owners
//	    OWNER SEQ                →  –
//	ready                           startable jobs, a bucket for each lane that has some
//	    9-PRIORITY OWNER SIZE
//	        SEQ                  →  NEEDS, time of being first overtaken or 0
//	due
//	    TIME 1 SEQ               →  –   a delayed job becomes startable
//	    TIME 2 SEQ               →  –   a job that has not started expires
//	    TIME 3 ID                →  –   a revocation is forgotten
//	dependents
//	    ID 0 SEQ                 →  –   job SEQ waits for the end of job ID
//	ended                           jobs that have dependents left to be told
//	    ID                       →  STATE
//	served                          its sequence is the last stamp
//	    OWNER                    →  stamp of the owner's last claim, 8 bytes
//	outbox
//	    SEQ EVENT                →  the event: a row, see row.go
//	revoked                         its sequence is the number of keys
//	    ID                       →  TIME until which a job of that id is not run
//
// history.db has meta, jobs, bodies, origins, ids, states and owners in the same form, and
//
//	finished
//	    TIME SEQ                 →  –   in the order of retention
//
// SEQ and EVENT are sequences of 8 bytes, TIME is nanoseconds since 1970 in 8
// bytes, both big-endian, so that keys sort as numbers do; STATE is one byte
// (layout.go); OWNER the first 8 bytes of the SHA-256 of its name; SIZE three
// bytes: the thousandths of a cpu and the bytes of memory, each to a quarter of a
// power of two, and the gpus, and two more, scratch and swap in the same classes,
// for jobs that need any; NEEDS thousandths of a cpu, bytes and gpus in 8 bytes
// each, and for those jobs scratch and swap at the end of the value. Rows are
// protobuf messages; a field that is new needs no migration, any other change of
// what is drawn here needs a numbered one in migrate.go, with a test that builds
// the old layout by hand.
//
// What a value is in states, owners, ready and due is decided by the row alone
// (entries in layout.go), and Check compares the two. bbolt's memory is lent: what
// leaves a transaction is copied.
//
// # Who writes
//
// One goroutine, the committer, writes queue.db: it takes all operations that
// wait and commits them together, so the rate of durable submissions grows with
// the number of submitters. An operation looks before it writes, so that one
// that is refused leaves no trace; should one fail half way all the same, the
// others start again without it. bbolt's Batch would do both less well: it
// waits for company when there is none, and repeats everything when one fails.
// Where a claim stands (Stand), the committer makes it with what made a job
// startable or freed a slot, so that being claimed costs no commit of its own. A
// claim that fails is left out, and the others are committed without it. What nobody
// waits for (that somebody was told of a job) waits a moment for another operation.
// history.db is written by whoever holds moveMu. Readers share neither lock.
//
// # Why bbolt is opened as it is
//
// The list of free pages is kept on disk and in a hash map. Without the list
// an open reads every page: 24 s for a million jobs with cold caches, against
// milliseconds. Its price is that each commit writes the list, which hurts only
// when much is free: with 118,000 free pages a claim took 1.3 ms instead of 0.3.
// So a file that is mostly free is compacted, as soon as what is left is copied
// quickly, because nothing is committed meanwhile. Files are mapped with room to
// grow: a new mapping waits for all readers to end and makes writers wait
// meanwhile. No reader outlives a copy to memory or to a file beside.
//
// # Why a million waiting jobs do not matter
//
// A claim reads a few keys of each lane (priority, owner, size), however many
// jobs stand in it. Nothing is indexed in memory, so waiting jobs cost pages of
// the file and no more. What a commit costs is the number of pages it writes,
// because they lie apart on the disk, and a key in a large tree costs three or
// four of them. So the keys that change with every step of a job are in small
// trees: rows of claimed jobs in live, their states in states, which the
// startable jobs are not in, and each lane is a tree of its own. jobs, ids,
// owners and bodies change when a job comes and, many jobs at once, when it goes.
package queue
