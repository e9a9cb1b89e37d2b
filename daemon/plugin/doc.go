// Package plugin finds the tasks of this machine: what can be asked for by a name,
// over the socket, on the command line and by Girder through Celery. A task is a
// description and a way to make a job document of a call; what is asked in a
// document is judged, queued and run as if a person had written it.
//
// The [Registry] has the tasks of all sources. A source finds its tasks, here the
// files of a directory, and hands them over as a whole when they have changed.
package plugin
