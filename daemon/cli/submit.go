package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

const submitLong = `Submit a job and print its id. Once it is printed, the job is on disk and will
come to an end, whatever happens to the daemon or the machine.

The job is what the flags and arguments say, as with "run", or with --file a job
document: a JSON object, or {"jobs": [...]} with up to 1,000 of them, which are
accepted all or none. --file - reads it from stdin. girder-worker-job(5) tells its
fields, among them what only a document can say: volumes, girder, downloads,
uploads, stdout, stderr. Any other is refused by name. Its paths on the
host are absolute.`

const submitExample = `  girder-worker submit --name nightly segment:1.0 --in /slides/1.tif
  girder-worker submit --after 0000012h4kd report:2.1
  girder-worker submit --file job.json
  id=$(girder-worker submit busybox true) && girder-worker wait "$id"`

// maxDocument bounds what is read of --file, so that a wrong file is refused
// here and not by memory. The daemon has its own, tighter limits.
const maxDocument = 64 << 20

func (a *app) submitCommand() *cobra.Command {
	var (
		flags jobFlags
		file  string
	)
	cmd := &cobra.Command{
		Use:               "submit [FLAGS] IMAGE [ARG...] | --task NAME [KEY=VALUE...] | --file FILE|-",
		Short:             "Submit a job and print its id",
		Long:              submitLong,
		Example:           submitExample,
		ValidArgsFunction: a.completeWhat,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				if cmd.Flags().NFlag() > given(cmd, "file", "json", "socket") || len(args) > 0 {
					return usageError(cmd, "--file takes the whole job from the file: no other flag of a job, no IMAGE")
				}
				return cannot("submit "+file, a.submitFile(cmd.Context(), file))
			}
			what, document, err := a.jobDocument(cmd, &flags, args)
			if err != nil {
				return err
			}
			c := a.client()
			defer c.Close()
			job, err := submitSafely(cmd.Context(), c, document)
			if err != nil {
				return cannot("submit "+what, err)
			}
			return a.printSubmitted(&job)
		},
	}
	flags.add(cmd)
	a.completeTaskFlag(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "read the job document from `FILE`, - for stdin")
	return a.jsonFlag(cmd)
}

// given counts which of the flags were given.
func given(cmd *cobra.Command, names ...string) (n int) {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			n++
		}
	}
	return n
}

func (a *app) submitFile(ctx context.Context, file string) error {
	document, err := a.readDocument(file)
	if err == nil {
		document, err = withOwnGirder(document, a.LookupEnv)
	}
	if err != nil {
		return err
	}
	c := a.client()
	defer c.Close()
	if isBatch(document) {
		jobs, err := c.SubmitBatch(ctx, document)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(apitype.Jobs{Jobs: jobs})
		}
		for i := range jobs {
			if err := a.printSubmitted(&jobs[i]); err != nil {
				return err
			}
		}
		return nil
	}
	job, err := c.Submit(ctx, document)
	if err != nil {
		return err
	}
	return a.printSubmitted(&job)
}

// isBatch tells the two forms apart; what is neither is the daemon's to refuse.
func isBatch(document []byte) bool {
	var top struct {
		Jobs json.RawMessage `json:"jobs"`
	}
	return json.Unmarshal(document, &top) == nil && top.Jobs != nil
}

func (a *app) readDocument(file string) ([]byte, error) {
	in := a.Stdin
	if file != "-" {
		if err := checkInput(file); err != nil {
			return nil, err
		}
		f, err := os.Open(file)
		if err != nil {
			return nil, plain(err)
		}
		defer f.Close()
		in = f
	}
	document, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	switch {
	case err != nil:
		return nil, plain(err)
	case len(document) > maxDocument:
		return nil, fmt.Errorf("larger than %s, so it is no job document", size(maxDocument))
	case len(document) == 0:
		return nil, errors.New("it is empty; a job document is a JSON object")
	}
	return document, nil
}

// printSubmitted prints the id alone, for scripts; a job that was born failed
// is told on stderr beside it.
func (a *app) printSubmitted(job *apitype.Job) error {
	if a.json {
		return a.printJSON(job)
	}
	if job.State == "failed" {
		fmt.Fprintf(a.Stderr, "girder-worker: job %s failed at once: %s\n", job.ID, printable(job.Reason))
	}
	_, err := fmt.Fprintln(a.Stdout, job.ID)
	return err
}
