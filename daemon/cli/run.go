package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

// patience is how long `run`, `wait` and `logs -f` outlast a daemon that is
// being restarted. Its jobs run on meanwhile.
const patience = 5 * time.Minute

const runLong = `Submit a job, show what it writes as it writes it, and end with its exit code.

What the job writes to stdout and stderr comes out of stdout and stderr here.
Ctrl-C cancels the job and waits for its end; a second ctrl-C leaves at once, and
the job ends on its own. If the connection to the daemon is lost, the job runs
on: girder-worker waits for the daemon to come back and goes on where it was.

A pipe that --input or --output names, or --progress, is a named pipe in the
container; {NAME} in an argument, in --entrypoint or in the value of --env
becomes its path there, {{NAME}} the text {NAME}. Files are opened when the job
starts, with the rights of whoever submitted it. What the job writes in its
container stays within its scratch space, and ends with it.

girder:ID in place of the file of --input is a file in Girder. girder-file:ID,
girder-item:ID and girder-folder:ID are fetched first, and {NAME} is where they
are; with --output, what the job writes at {NAME} goes to girder-item:ID or
girder-folder:ID. The server and your API key stand in
~/.config/girder-worker/girder.json as in the field "girder" of a job document.

With --task, what runs is a task that the machine has: "girder-worker tasks" lists
them, "girder-worker tasks show NAME" tells its parameters. A file is given by its
path or as girder-file:ID, girder-item:ID or girder-folder:ID. A task in Python gets a
VALUE that is JSON as what it says, and any other as text, as it gets every one for a
parameter whose default is a text; what it returns is shown last, as JSON.

With --json, stdout has a line of JSON for each piece of output and each change of
state, and one with the whole job at its end.`

const runExample = `  girder-worker run busybox echo hello
  girder-worker run -v ./slides:/slides:ro --cpus 4 --memory 8g segment:1.0 /slides/1.tif
  girder-worker run --input scan=scan.nii --output mask=mask.nii segment:1.0 --in {scan} --out {mask}
  girder-worker run --task lab.segment slide=./1.tif sigma=1.5
  girder-worker run --progress segment:1.0 --progress-file {progress}`

func (a *app) runCommand() *cobra.Command {
	var flags jobFlags
	cmd := &cobra.Command{
		Use:               "run [FLAGS] IMAGE [ARG...] | --task NAME [KEY=VALUE...]",
		Short:             "Submit a job, show its output, end with its exit code",
		Long:              runLong,
		Example:           runExample,
		Annotations:       map[string]string{epilog: jobExitCodes},
		ValidArgsFunction: a.completeWhat,
		RunE: func(cmd *cobra.Command, args []string) error {
			what, document, err := a.jobDocument(cmd, &flags, args)
			if err != nil {
				return err
			}
			return a.runJob(cmd.Context(), what, document)
		},
	}
	flags.add(cmd)
	a.completeTaskFlag(cmd)
	return a.jsonFlag(cmd)
}

func (a *app) runJob(ctx context.Context, what string, document map[string]any) error {
	c := a.client()
	defer c.Close()
	id := identify(document)
	unanswered := func() string {
		return fmt.Sprintf("girder-worker: the daemon has not answered, and may have job %s all the same; `girder-worker cancel %[1]s` cancels it", id)
	}
	a.leaving.Store(&unanswered)
	defer a.leaving.Store(nil)
	// Who interrupts it now has it canceled when it is known to be there.
	submitting, over := outlast(ctx, answerPatience)
	job, err := submitSafely(submitting, c, document)
	over()
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.Stderr, unanswered())
	}
	if err != nil {
		return cannot("run "+what, err)
	}
	job, err = a.watch(ctx, c, job.ID)
	if err != nil {
		return cannot("follow job "+job.ID, err)
	}
	if !a.json && len(job.Result) > 0 { // of a function
		fmt.Fprintf(a.Stdout, "%s\n", job.Result)
	}
	return a.endAs(&job)
}

// watch shows a job's output until its end. When ctx ends it asks for a cancel
// and goes on: the job's last words are shown too.
func (a *app) watch(ctx context.Context, c *client.Client, id string) (job apitype.Job, err error) {
	line := &statusLine{w: a.Stderr, on: isTerminal(a.Stderr)}
	defer line.clear()
	stay := context.WithoutCancel(ctx)
	var canceled atomic.Bool
	leaving := func() string {
		// Without the line's lock, which output that nobody reads may hold.
		start := "girder-worker: job " + id
		if line.on {
			start = "\r\x1b[K" + start
		}
		if canceled.Load() {
			return fmt.Sprintf("%s is being canceled and ends on its own; `girder-worker wait %s` tells when", start, id)
		}
		return fmt.Sprintf("%s goes on, the daemon has not confirmed the cancel; `girder-worker logs -f %s` follows it, `girder-worker cancel %s` asks again",
			start, id, id)
	}
	a.leaving.Store(&leaving)
	defer a.leaving.Store(nil)
	stop := context.AfterFunc(ctx, func() {
		if _, err := c.Cancel(stay, id, ""); err != nil {
			line.say("girder-worker: cannot cancel job " + id + ": " + err.Error())
			return
		}
		canceled.Store(true)
	})
	defer stop()

	job.ID = id
	ended := false
	enc := json.NewEncoder(a.Stdout)
	err = c.Log(stay, id, client.LogOptions{Follow: true, Status: true, Patience: a.patience(line)}, func(f *apitype.LogFrame) error {
		if f.Job != nil {
			job, ended = *f.Job, true
		}
		switch {
		case a.json:
			return enc.Encode(f)
		case f.Job != nil:
		case f.Status != nil:
			line.show(f.Status)
		case f.Stream == apitype.StreamStdout:
			return line.output(a.Stdout, f.Output())
		default:
			return line.output(a.Stderr, f.Output())
		}
		return nil
	})
	if err == nil && !ended {
		err = errors.New("the daemon ended the log before the job ended")
	}
	return job, err
}

func (a *app) patience(line *statusLine) client.Patience {
	return client.Patience{For: patience, Lost: func(error) {
		line.say("girder-worker: the daemon is away; the job runs on, waiting for the daemon to come back")
	}, Back: func() {
		line.say("girder-worker: the daemon is back")
	}}
}

// endAs ends the program as the job ended, with its error where the code alone
// does not tell it.
func (a *app) endAs(job *apitype.Job) error {
	code := exitError
	if job.ExitCode != nil {
		code = *job.ExitCode
	}
	if code == exitOK {
		return nil
	}
	if job.Error != "" {
		fmt.Fprintf(a.Stderr, "girder-worker: job %s %s\n", job.ID, ending(job.State, job.Error))
	}
	return exitStatus(code)
}

// answerPatience is how long the answer to a submission is waited for after an interrupt.
const answerPatience = 5 * time.Second

// outlast is a context that ends d after ctx has.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(d):
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() { stop(); cancel() }
}

// identify gives a document an id, if it has none, and returns it.
func identify(document map[string]any) string {
	if _, named := document["id"]; !named {
		document["id"] = newID()
	}
	return fmt.Sprint(document["id"])
}

// submitSafely submits a document under an id made here, so that it can be sent
// again when the connection breaks before the answer: it is one job all the same.
func submitSafely(ctx context.Context, c *client.Client, document map[string]any) (apitype.Job, error) {
	identify(document)
	body, err := json.Marshal(document)
	if err != nil {
		return apitype.Job{}, err
	}
	for tries := 0; ; tries++ {
		job, err := c.Submit(ctx, body)
		if client.Kind(err) != client.KindLost || tries == 3 {
			return job, err
		}
	}
}

// ending is a final state with what is known of it, said once.
func ending(state, text string) string {
	text = printable(strings.TrimPrefix(text, state+": "))
	switch {
	case text == "":
		return state
	case strings.HasPrefix(text, state):
		return text
	}
	return state + ": " + text
}
