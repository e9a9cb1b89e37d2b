package attempt

import "time"

// Discovery asks an interpreter for the tasks of its packages. The monitor adds
// whom they are imported as.
type Discovery struct {
	Interpreter string `json:"interpreter"`
	UID         int    `json:"uid"` // also the group
	// Path and Enabled are plugin_load_path and plugins_enabled, AppMain app_main.
	Path    []string `json:"path,omitempty"`
	Enabled []string `json:"enabled,omitempty"`
	AppMain string   `json:"app_main,omitempty"`
	// Skip are plugins that hung or died before, and are not imported again.
	Skip []string `json:"skip,omitempty"`
	// Time is how long all imports may take together.
	Time time.Duration `json:"time"`
}

// DiscoveryAnswer is what came of it. Lines are what the packages said, which is
// foreign: one JSON object a line, the last one cut off where they died.
type DiscoveryAnswer struct {
	Lines string `json:"lines"`
	// Ended says how the interpreter ended, if not well, and Output is the tail of
	// what it printed.
	Ended  string `json:"ended,omitempty"`
	Output string `json:"output,omitempty"`
}
