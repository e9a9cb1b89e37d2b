package transforms

import (
	"bytes"
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"girderworker/sandbox"
)

// TellFunction lets a function know of the Girder that it may call in its caller's
// name, and of its request, by the names that Celery has for its parts.
func (f *JobFile) TellFunction(apiURL, token string, request map[string]any) error {
	if apiURL == "" && token == "" && len(request) == 0 {
		return nil
	}
	var call PythonCall
	if err := json.Unmarshal(f.Function, &call); err != nil {
		return inField("args", problem("cannot read them again"))
	}
	maps.Copy(call.Request, request)
	if apiURL != "" || token != "" {
		call.Request["girder_api_url"], call.Request["girder_client_token"] = apiURL, token
		if f.Network == "" {
			f.Network = sandbox.NetworkPrivate
		}
	}
	var err error
	f.Function, err = json.Marshal(call)
	return err
}

// MoveGirders has change say where each server is that the call names: the one that
// the function may call, which comes first, and those of its transforms.
func (c *PythonCall) MoveGirders(change func(api string) string) error {
	moved := func(api string) string {
		if end := strings.TrimRight(api, "/"); end != "" {
			return change(end) + api[len(end):]
		}
		return api
	}
	if api, ok := c.Request["girder_api_url"].(string); ok {
		c.Request["girder_api_url"] = moved(api)
	}
	parts := []*json.RawMessage{&c.Kwargs}
	for i := range c.Args {
		parts = append(parts, &c.Args[i])
	}
	for i := range c.Hooks {
		parts = append(parts, &c.Hooks[i])
	}
	for _, part := range parts {
		if !bytes.Contains(*part, []byte(`"girder_client.`+classClient+`"`)) {
			continue
		}
		var v any
		dec := json.NewDecoder(bytes.NewReader(*part))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			return problem("cannot read the arguments again")
		}
		moveClients(v, moved)
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		*part = data
	}
	return nil
}

// moveClients looks for clients in what jsonpickle has written, whose depth was bounded
// when it was read.
func moveClients(v any, moved func(string) string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			moveClients(e, moved)
		}
	case map[string]any:
		if v["py/object"] == "girder_client."+classClient {
			for _, attrs := range []any{v, v["py/state"]} {
				if m, ok := attrs.(map[string]any); ok {
					if base, ok := m["urlBase"].(string); ok {
						m["urlBase"] = moved(base)
					}
				}
			}
			return
		}
		for _, e := range v {
			moveClients(e, moved)
		}
	}
}

// FromContainer is the address of a server as a container with a private network
// reaches it, whose localhost is its own, and the service that it is. The service is
// empty where the address is no URL.
func FromContainer(api string) (inside, service string) {
	u, err := url.Parse(api)
	if err != nil || u.Hostname() == "" {
		return api, ""
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	addr, err := netip.ParseAddr(host)
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") || err == nil && addr.Unmap().IsLoopback() {
		u.Host = net.JoinHostPort(sandbox.HostNames[0], port)
		return u.String(), net.JoinHostPort(host, port)
	}
	return api, net.JoinHostPort(host, port)
}
