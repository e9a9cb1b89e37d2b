package girdertest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

type user struct {
	id    string
	admin bool
}

type token struct {
	user    string // "": of nobody
	scopes  []string
	expires time.Time
}

// may reports whether a token has a scope.
func (t *token) may(scope string) bool {
	if t == nil {
		return false
	}
	return slices.Contains(t.scopes, scope) || scope != ScopeCreateJob && slices.Contains(t.scopes, scopeAll)
}

func (t *token) allowed() string {
	if t == nil {
		return ""
	}
	return strings.Join(t.scopes, ", ")
}

// AddUser makes a user and returns its id.
func (s *Server) AddUser(admin bool) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &user{id: s.newID(), admin: admin}
	s.users[u.id] = u
	return u.id
}

// AddToken makes a token of a user; without scopes it is one of a login, which may
// do everything. The transforms that Girder sends have ScopeRead and ScopeWrite.
func (s *Server) AddToken(userID string, scopes ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(scopes) == 0 {
		scopes = []string{scopeAll}
	}
	return s.newToken(userID, scopes)
}

func (s *Server) newToken(userID string, scopes []string) string {
	name := secret()
	s.tokens[name] = &token{user: userID, scopes: scopes, expires: s.config.Now().Add(7 * 24 * time.Hour)}
	return name
}

// RevokeToken makes a token unknown.
func (s *Server) RevokeToken(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, name)
}

// AddAPIKey makes an API key of a user.
func (s *Server) AddAPIKey(userID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := secret()[:40]
	s.keys[key] = userID
	return key
}

func (s *Server) postAPIKeyToken(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	userID, ok := s.keys[r.param("key")]
	if !ok {
		return nil, rest("Invalid API key.")
	}
	name := s.newToken(userID, []string{scopeAll})
	return map[string]any{
		"user":      map[string]any{"_id": userID},
		"authToken": map[string]any{"token": name, "expires": stamp(s.tokens[name].expires), "scope": s.tokens[name].scopes},
	}, nil
}

// authenticate finds out who asks. A token may come in the header or as a parameter.
func (s *Server) authenticate(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := r.Header.Get("Girder-Token")
	if name == "" {
		name = r.param("token")
	}
	if t := s.tokens[name]; t != nil && s.config.Now().Before(t.expires) {
		r.token, r.user = t, s.users[t.user]
	}
}

// as returns the user that a call with a scope acts for: nobody when the token does
// not have it, which public calls are content with.
func (r *request) as(scope string) *user {
	if r.token.may(scope) {
		return r.user
	}
	return nil
}

var errLogIn = denied(http.StatusUnauthorized, "You must be logged in or have a valid auth token.")

// mustBe is as for calls that need somebody.
func (r *request) mustBe(scope string) (*user, error) {
	switch {
	case r.token == nil || r.user == nil:
		return nil, errLogIn
	case !r.token.may(scope):
		return nil, denied(http.StatusUnauthorized, "Invalid token scope.\nRequired: %s.\nAllowed: %s", scope, r.token.allowed())
	}
	return r.user, nil
}
