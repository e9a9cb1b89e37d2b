package api

import "net/http"

type route struct {
	pattern string
	access  access
	handle  func(s *Server, w http.ResponseWriter, r *http.Request, c *call) error
}

// routes is the API: what can be asked, and by whom.
func routes() []route {
	return []route{
		{"GET /v1/version", anyone, (*Server).getVersion},
		{"GET /v1/status", bySubmitter, (*Server).getStatus},

		{"POST /v1/jobs", bySubmitter, (*Server).submit},
		{"POST /v1/calls", bySubmitter, (*Server).submitCall},
		{"GET /v1/jobs/{id}/result", byOwner, (*Server).jobResult},
		{"GET /v1/jobs", bySubmitter, (*Server).listJobs}, // one's own, but for an admin
		{"GET /v1/jobs/{id}", byOwner, (*Server).getJob},
		{"DELETE /v1/jobs/{id}", byOwner, (*Server).removeJob},
		{"POST /v1/jobs/{id}/cancel", byOwner, (*Server).cancelJob},
		{"POST /v1/jobs/{id}/hold", byOwner, (*Server).holdJob},
		{"POST /v1/jobs/{id}/release", byOwner, (*Server).releaseJob},
		{"POST /v1/jobs/{id}/retry", byOwner, (*Server).retryJob},
		{"GET /v1/jobs/{id}/why", byOwner, (*Server).whyJob},
		{"GET /v1/jobs/{id}/log", byOwner, (*Server).jobLog},
		{"GET /v1/jobs/{id}/wait", byOwner, (*Server).waitJob},
		{"GET /v1/events", bySubmitter, (*Server).events}, // of one's own jobs, but for an admin

		{"GET /v1/tasks", bySubmitter, (*Server).listTasks},
		{"GET /v1/tasks/{name}", bySubmitter, (*Server).getTask},

		{"GET /v1/images", bySubmitter, (*Server).listImages}, // everyone's and one's own
		{"POST /v1/images", bySubmitter, (*Server).importImage},
		{"DELETE /v1/images", bySubmitter, (*Server).removeImage}, // one's own, but for an admin
		{"POST /v1/images/pull", bySubmitter, (*Server).pullImage},
		{"POST /v1/images/pin", byAdmin, (*Server).pinImage},
		{"POST /v1/images/unpin", byAdmin, (*Server).unpinImage},
		{"POST /v1/images/prune", byAdmin, (*Server).pruneImages},
		{"POST /v1/images/verify", bySubmitter, (*Server).verifyImage},

		{"POST /v1/pause", byAdmin, (*Server).pause},
		{"POST /v1/resume", byAdmin, (*Server).resume},
		{"POST /v1/drain", byAdmin, (*Server).drain},
		{"GET /v1/backup", byAdmin, (*Server).backup},
	}
}
