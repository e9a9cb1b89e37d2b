package transforms

import "maps"

// Masked stands in a document where a secret was that has been taken out.
const Masked = "***"

// MaxSecret is the length of one token, API key or value of a header, in bytes.
const MaxSecret = 1 << 13

// TakeSecrets takes the tokens, API keys and values of HTTP headers out of the
// document and leaves [Masked] in their places: what is left may be stored and
// shown. It refuses a document whose secrets had been taken out before, which is
// what somebody has who submits what he was shown.
func (f *JobFile) TakeSecrets() (Secrets, error) {
	var s Secrets
	put := func(to *map[string]string, field, name string, secret *string) error {
		switch *secret {
		case "":
			return nil
		case Masked:
			return inField(field, problem("%s only says that there was a secret; write it, or leave the field out", Masked))
		}
		if *to == nil {
			*to = make(map[string]string)
		}
		(*to)[name], *secret = *secret, Masked
		return nil
	}
	headers := func(field, name string, headers map[string]string) error {
		var kept map[string]string
		for key, value := range headers {
			if err := put(&kept, field+"."+key, key, &value); err != nil {
				return err
			}
			headers[key] = value
		}
		if kept != nil {
			if s.Headers == nil {
				s.Headers = make(map[string]map[string]string)
			}
			s.Headers[name] = kept
		}
		return nil
	}
	for i := range f.Girders {
		g := &f.Girders[i]
		if err := put(&s.Tokens, "girder.token", g.Name, &g.Token); err != nil {
			return s, err
		}
		if err := put(&s.APIKeys, "girder.api_key", g.Name, &g.APIKey); err != nil {
			return s, err
		}
		texts := textMap(g.Session["headers"])
		if err := headers("girder.session.headers", g.Name, texts); err != nil {
			return s, err
		}
		if len(texts) > 0 {
			g.Session = maps.Clone(g.Session)
			g.Session["headers"] = anyMap(texts)
		}
	}
	return s, f.eachPipe(func(field, name string, p *Pipe) error {
		if p.Headers == nil {
			return nil
		}
		p.Headers = maps.Clone(p.Headers)
		return headers(field+".headers", name, p.Headers)
	})
}

// withoutHeaders is a session as the plan has it.
func withoutHeaders(session map[string]any) map[string]any {
	if _, ok := session["headers"]; !ok {
		return session
	}
	rest := maps.Clone(session)
	if delete(rest, "headers"); len(rest) == 0 {
		return nil
	}
	return rest
}
