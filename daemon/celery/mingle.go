package celery

import (
	"maps"
	"slices"
	"time"

	"girderworker/transforms/jsonpickle"
)

// Revocation is a task that is not to be run any more.
type Revocation struct {
	ID string
	At time.Time // when it was revoked
}

// Hello is the command by which a starting worker asks its peers what it missed.
// It waits for answers until expires, usually a second.
func Hello(node string, revoked []Revocation, ticket string, replyTo Address, expires time.Time, clock *Clock) (Message, error) {
	return broadcast("hello", dict("from_node", node, "revoked", revocations(revoked)), ticket, replyTo, expires, clock)
}

// revocations are written as Celery's set of them is: {id: [time, id]}. Celery
// reads the time as its own monotonic clock, which no other machine knows. Seconds
// since 1970 are later than any of those: a peer forgets the oldest when it has
// too many, and never one too early.
func revocations(all []Revocation) *jsonpickle.Dict {
	d := &jsonpickle.Dict{}
	for _, r := range all[:min(len(all), maxListed)] {
		d.Members = append(d.Members, jsonpickle.Member{Key: r.ID, Value: &jsonpickle.List{Items: []jsonpickle.Value{unix(r.At), r.ID}}})
	}
	return d
}

// revokedIDs reads such a set, or a list of ids. What is no id is left out.
func revokedIDs(v any) (ids []string) {
	switch v := v.(type) {
	case map[string]any:
		ids = slices.Sorted(maps.Keys(v))
	case []any:
		for _, item := range v {
			if pair, ok := item.([]any); ok && len(pair) == 2 {
				item = pair[1]
			}
			if id, ok := item.(string); ok {
				ids = append(ids, id)
			}
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == "" || len(id) > maxID })
	return ids[:min(len(ids), maxRevoked)]
}

// maxRevoked is how many revocations of one message are looked at: as many as
// Celery keeps.
const maxRevoked = 50_000

// Peer is what another worker answered to Hello.
type Peer struct {
	Node    string
	Revoked []string
	Clock   int64
}

// QueryTask is the command by which a worker asks its peers which of these tasks they
// have.
func QueryTask(ids []string, ticket string, replyTo Address, expires time.Time, clock *Clock) (Message, error) {
	list := &jsonpickle.List{}
	for _, id := range ids {
		list.Items = append(list.Items, id)
	}
	return broadcast("query_task", dict("ids", list), ticket, replyTo, expires, clock)
}

// DecodeQueried reads a reply to QueryTask: by node, the ids of the tasks that it has
// begun or will.
func DecodeQueried(d Delivery) (map[string][]string, error) {
	dict, err := controlBody(d)
	if err != nil {
		return nil, err
	}
	found := map[string][]string{}
	for node, answer := range dict {
		tasks, ok := answer.(map[string]any)
		if !ok {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(tasks)) {
			if pair, ok := tasks[id].([]any); ok && len(pair) == 2 { // [state, task]; {"error": TEXT} is none
				found[node] = append(found[node], id)
			}
		}
	}
	return found, nil
}

// DecodePeers reads a reply to Hello. Normally it is one peer's.
func DecodePeers(d Delivery) ([]Peer, error) {
	dict, err := controlBody(d)
	if err != nil {
		return nil, err
	}
	var peers []Peer
	for _, node := range slices.Sorted(maps.Keys(dict)) {
		answer, ok := dict[node].(map[string]any)
		if !ok {
			continue // null: its own hello
		}
		clock, _ := answer["clock"].(int64)
		if _, failed := answer["error"]; failed {
			continue
		}
		peers = append(peers, Peer{Node: node, Revoked: revokedIDs(answer["revoked"]), Clock: clock})
	}
	return peers, nil
}
