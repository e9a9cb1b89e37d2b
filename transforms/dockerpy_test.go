package transforms

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"girderworker/sandbox"
)

// TestDockerKeywords holds the table against the names that docker-py has.
func TestDockerKeywords(t *testing.T) {
	names, err := os.ReadFile("testdata/docker-py-keywords.txt")
	if err != nil {
		t.Fatal(err)
	}
	table := dockerKeywords()
	for _, name := range strings.Fields(string(names)) {
		k, ok := table[name]
		switch {
		case !ok:
			t.Errorf("%s is not in the table", name)
		case (k.fate == refused || k.fate == pointless) && k.why == "":
			t.Errorf("%s is %s without a reason", name, k.fate)
		case (k.apply == nil) != (k.fate == pointless || k.fate == elsewhere):
			t.Errorf("%s is %s and has the wrong function", name, k.fate)
		}
		delete(table, name)
	}
	for name := range table {
		t.Errorf("%s is in the table and no keyword of docker-py", name)
	}
}

type pyList = []any
type pyDict = map[string]any

func TestDockerOptions(t *testing.T) {
	for _, c := range []struct {
		options pyDict
		want    JobFile // beside the network
	}{
		{pyDict{"environment": pyDict{"A": "1", "B": int64(2), "C": 2.5, "D": true, "E": nil}}, JobFile{Env: map[string]string{"A": "1", "B": "2", "C": "2.5", "D": "True"}}},
		{pyDict{"environment": pyList{"A=1=2", "UNSET"}}, JobFile{Env: map[string]string{"A": "1=2"}}},
		{pyDict{"working_dir": "/w", "user": int64(1000), "hostname": "h", "domainname": "lab.example", "name": "n"},
			JobFile{WorkDir: "/w", User: "1000", Hostname: "h", Name: "n", Options: Options{Domainname: "lab.example"}}},
		{pyDict{"group_add": pyList{"video", int64(44)}, "labels": pyList{"a"}, "init": true, "read_only": true, "stop_signal": "SIGINT"},
			JobFile{ReadOnly: true, StopSignal: 2, Options: Options{GroupAdd: []string{"video", "44"}, Labels: map[string]string{"a": ""}, Init: true}}},
		{pyDict{"labels": pyDict{"a": "b"}}, JobFile{Options: Options{Labels: map[string]string{"a": "b"}}}},
		{pyDict{"tmpfs": pyDict{"/t": "size=3m,mode=700,exec", "/u": ""}},
			JobFile{Options: Options{Tmpfs: []Tmpfs{{Target: "/t", Size: 3 << 20, Mode: 0o700, Exec: true}, {Target: "/u"}}}}},
		{pyDict{"tmpfs": pyList{"/t:size=1g"}}, JobFile{Options: Options{Tmpfs: []Tmpfs{{Target: "/t", Size: 1 << 30}}}}},
		{pyDict{"mounts": pyList{
			pyDict{"Target": "/in", "Source": "/data", "Type": "bind", "ReadOnly": true},
			pyDict{"Target": "/t", "Source": nil, "Type": "tmpfs", "ReadOnly": false, "TmpfsOptions": pyDict{"SizeBytes": int64(1 << 20), "Mode": int64(0o755)}}}},
			JobFile{Binds: []Bind{{Source: "/data", Target: "/in", ReadOnly: true}}, Options: Options{Tmpfs: []Tmpfs{{Target: "/t", Size: 1 << 20, Mode: 0o755}}}}},
		{pyDict{"ulimits": pyList{pyDict{"Name": "NOFILE", "Soft": int64(10), "Hard": int64(20)}, pyDict{"name": "core", "soft": int64(-1), "hard": int64(-1)}}},
			JobFile{Options: Options{Ulimits: []Ulimit{{"nofile", 10, 20}, {"core", -1, -1}}}}},
		{pyDict{"sysctls": pyDict{"net.core.somaxconn": int64(512)}}, JobFile{Options: Options{Sysctls: map[string]string{"net.core.somaxconn": "512"}}}},
		{pyDict{"mem_limit": "64m", "memswap_limit": int64(96 << 20), "mem_reservation": "32m", "shm_size": int64(1 << 20)},
			JobFile{Resources: Resources{Memory: 64 << 20, Swap: 32 << 20, Reservation: 32 << 20, Shm: 1 << 20}}},
		{pyDict{"mem_limit": int64(0), "pids_limit": int64(-1), "memswap_limit": nil}, JobFile{}},
		{pyDict{"nano_cpus": int64(1_500_000_000), "cpu_shares": int64(512), "cpuset_cpus": "0-1", "cpuset_mems": "0", "pids_limit": int64(50)},
			JobFile{Resources: Resources{CPUs: 1.5, CPUShares: 512, CPUSet: "0-1", MemorySet: "0", PIDs: 50}}},
		{pyDict{"cpu_quota": int64(50_000)}, JobFile{Resources: Resources{CPUs: 0.5}}},
		{pyDict{"cpu_quota": int64(50_000), "cpu_period": int64(25_000)}, JobFile{Resources: Resources{CPUs: 2}}},
		{pyDict{"storage_opt": pyDict{"size": "10G"}, "oom_score_adj": int64(700)}, JobFile{Resources: Resources{Scratch: 10 << 30}, Options: Options{OOMScoreAdj: 700}}},
		{pyDict{"cap_add": pyList{"SYS_PTRACE", "cap_net_raw"}, "cap_drop": pyList{"all"}, "security_opt": pyList{"seccomp=unconfined", "no-new-privileges"}},
			JobFile{Options: Options{CapAdd: []string{"CAP_SYS_PTRACE", "CAP_NET_RAW"}, CapDrop: []string{"ALL"}, Seccomp: sandbox.SeccompUnconfined}}},
		{pyDict{"devices": pyList{"/dev/fuse:/dev/f:rw", "/dev/kvm", pyDict{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}}},
			JobFile{Options: Options{Devices: []Device{{"/dev/fuse", "/dev/f", "rw"}, {Source: "/dev/kvm"}, {"/dev/a", "/dev/b", "r"}}}}},
		{pyDict{"extra_hosts": pyDict{"girder": "10.0.0.2"}, "dns": pyList{"10.0.0.1"}},
			JobFile{ExtraHosts: []sandbox.HostEntry{{Name: "girder", Address: "10.0.0.2"}}, DNS: []string{"10.0.0.1"}}},
		{pyDict{"device_requests": pyList{pyDict{"Driver": "", "Count": int64(2), "DeviceIDs": nil, "Capabilities": pyList{pyList{"gpu"}}}}}, JobFile{Resources: Resources{GPUs: 2}}},
		{pyDict{"device_requests": pyList{pyDict{"Driver": "nvidia", "Count": int64(-1), "Capabilities": pyList{pyList{"tpu"}, pyList{"gpu", "compute"}}}}}, JobFile{Resources: Resources{GPUs: AllGPUs}}},
		{pyDict{"device_requests": pyList{pyDict{"Count": int64(0), "DeviceIDs": pyList{"0", "GPU-5b1c"}}, pyDict{"Driver": "cdi", "DeviceIDs": pyList{"nvidia.com/gpu=2", "0"}}}},
			JobFile{Resources: Resources{GPUs: 3, Devices: "0,GPU-5b1c,nvidia.com/gpu=2"}}},
		{pyDict{"device_requests": pyList{pyDict{"DeviceIDs": pyList{int64(1)}}, pyDict{"DeviceIDs": pyList{"all"}}, pyDict{"Count": int64(1)}}}, JobFile{Resources: Resources{GPUs: AllGPUs}}},
		{pyDict{"runtime": "nvidia"}, JobFile{Resources: Resources{GPUs: 1}}},
		{pyDict{"runtime": "nvidia", "environment": pyDict{"NVIDIA_VISIBLE_DEVICES": "all"}}, JobFile{Env: map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}, Resources: Resources{GPUs: AllGPUs}}},
		{pyDict{"runtime": "nvidia", "environment": pyList{"NVIDIA_VISIBLE_DEVICES=1,0"}}, JobFile{Env: map[string]string{"NVIDIA_VISIBLE_DEVICES": "1,0"}, Resources: Resources{GPUs: 2, Devices: "1,0"}}},
		{pyDict{"runtime": "nvidia", "environment": pyList{"NVIDIA_VISIBLE_DEVICES=void"}}, JobFile{Env: map[string]string{"NVIDIA_VISIBLE_DEVICES": "void"}}},
		{pyDict{"runtime": "nvidia", "device_requests": pyList{pyDict{"Count": int64(2)}}}, JobFile{Resources: Resources{GPUs: 2}}},
		{pyDict{"network": "none"}, JobFile{Network: sandbox.NetworkNone}},
		{pyDict{"network_mode": "host"}, JobFile{Network: sandbox.NetworkHost}},
		{pyDict{"network_mode": "bridge"}, JobFile{}},
		{pyDict{"network_disabled": true}, JobFile{Network: sandbox.NetworkNone}},
		// What asks for nothing is taken, whatever the keyword.
		{pyDict{"privileged": false, "pid_mode": nil, "ipc_mode": "private", "restart_policy": pyDict{"Name": "no"}, "ports": pyDict{}, "links": nil,
			"mem_swappiness": nil, "healthcheck": pyDict{"test": pyList{"NONE"}}, "log_config": pyDict{"Type": "json-file", "Config": pyDict{}}}, JobFile{}},
		{pyDict{"detach": true, "tty": true, "remove": false, "stdout": true, "version": "1.41"}, JobFile{}},
	} {
		var got JobFile
		if err := got.applyDockerOptions(c.options); err != nil {
			t.Errorf("%v: %v", c.options, err)
			continue
		}
		if c.want.Network == "" {
			c.want.Network = sandbox.NetworkPrivate
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v:\ngot  %+v\nwant %+v", c.options, got, c.want)
		}
	}
}

func TestDockerOptionsRefused(t *testing.T) {
	for _, c := range []struct {
		options     pyDict
		field, text string
	}{
		{pyDict{"no_such": int64(1)}, "no_such", "unexpected keyword argument 'no_such'"},
		{pyDict{"image": "a"}, "image", "unexpected keyword argument"},
		{pyDict{"privileged": true}, "privileged", "no job is root on this machine"},
		{pyDict{"pid_mode": "host"}, "pid_mode", "processes of others"},
		{pyDict{"ipc_mode": "host"}, "ipc_mode", "System V"},
		{pyDict{"uts_mode": "host"}, "uts_mode", "host name"},
		{pyDict{"userns_mode": "host"}, "userns_mode", "never root"},
		{pyDict{"cgroup_parent": "/"}, "cgroup_parent", "control group"},
		{pyDict{"volumes_from": pyList{"c"}}, "volumes_from", "bind a directory"},
		{pyDict{"ports": pyDict{"80/tcp": int64(8080)}}, "ports", "no server"},
		{pyDict{"restart_policy": pyDict{"Name": "always"}}, "restart_policy", "retries"},
		{pyDict{"oom_kill_disable": true}, "oom_kill_disable", "not hang"},
		{pyDict{"mem_swappiness": int64(60)}, "mem_swappiness", "memswap_limit"},
		{pyDict{"log_config": pyDict{"Type": "syslog"}}, "log_config", "job's log"},
		{pyDict{"healthcheck": pyDict{"test": pyList{"CMD", "x"}}}, "healthcheck", "health"},
		{pyDict{"network": "labnet"}, "network", "named networks"},
		{pyDict{"network_mode": "container:abc"}, "network_mode", "do not share"},
		{pyDict{"network": "none", "network_mode": "none"}, "network_mode", "can not be used together"},
		{pyDict{"runtime": "kata"}, "runtime", "one runtime"},
		{pyDict{"device_requests": pyList{pyDict{"Driver": "amd", "Count": int64(1)}}}, "device_requests", `the driver "amd" is not there`},
		{pyDict{"device_requests": pyList{pyDict{"Count": int64(1), "Capabilities": pyList{pyList{"tpu"}}}}}, "device_requests", `capability "tpu"`},
		{pyDict{"device_requests": pyList{pyDict{"Count": int64(1), "Options": pyDict{"a": "b"}}}}, "device_requests", "Options"},
		{pyDict{"device_requests": pyList{pyDict{"Count": int64(-1), "DeviceIDs": pyList{"0"}}}}, "device_requests", "exclude each other"},
		{pyDict{"device_requests": pyList{pyDict{"Count": int64(0)}}}, "device_requests", "a Count from 1"},
		{pyDict{"device_requests": pyList{pyDict{"DeviceIDs": pyList{"/dev/sda"}}}}, "device_requests", "no name of a GPU"},
		{pyDict{"device_requests": pyList{pyDict{"Count": int64(1)}, pyDict{"DeviceIDs": pyList{"0"}}}}, "device_requests", "some requests give names"},
		{pyDict{"runtime": "nvidia", "environment": pyList{"NVIDIA_VISIBLE_DEVICES=/dev/sda"}}, "environment", "no name of a GPU"},
		{pyDict{"dns": pyList{"girder"}}, "dns", "no IP address"},
		{pyDict{"extra_hosts": pyDict{"girder": "x"}}, "extra_hosts", "no IP address"},
		{pyDict{"mem_limit": "lots"}, "mem_limit", "not a size"},
		{pyDict{"mem_limit": pyList{}}, "mem_limit", "a list where"},
		{pyDict{"mem_limit": int64(-1)}, "mem_limit", "not between"},
		{pyDict{"memswap_limit": int64(-1)}, "memswap_limit", "without end"},
		{pyDict{"memswap_limit": "1g"}, "memswap_limit", "needs mem_limit"},
		{pyDict{"memswap_limit": "1g", "mem_limit": "2g"}, "memswap_limit", "less than mem_limit"},
		{pyDict{"nano_cpus": int64(1e9), "cpu_quota": int64(5000)}, "nano_cpus", "together"},
		{pyDict{"cpu_quota": int64(1)}, "cpu_quota", "no less than"},
		{pyDict{"cpuset_cpus": "a"}, "cpuset_cpus", "no list of numbers"},
		{pyDict{"cap_add": pyList{"FLY"}}, "cap_add", "no capability"},
		{pyDict{"cap_add": pyList{"ALL"}}, "cap_add", "name the capabilities"},
		{pyDict{"security_opt": pyList{"seccomp={}"}}, "security_opt", "not supported"},
		{pyDict{"security_opt": pyList{"no-new-privileges=false"}}, "security_opt", "not supported"},
		{pyDict{"sysctls": pyDict{"kernel.panic": "1"}}, "sysctls", "whole machine"},
		{pyDict{"ulimits": pyList{pyDict{"Name": "fish", "Soft": int64(1)}}}, "ulimits", "no resource limit"},
		{pyDict{"ulimits": pyList{pyDict{"Name": "core", "Soft": int64(2), "Hard": int64(1)}}}, "ulimits", "larger than the hard"},
		{pyDict{"tmpfs": pyDict{"/t": "uid=0"}}, "tmpfs", "not supported"},
		{pyDict{"tmpfs": pyDict{"/proc": ""}}, "tmpfs", "container's own"},
		{pyDict{"mounts": pyList{pyDict{"Target": "/t", "Type": "volume", "Source": "v"}}}, "mounts", "no named volumes"},
		{pyDict{"mounts": pyList{pyDict{"Target": "t", "Type": "tmpfs"}}}, "mounts", "absolute"},
		{pyDict{"devices": pyList{"/etc/passwd"}}, "devices", "below /dev"},
		{pyDict{"devices": pyList{"/dev/a:/dev/../etc/b"}}, "devices", "clean"},
		{pyDict{"environment": pyDict{"A=B": "1"}}, "environment", "no name of a variable"},
		{pyDict{"environment": pyDict{"A": pyList{}}}, "environment", "a list where"},
		{pyDict{"user": "a b"}, "user", "not NAME"},
		{pyDict{"working_dir": "w"}, "working_dir", "absolute"},
		{pyDict{"hostname": "_"}, "hostname", "host name"},
		{pyDict{"platform": "windows/amd64"}, "platform", "emulates no other"},
		{pyDict{"oom_score_adj": int64(-500)}, "oom_score_adj", "not between"},
		{pyDict{"stop_signal": "SIGFISH"}, "stop_signal", "no signal"},
		{pyDict{"init": "yes"}, "init", "True or False"},
	} {
		err := new(JobFile).applyDockerOptions(c.options)
		var e *DocumentError
		if !errors.As(err, &e) || e.Field != c.field || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: %v, want %s: …%s…", c.options, err, c.field, c.text)
		}
	}
}
